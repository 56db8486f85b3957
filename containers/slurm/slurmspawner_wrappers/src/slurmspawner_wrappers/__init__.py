"""Slurm commands without arguments, for a service account that may run just these by sudo."""

import contextlib
import os
import re
import signal
import sys
from typing import NoReturn

__version__ = "0.1.0"

JOB_ID_VARIABLE = "SLURMSPAWNER_JOB_ID"
# Together they are one argument of squeue, which Linux limits to 128 KiB; a number takes 11 bytes of it at most.
MOST_JOBS = 5000
BIN_FILE = "/etc/slurmspawner_wrappers"
"""File whose one line is the folder of Slurm's commands, where that isn't DEFAULT_BIN. Only root may change it."""

DEFAULT_BIN = "/usr/bin"

TIME_LIMIT = 50
"""Seconds after which a command is killed. Less than the hub's limit: the hub can't end what it started over SSH."""

_ENDING = (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def sbatch() -> NoReturn:
    """Submit the batch script on standard input; prints the job id, with `;` and the cluster if there are several."""
    _exec("sbatch", "--parsable")


def squeue() -> NoReturn:
    """Print state and batch host of the job in SLURMSPAWNER_JOB_ID."""
    _exec("squeue", "-h", "-j", _job_id(), "-o", "%T %B")


def squeue_many() -> NoReturn:
    """Print `number|user|state|batch host|reason|start` of the jobs whose numbers, one a line, are on standard input.

    `start` is when a job started or, if it waits, when Slurm expects it to; in UTC.
    """
    read = sys.stdin.buffer.read(22 * MOST_JOBS + 1).split()
    jobs = [word.decode("ascii", "replace") for word in read]
    if not 0 < len(jobs) <= MOST_JOBS or not all(map(_is_job_id, jobs)):
        _fail(1, f"standard input is not 1 to {MOST_JOBS} job ids")
    os.environ.update(TZ="UTC", SLURM_TIME_FORMAT="standard")
    _exec("squeue", "-h", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%u|%T|%B|%r|%S")


def scancel() -> NoReturn:
    """Cancel the job in SLURMSPAWNER_JOB_ID."""
    _exec("scancel", _job_id())


def _job_id() -> str:
    job_id = os.environ.get(JOB_ID_VARIABLE, "")
    if not _is_job_id(job_id):
        _fail(1, f"{JOB_ID_VARIABLE} is not a job id")
    return job_id


def _is_job_id(text: str) -> bool:
    # Slurm cuts a number to 32 bits, and its two highest mean no job and all jobs.
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and 0 < int(text) < 2**32 - 2


def _slurm_bin() -> str:
    """Return the folder of Slurm's commands. It isn't in a variable, because sudo's caller could set that."""
    try:
        with open(BIN_FILE) as file:
            status = os.fstat(file.fileno())
            if status.st_uid != 0 or status.st_mode & 0o022:
                _fail(1, f"{BIN_FILE} must belong to root, and nobody else may be able to write to it")
            folder = file.read().strip()
    except FileNotFoundError:
        return DEFAULT_BIN
    except OSError as error:
        _fail(1, f"{BIN_FILE}: {error.strerror}")
    if not re.fullmatch(r"/[^\n]*", folder):
        _fail(1, f"{BIN_FILE} must hold one line, an absolute path like /opt/slurm/bin")
    return folder


def _exec(name: str, *arguments: str) -> NoReturn:
    """Run the Slurm command `name` for TIME_LIMIT at most, with all that it starts, and exit as it does."""
    if len(sys.argv) > 1:
        _fail(2, "takes no arguments")
    path = f"{_slurm_bin()}/{name}"
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until both processes are ready for one
    if child := os.fork():
        _end_in_time(child)
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        os.execv(path, [path, *arguments])
    except OSError as error:
        _fail(127, f"{path}: {error.strerror}")


def _end_in_time(child: int) -> NoReturn:
    """Exit as `child` does. It is killed, with its process group, at TIME_LIMIT or when this process is to end."""

    def kill(number: int, frame: object) -> None:
        if number == signal.SIGALRM:
            print(f"{os.path.basename(sys.argv[0])}: no answer in {TIME_LIMIT} s", file=sys.stderr, flush=True)
        os.killpg(child, signal.SIGKILL)

    with contextlib.suppress(OSError):  # the child has done it
        os.setpgid(child, child)
    for number in _ENDING:
        signal.signal(number, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    signal.alarm(TIME_LIMIT)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _fail(status: int, message: str) -> NoReturn:
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(status)
