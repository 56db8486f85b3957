"""The page about faults, beside the tests that it is about."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_fault() -> None:
    """docs/faults.md has a row for each fault that is tried, and no other: sixteen."""
    table = (ROOT / "docs/faults.md").read_text().partition("## More faults")[0]
    rows = re.findall(r"^\| `(test_\w+(?:\[\w+\])?)` \|", table, re.M)
    source = (ROOT / "tests/integration/test_fault_table.py").read_text()
    killed = [f"test_a_program_killed[{name}]" for name in re.findall(r'id="(\w+)"', source)]
    tried = {*re.findall(r"^def (test_\w+)", source, re.M), *killed} - {"test_a_program_killed"}
    assert sorted(rows) == sorted(tried)
    assert len(rows) == 16


def test_more_faults_have_a_test() -> None:
    """Each row of the second table names a test, or a file of tests, that there is."""
    table = (ROOT / "docs/faults.md").read_text().partition("## More faults")[2]
    rows = re.findall(r"^\| `(test_\w+)(?:\.py)?` \|", table, re.M)
    folders = ("tests/integration", "containers/jupyterhub/bricsauthenticator/tests")
    files = [file for folder in folders for file in (ROOT / folder).glob("test_*.py")]
    tests = {file.stem for file in files}
    for file in files:
        tests.update(re.findall(r"^def (test_\w+)", file.read_text(), re.M))
    assert rows
    assert set(rows) <= tests
