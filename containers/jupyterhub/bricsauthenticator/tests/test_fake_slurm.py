"""The stand-in for Slurm gives every job a number of its own, as Slurm does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import until

TESTS = Path(__file__).parent


def test_many_at_once(tmp_path: Path) -> None:
    """Jobs that are submitted at the same moment have different numbers, and none overwrites another's script."""
    sbatch = [sys.executable, str(TESTS / "fake_slurm.py"), str(tmp_path), "sbatch"]
    environment = {**os.environ, "FAKE_USER": "alice.p1"}
    submissions = [
        subprocess.Popen(sbatch, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(12)
    ]
    for submission in submissions:
        submission.stdin.write(b"exec sleep 60\n")
    # Each waits for the end of its script, which comes when all are running.
    until(lambda: (tmp_path / "calls").exists() and (tmp_path / "calls").read_text().count("sbatch") == 12)
    for submission in submissions:
        submission.stdin.close()
    try:
        numbers = [int(submission.stdout.read().split(b";")[0]) for submission in submissions]
        assert sorted(numbers) == list(range(1, 13))
    finally:
        for submission in submissions:
            submission.stdout.close()
            submission.wait()
        for pid in tmp_path.glob("*.pid"):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
