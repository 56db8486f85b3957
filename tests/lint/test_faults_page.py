"""The page about faults, beside the tests that it is about."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_fault() -> None:
    """docs/faults.md has a row for each fault that is tried, and no other: sixteen."""
    rows = re.findall(r"^\| `(test_\w+(?:\[\w+\])?)` \|", (ROOT / "docs/faults.md").read_text(), re.M)
    source = (ROOT / "tests/integration/test_fault_table.py").read_text()
    killed = [f"test_a_program_killed[{name}]" for name in re.findall(r'id="(\w+)"', source)]
    tried = {*re.findall(r"^def (test_\w+)", source, re.M), *killed} - {"test_a_program_killed"}
    assert sorted(rows) == sorted(tried)
    assert len(rows) == 16
