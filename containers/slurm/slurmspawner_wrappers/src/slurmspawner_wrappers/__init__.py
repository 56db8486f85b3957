"""Slurm commands without arguments, for a service account that may run just these by sudo."""

import os
import re
import sys
from typing import NoReturn

__version__ = "0.1.0"

JOB_ID_VARIABLE = "SLURMSPAWNER_JOB_ID"
# Together they are one argument of squeue, which Linux limits to 128 KiB; a number takes 11 bytes of it at most.
MOST_JOBS = 5000


def sbatch() -> NoReturn:
    """Submit the batch script on standard input; prints the job id, with `;` and the cluster if there are several."""
    _exec("/usr/bin/sbatch", "--parsable")


def squeue() -> NoReturn:
    """Print state and batch host of the job in SLURMSPAWNER_JOB_ID."""
    _exec("/usr/bin/squeue", "-h", "-j", _job_id(), "-o", "%T %B")


def squeue_many() -> NoReturn:
    """Print `number|user|state|batch host|reason` of the jobs whose numbers, one a line, are on standard input."""
    read = sys.stdin.buffer.read(22 * MOST_JOBS + 1).split()
    jobs = [word.decode("ascii", "replace") for word in read]
    if not 0 < len(jobs) <= MOST_JOBS or not all(map(_is_job_id, jobs)):
        _fail(1, f"standard input is not 1 to {MOST_JOBS} job ids")
    _exec("/usr/bin/squeue", "-h", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%u|%T|%B|%r")


def scancel() -> NoReturn:
    """Cancel the job in SLURMSPAWNER_JOB_ID."""
    _exec("/usr/bin/scancel", _job_id())


def _job_id() -> str:
    job_id = os.environ.get(JOB_ID_VARIABLE, "")
    if not _is_job_id(job_id):
        _fail(1, f"{JOB_ID_VARIABLE} is not a job id")
    return job_id


def _is_job_id(text: str) -> bool:
    # Slurm cuts a number to 32 bits, and its two highest mean no job and all jobs.
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and 0 < int(text) < 2**32 - 2


def _exec(*command: str) -> NoReturn:
    """Become `command`; its exit status is then this process's own."""
    if len(sys.argv) > 1:
        _fail(2, "takes no arguments")
    try:
        os.execv(command[0], command)
    except OSError as error:
        _fail(127, f"{command[0]}: {error.strerror}")


def _fail(status: int, message: str) -> NoReturn:
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(status)
