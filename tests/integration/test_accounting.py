"""A pod of its own with accounting and reservations: what Slurm remembers of jobs, and whom it keeps nodes for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from .helpers import (
    CONTAINERS,
    START,
    Deployment,
    Engine,
    assert_no_more_rights,
    entry,
    first_process,
    inside,
    invoke,
    once,
    wait_until,
)

pytestmark = [once, inside]

COURSE = "{name: course, nodes: node2, accounts: [project1]}"
LATER = "{name: later, nodes: node2, users: [bob.project1], start: now+2hours, duration: '1:00:00'}"
PAST = "{name: past, users: [bob.project1], start: 2020-01-01T00:00:00, duration: '1:00:00'}"
ACCOUNTING = ("--set", "slurm.accounting=true", "--set", "slurm.nodes=2", "--set")

# What shows why a job has not run or isn't accounted for.
SLURM_STATE = (
    ("squeue", "--all"),
    ("sinfo", "--Node", "--long"),
    ("scontrol", "show", "jobs"),
    ("tail", "--lines=40", "/var/log/slurm/slurmctld.log"),
)


@pytest.fixture(scope="module")
def pod(engine: Engine) -> Iterator[Deployment]:
    """A deployment without accounting, which the tests turn on."""
    instance = f"acct{os.getpid()}"
    options = ("--env", "dev_dummyauth", "--instance", instance)
    try:
        invoke("up", *options)
        status = entry(instance)
        assert status is not None
        yield Deployment("dev_dummyauth", instance, status, engine)
    finally:
        invoke("down", *options)
    assert entry(instance) is None


def submit(pod: Deployment, account: str, *options: str) -> str:
    """Submit a job that fails at once, if it isn't held, and return its number, or nothing where Slurm refuses it."""
    job = ("sbatch", "--parsable", "--time=10", "--chdir=/", "--output=/dev/null", "--wrap=exit 3", *options)
    return pod.run_in("slurm", "runuser", "-u", account, "--", *job, check=False)


def wait_accounted(pod: Deployment, job: str, expected: str) -> None:
    """Wait until sacct says ``expected`` of a job; fail with what it and Slurm say instead."""
    deadline = time.monotonic() + START
    while (said := accounted(pod, job)) != expected:
        if time.monotonic() > deadline:
            seen = (pod.run_in("slurm", *argv, check=False) for argv in SLURM_STATE)
            pytest.fail("\n".join((f"sacct says {said!r} instead of {expected!r}", *seen)))
        time.sleep(1)


def accounted(pod: Deployment, job: str) -> str:
    """Return what sacct says of a job."""
    columns = "--format=User,Account,State,ExitCode,Reservation"
    return pod.run_in(
        "slurm", "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", columns
    )


def test_sacct_remembers_jobs(pod: Deployment) -> None:
    """A job from before there was accounting is in its user's project's account; the database is out of jobs' reach."""
    job = submit(pod, "alice.project1", "--hold")
    done = invoke("up", *pod.options, *ACCOUNTING, f"slurm.reservations=[{COURSE}, {LATER}, {PAST}]")
    assert "Slurm has refused reservation past: " in done.stdout
    pod.run_in("slurm", "scontrol", "release", job)
    expected = "alice.project1|project1|FAILED|3:0|"
    wait_accounted(pod, job, expected)
    show = ("sacctmgr", "-n", "show", "user", "alice.project2", "format=defaultaccount")
    assert "project2" in pod.run_in("slurm", *show)
    assert "mysqld.sock" not in pod.run_in("slurm", "find", "/run")
    status = first_process(pod.engine, f"{pod.status['pod']}-accounting")
    assert_no_more_rights(status, CONTAINERS["accounting"])


def test_reservations_are_for_whom_they_name(pod: Deployment) -> None:
    """Others are refused, its people wait for its start or run there; `up` takes away one that isn't defined any more.

    A job that waits and what has been accounted for outlive the pod.
    """
    assert submit(pod, "alice.project2", "--reservation=course") == ""
    assert submit(pod, "alice.project1", "--reservation=later") == ""
    job = submit(pod, "alice.project1", "--reservation=course")
    waiting = submit(pod, "bob.project1", "--reservation=later")
    expected = "alice.project1|project1|FAILED|3:0|course"
    wait_accounted(pod, job, expected)
    invoke("up", *pod.options, *ACCOUNTING, f"slurm.reservations=[{LATER}]")
    assert accounted(pod, job) == expected
    shown = pod.run_in("slurm", "scontrol", "show", "reservation")
    assert [line.split()[0] for line in shown.splitlines() if "Name=" in line[:20]] == [
        "ReservationName=later"
    ]
    assert (
        pod.run_in("slurm", "squeue", "--noheader", "--format=%i %T %r") == f"{waiting} PENDING Reservation"
    )


def test_slurmdbd_that_is_late_gets_the_accounts(pod: Deployment) -> None:
    """The first time slurmctld isn't started without it, whatever that takes; later it is, and the accounts follow."""
    name, patience = "alice.project2", 1
    load = f"touch /tmp/began; /usr/local/sbin/load-accounts {patience}; echo $? >/tmp/loaded"

    def begin() -> None:
        """Begin to load the accounts, one of which slurmdbd has lost, while it is away."""
        pod.run_in("slurm", "sacctmgr", "-i", "delete", "user", name)
        pod.run_in("accounting", "s6-svc", "-wD", "-d", "/run/service/slurmdbd")
        pod.run_in("slurm", "rm", "-f", "/tmp/loaded")
        pod.run_in("slurm", "sh", "-c", f"({load}) >/dev/null 2>&1 &")

    def loaded() -> bool:
        return pod.run_in("slurm", "cat", "/tmp/loaded", check=False) == "0"

    def known() -> bool:
        return "project2" in pod.run_in("slurm", "sacctmgr", "-n", "show", "user", name, check=False)

    def age() -> int:
        """Return for how many seconds the accounts are being loaded."""
        began = pod.run_in("slurm", "stat", "--format=%Y", "/tmp/began")
        return int(pod.run_in("slurm", "date", "+%s")) - int(began)

    try:
        begin()
        wait_until(loaded, START, "slurmctld would wait for slurmdbd")
        pod.run_in("accounting", "s6-svc", "-u", "/run/service/slurmdbd")
        wait_until(known, START, "the accounts did not follow")
        pod.run_in("slurm", "rm", "/var/lib/slurm/state/accounts_taken")
        begin()
        wait_until(lambda: age() > 2 * patience, START, "slurmctld would not wait for slurmdbd")
        assert not loaded()
    finally:
        pod.run_in("accounting", "s6-svc", "-u", "/run/service/slurmdbd")
    wait_until(loaded, START, "slurmctld would still wait")
    assert known()
