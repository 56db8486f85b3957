"""Look for known vulnerabilities of all locked packages. `nox -s audit` runs this beside pip-audit.

With the argument `unanswered-ok` it ends well even if no feed of vulnerabilities answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Print the vulnerable packages and the locks without an answer, and return the exit status."""
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    locks = [file for file in files if file.suffix == ".txt" and "--hash=" in file.read_text()]
    packages = [file for file in files if file.name == "package-lock.json"]
    vulnerable: list[str] = []
    unanswered: list[str] = []
    for file, audit in [(file, pip_audit) for file in locks] + [(file, npm_audit) for file in packages]:
        name = file.relative_to(ROOT)
        found, is_complete = audit(file)
        vulnerable += [f"{name}: {item}" for item in found]
        if not is_complete:
            unanswered.append(f"{name}: no feed of vulnerabilities answers for all that is in it")
    for line in (*vulnerable, *unanswered):
        print(line)
    print(f"{len(vulnerable)} vulnerable packages, {len(unanswered)} lock files without an answer")
    return int(bool(vulnerable) or (bool(unanswered) and "unanswered-ok" not in arguments))


def pip_audit(lock: Path) -> tuple[list[str], bool]:
    """Return the vulnerable packages in a lock file of Python, and whether the feed knows all packages in it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "audit.json"
        options = ("--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json")
        argv = ("pip-audit", *options, f"--output={report}", f"--requirement={lock}")
        # Its exit status is 1 if some are vulnerable, and if the feed doesn't answer.
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        items = json.loads(report.read_text())["dependencies"] if report.exists() else []
    vulnerable = [
        f"{item['name']} {item['version']}: {', '.join(one['id'] for one in item['vulns'])}"
        for item in items
        if item.get("vulns")
    ]
    # A mirror that has no advisories doesn't know the package, which pip-audit passes over.
    return vulnerable, bool(items) and not any("skip_reason" in item for item in items)


def npm_audit(lock: Path) -> tuple[list[str], bool]:
    """Return the same of a lock file of npm."""
    argv = ("npm", "audit", "--package-lock-only", "--json")
    answer = subprocess.run(argv, cwd=lock.parent, capture_output=True, check=False).stdout
    report = json.loads(answer or "{}").get("vulnerabilities")
    return [f"{name}: {item['severity']}" for name, item in (report or {}).items()], report is not None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
