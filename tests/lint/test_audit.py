"""`nox -s audit`: what its exit status says of the locked packages, with other programs for pip-audit and npm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP_AUDIT = """#!/bin/sh
for option; do
    case $option in --output=*) [ -z "$OF_PIP" ] || printf %s "$OF_PIP" >"${option#*=}" ;; esac
done
exit 1
"""
NPM = '#!/bin/sh\nprintf %s "$OF_NPM"\n'
PIP_WELL = '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}'
PIP_UNKNOWN = '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}'
PIP_VULNERABLE = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}]}'
NPM_WELL = '{"vulnerabilities": {}}'
NPM_VULNERABLE = '{"vulnerabilities": {"b": {"severity": "high"}}}'
NPM_ERROR = '{"error": {"code": "ENOAUDIT"}}'


def audit(folder: Path, of_pip: str, of_npm: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the audit with programs that answer ``of_pip`` and ``of_npm``; empty: not at all."""
    for name, text in (("pip-audit", PIP_AUDIT), ("npm", NPM)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "OF_PIP": of_pip, "OF_NPM": of_npm}
    command = (sys.executable, "scripts/audit.py", *options)
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("of_pip", "of_npm", "status", "tolerated", "line"),
    [
        (PIP_WELL, NPM_WELL, 0, 0, "0 vulnerable packages, 0 lock files without an answer"),
        ("", "", 1, 0, "requirements/tools.txt: no feed of vulnerabilities answers"),
        (PIP_UNKNOWN, NPM_WELL, 1, 0, "requirements/tools.txt: no feed of vulnerabilities answers"),
        (PIP_WELL, NPM_ERROR, 1, 0, "package-lock.json: no feed of vulnerabilities answers"),
        (PIP_VULNERABLE, "", 1, 1, "requirements/tools.txt: a 1: PYSEC-1"),
        ("", NPM_VULNERABLE, 1, 1, "package-lock.json: b: high"),
    ],
)
def test_an_audit_fails_unless_all_is_known_to_be_well(
    tmp_path: Path, of_pip: str, of_npm: str, status: int, tolerated: int, line: str
) -> None:
    """A vulnerable package always fails it; a feed that doesn't answer does without `unanswered-ok`."""
    for options, expected in (((), status), (("unanswered-ok",), tolerated)):
        done = audit(tmp_path, of_pip, of_npm, *options)
        assert done.returncode == expected, done.stderr
        assert line in done.stdout
