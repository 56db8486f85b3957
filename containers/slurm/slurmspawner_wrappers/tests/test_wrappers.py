"""The commands as installed, run as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))

# Runs one command, with its exec replaced by a print of what it would become: /usr/bin is not the tests' to fill.
BECOMES = """
import json, os, sys
import slurmspawner_wrappers
slurmspawner_wrappers.BIN_FILE = sys.argv.pop(2) if len(sys.argv) > 2 else "/nowhere"
os.execv = lambda path, arguments: sys.exit(print(json.dumps([path, *arguments])))
sys.argv = [sys.argv[1]]
getattr(slurmspawner_wrappers, sys.argv[0])()
"""


def run(*command: object, job_id: str | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `command` with the job id in its environment and `stdin` on its standard input."""
    environment = {name: value for name, value in os.environ.items() if name != "SLURMSPAWNER_JOB_ID"}
    if job_id is not None:
        environment["SLURMSPAWNER_JOB_ID"] = job_id
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, input=stdin)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("sbatch", ["/usr/bin/sbatch", "/usr/bin/sbatch", "--parsable"]),
        ("squeue", ["/usr/bin/squeue", "/usr/bin/squeue", "-h", "-j", "12", "-o", "%T %B"]),
        ("scancel", ["/usr/bin/scancel", "/usr/bin/scancel", "12"]),
    ],
)
def test_becomes(name: str, becomes: list[str]) -> None:
    """Each becomes its Slurm command by absolute path, with the job id as one argument."""
    assert json.loads(run(sys.executable, "-c", BECOMES, name, job_id="12").stdout) == becomes


def test_becomes_for_many() -> None:
    """The numbers on standard input become one argument, as many as Linux lets through."""
    result = run(sys.executable, "-c", BECOMES, "squeue_many", stdin="12\n13\n14")
    squeue = "/usr/bin/squeue"
    assert json.loads(result.stdout) == [squeue, squeue, "-h", "-t", "all", "-j", "12,13,14", "-o", "%i|%u|%T|%B|%r|%S"]
    result = run(sys.executable, "-c", BECOMES, "squeue_many", stdin=f"{2**32 - 3}\n" * 5000)
    assert len(json.loads(result.stdout)[6]) < 128 * 1024


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make the file as it must be")
def test_slurm_elsewhere(tmp_path: Path) -> None:
    """A file of root's says in which folder Slurm's commands are; only root may change it."""
    file = tmp_path / "slurmspawner_wrappers"
    file.write_text("/opt/slurm/bin\n")
    squeue = "/opt/slurm/bin/squeue"
    result = run(sys.executable, "-c", BECOMES, "squeue", file, job_id="12")
    assert json.loads(result.stdout) == [squeue, squeue, "-h", "-j", "12", "-o", "%T %B"]
    for text in ("", "bin", "/opt/slurm/bin\n/x\n"):
        file.write_text(text)
        result = run(sys.executable, "-c", BECOMES, "squeue", file, job_id="12")
        assert (result.returncode, result.stdout) == (1, "")
        assert "must hold one line" in result.stderr
    file.write_text("/opt/slurm/bin\n")
    for change in (lambda: file.chmod(0o664), lambda: (file.chmod(0o644), os.chown(file, 65534, 0))):
        change()
        result = run(sys.executable, "-c", BECOMES, "squeue", file, job_id="12")
        assert (result.returncode, result.stdout) == (1, "")
        assert "must belong to root" in result.stderr


@pytest.mark.parametrize(
    "stdin",
    ["", "\n", "x", "12\n-u", "1,2", "1_0", "$(id)", "٣", "1" * 21, "12\n4294967308", "1\n" * 5001, "1" * 200000],
)
def test_bad_numbers(stdin: str) -> None:
    """Nothing, too many, or anything but job numbers is one line on standard error and exit status 1."""
    result = run(SCRIPTS / "slurmspawner_squeue_many", stdin=stdin)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "slurmspawner_squeue_many: standard input is not 1 to 5000 job ids\n"


@pytest.mark.parametrize("name", ["squeue", "scancel"])
@pytest.mark.parametrize(
    "job_id",
    [
        None,
        "",
        "x",
        "-u",
        "1 2",
        "1\n",
        "1,2",
        "$(id)",
        "٣",
        "1" * 21,
        "+1",
        "1_2",
        "0",
        str(2**32 - 2),
        str(2**32 + 1),
    ],
)
def test_bad_job_id(name: str, job_id: str | None) -> None:
    """A missing or non-numeric job id is one line on standard error and exit status 1."""
    result = run(SCRIPTS / f"slurmspawner_{name}", job_id=job_id)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"slurmspawner_{name}: SLURMSPAWNER_JOB_ID is not a job id\n"


@pytest.mark.parametrize("name", ["sbatch", "squeue", "squeue_many", "scancel"])
def test_no_arguments(name: str) -> None:
    """An argument is refused."""
    result = run(SCRIPTS / f"slurmspawner_{name}", "--uid=root", job_id="1", stdin="1")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(Path("/usr/bin/sbatch").exists(), reason="Slurm is installed here")
@pytest.mark.parametrize("name", ["sbatch", "squeue", "scancel"])
def test_no_slurm(name: str) -> None:
    """Without Slurm it's one line on standard error and exit status 127."""
    result = run(SCRIPTS / f"slurmspawner_{name}", job_id="1")
    assert result.returncode == 127
    assert result.stderr == f"slurmspawner_{name}: /usr/bin/{name}: No such file or directory\n"


# Runs one command where Slurm's are a shell that starts another process, and the time limit is short.
HANGS = """
import os, sys
import slurmspawner_wrappers
slurmspawner_wrappers.TIME_LIMIT = int(sys.argv[2])
execv = os.execv
os.execv = lambda path, arguments: execv("/bin/sh", ["sh", "-c", "echo $$; sleep 300; exit 1"])
sys.argv = [sys.argv[1]]
getattr(slurmspawner_wrappers, sys.argv[0])()
"""


def group_of(number: str) -> list[str]:
    """Return the processes of a process group that haven't ended."""
    listing = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    return [row[2] for row in rows if row[0] == number and not row[1].startswith("Z")]


def test_time_limit() -> None:
    """A Slurm command that hangs is killed with all that it has started, and standard error says so."""
    result = run(sys.executable, "-c", HANGS, "sbatch", "1")
    assert (result.returncode, result.stderr) == (137, "sbatch: no answer in 1 s\n")
    assert not group_of(result.stdout.strip())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended(number: signal.Signals) -> None:
    """A Slurm command ends when its wrapper is told to."""
    command = [sys.executable, "-c", HANGS, "sbatch", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        group = process.stdout.readline().strip()
        process.send_signal(number)
        assert process.wait(10) == 137
    assert not group_of(group)
