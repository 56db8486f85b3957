"""The page about attacks, beside the tests that it is about."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_attack_has_its_tests() -> None:
    """Each row of docs/security.md's table names a test that there is, or a file of tests."""
    page = (ROOT / "docs/security.md").read_text().partition("## Attacks and results")[2].partition("## ")[0]
    attacks = [row.strip("| ").rsplit(" | ", 1)[1] for row in page.splitlines() if row.startswith("| ")][1:]
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "containers").glob("*/*/tests/test_*.py")]
    source = "\n".join(path.read_text() for path in files)
    assert len(attacks) > 30
    for tests in attacks:
        names = re.findall(r"`(test_\w+)`", tests)
        assert names or re.search(r"test_\w+\.py|^the same$", tests), tests
        assert [name for name in names if f"def {name}(" not in source] == []
        assert {*re.findall(r"test_\w+\.py", tests)} <= {path.name for path in files}
