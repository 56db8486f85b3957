"""What `doctor`, `status`, `check` and `verify` say of a pod that is well, and of one that is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from .helpers import ROOT, START, STOP, Deployment, invoke, once, ssh_key_pair, wait_until

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


def test_doctor_finds_nothing_amiss_where_a_pod_runs(deployment: Deployment) -> None:
    """Neither environments that wait for a person's data nor our own pods' ports are something to mend."""
    rows = json.loads(invoke("doctor", "--json", check=False).stdout)
    assert {row["check"] for row in rows if not row["ok"]} <= {"Debian mirror", "PyPI"}


def test_status_tells_what_is_up(deployment: Deployment) -> None:
    """`status --json` has the URL, the user, the containers and the working copies, for scripts."""
    status = deployment.status
    assert status["state"] == "up"
    assert {item["state"] for item in status["containers"]} == {"running"}
    assert len(status["volumes"]) == 5
    assert len(status["secrets"]) == len(status["containers"])
    assert all(item["commit"] for item in status["repositories"])
    assert deployment.health == 200


def test_check_proves_every_row(deployment: Deployment) -> None:
    """SSH from the hub does what it must, and everything else is refused."""
    done = invoke("check", *deployment.options)
    rows = [line for line in done.stdout.splitlines() if line.startswith("ok")]
    assert len(rows) == 16
    assert any("slurmspawner_squeue_many" in row and "|alice.project1|" in row for row in rows)
    assert "FAIL" not in done.stdout


@once
def test_check_notices_a_wrong_host_key(deployment: Deployment) -> None:
    """A server that shows another key than the pinned one is not talked to."""
    pinned = deployment.secrets["known_hosts"]
    right = pinned.read_text()
    try:
        pinned.write_text(f"slurm {ssh_key_pair('stranger')[1]}\n")
        done = invoke("check", *deployment.options, check=False)
    finally:
        pinned.write_text(right)
    assert done.returncode == 1
    assert "BadHostKey" in done.stdout + done.stderr


@once
def test_check_notices_that_sudo_lets_variables_through(deployment: Deployment) -> None:
    """With SETENV a wrapper would run whatever code PYTHONPATH or LD_PRELOAD names."""
    rules = "/etc/sudoers.d/jupyterspawner"
    deployment.run_in("slurm", "sed", "-i", "s/NOPASSWD: SLURMSPAWNER/NOPASSWD: SETENV: SLURMSPAWNER/", rules)
    try:
        done = invoke("check", *deployment.options, check=False)
    finally:
        deployment.run_in("slurm", "sed", "-i", "s/ SETENV://", rules)
    assert done.returncode == 1
    assert "no LD_PRELOAD for a wrapper as alice.project1" in done.stderr
    assert "FAIL  no PYTHONPATH for a wrapper" in done.stdout


def test_verify_walks_every_hop(deployment: Deployment) -> None:
    """A user's whole way, from the page to a cell that computes in the job, and back."""
    done = invoke("verify", *deployment.options)
    for hop in (
        "page",
        "login",
        "form",
        "ssh",
        "sudo",
        "sbatch",
        "node",
        "callback",
        "proxy",
        "kernel",
        "stop",
        "gone",
    ):
        assert f"\n{hop} " in done.stdout


@once
def test_an_interrupted_verify_leaves_no_server(deployment: Deployment) -> None:
    """The server that it has started is stopped when it is up, since the hub doesn't do that before."""
    command = (sys.executable, "-m", "invoke", "verify", *deployment.options)
    with (
        deployment.user() as user,
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running,
    ):
        wait_until(lambda: user.server() is not None, START, "no server has been started")
        running.send_signal(signal.SIGINT)
        assert "Traceback" not in running.communicate(timeout=START)[1]
        assert running.returncode == 128 + signal.SIGINT
        wait_until(lambda: user.server() is None and not deployment.jobs(), STOP, "the server is still there")
