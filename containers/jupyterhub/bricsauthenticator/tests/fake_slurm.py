"""Slurm's commands as far as the spawner sees them: jobs are processes here, a folder is the controller's state.

fake_slurm.py FOLDER (sbatch|squeue|squeue_many|requeue|scancel); a file `away` in the folder makes all fail as ssh
does, and sbatch takes as long as there is a file `slow-sbatch`.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

folder, command = Path(sys.argv[1]), sys.argv[2]
job = os.environ.get("SLURMSPAWNER_JOB_ID", "")
secrets = "crypt key" if "JUPYTERHUB_CRYPT_KEY" in os.environ else ""
with (folder / "calls").open("a") as calls:
    calls.write(f"{os.environ['FAKE_USER']} {command} {job} {secrets}\n")
if (folder / "away").exists():
    sys.exit("ssh: connect to host slurm port 22: Connection refused")
while "squeue" in command and (folder / "slow").exists():
    time.sleep(0.05)
if command == "sbatch" and (folder / "full").exists():
    (folder / "full").unlink()
    sys.exit("kex_exchange_identification: Connection closed by remote host")


def new_job(script: str) -> str:
    """Keep `script` under the next free number; several that submit at the same moment each get another."""
    number = 0
    while True:
        number += 1
        with contextlib.suppress(FileExistsError), (folder / f"{number}.sh").open("x") as file:
            file.write(script)
            return str(number)


def state(job: str) -> str:
    """Squeue's word for the state of `job`."""
    running = Path("/proc", (folder / f"{job}.pid").read_text(), "environ").exists()
    return "RUNNING" if running else "FAILED"


def run(job: str, environment: dict[str, str]) -> None:
    """Start the script of `job`."""
    import subprocess  # slow to import, and needed here only

    environment = {"SLURM_JOB_ID": job, **environment}
    with (folder / f"{job}.log").open("a") as log:
        process = subprocess.Popen(
            ["/bin/bash", folder / f"{job}.sh"], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    (folder / f"{job}.pid").write_text(str(process.pid))


if command == "sbatch":
    job = new_job(sys.stdin.read())
    script = folder / f"{job}.sh"
    while (folder / "slow-sbatch").exists():
        time.sleep(0.02)
    if "partition=hangs" in script.read_text():
        (folder / "hangs").write_text(str(os.getpid()))
        while not (folder / "goes_on").exists():
            time.sleep(0.05)
    run(job, {})
    (folder / f"{job}.user").write_text(os.environ["FAKE_USER"])
    if "partition=launched-lost" in script.read_text():
        sys.exit("Connection to slurm closed by remote host.")
    if "partition=launched-reset" in script.read_text() and not (folder / "reset").exists():
        (folder / "reset").touch()
        sys.exit("Connection reset by 127.0.0.1 port 22")
    print(f"{job};cluster")
elif command == "squeue_many":
    for job in sys.stdin.read().split():
        if (folder / f"{job}.pid").exists():
            user = (folder / f"{job}.user").read_text()
            reason = "None" if state(job) == "RUNNING" else "NonZeroExitCode"
            print(f"{job}|{user}|{state(job)}|127.0.0.1|{reason}")
elif not (folder / f"{job}.pid").exists():
    sys.exit("slurm_load_jobs error: Invalid job id specified")
elif command == "squeue":
    print(f"{state(job)} 127.0.0.1")
elif command == "requeue":
    os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGKILL)
    run(job, {"SLURM_RESTART_COUNT": "1"})
elif command == "scancel":
    os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGKILL)
    (folder / f"{job}.pid").unlink()
