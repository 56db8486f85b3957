"""A pod of its own with accounting: what Slurm remembers of jobs, and for how long."""

from __future__ import annotations

import os

import pytest

from hubenvs.engine import Engine

from .conftest import Deployment, entry, invoke
from .test_environment import wait_until

pytestmark = pytest.mark.environments("dev_dummyauth")

ACCOUNTING = ("--set", "slurm.accounting=true")


def test_sacct_remembers_jobs(engine: Engine) -> None:
    """A job from before there was accounting is in its user's project's account, and in the next pod's as well.

    The database is out of jobs' reach.
    """
    instance = f"acct{os.getpid()}"
    options = ("--env", "dev_dummyauth", "--instance", instance)
    try:
        invoke("up", *options)
        status = entry(instance)
        assert status is not None
        pod = Deployment("dev_dummyauth", instance, status, engine)
        job = ("sbatch", "--parsable", "--hold", "--chdir=/", "--output=/dev/null", "--wrap=exit 3")
        number = pod.run_in("slurm", "runuser", "-u", "alice.project1", "--", *job)
        invoke("up", *options, *ACCOUNTING)
        pod.run_in("slurm", "scontrol", "release", number)
        sacct = (
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "-j",
            number,
            "-o",
            "User,Account,State,ExitCode",
        )
        expected = "alice.project1|project1|FAILED|3:0"
        wait_until(lambda: pod.run_in("slurm", *sacct) == expected, 30, "sacct doesn't know the job")
        assert "project2" in pod.run_in(
            "slurm", "sacctmgr", "-n", "show", "user", "alice.project2", "format=defaultaccount"
        )
        assert "mysqld.sock" not in pod.run_in("slurm", "find", "/run")
        invoke("up", *options, *ACCOUNTING, "--set", "slurm.cpus_per_node=4")
        assert pod.run_in("slurm", *sacct) == expected
    finally:
        invoke("down", *options)
    assert entry(instance) is None
