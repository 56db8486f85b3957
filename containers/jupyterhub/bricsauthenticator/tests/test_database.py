"""The hub while its database is locked, for longer than SQLite waits for a lock (5 s, once for each try)."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import Mock

from conftest import OPTIONS, Hub, until
from sqlalchemy.exc import OperationalError

from bricsauthenticator import database

LOCKED = 12
"""Seconds: more than two tries take."""


@contextlib.contextmanager
def locked(hub: Hub, seconds: float = 0, kind: str = "EXCLUSIVE") -> Iterator[None]:
    """Lock the hub's database, as a backup would, until the block has ended and `seconds` have passed.

    An IMMEDIATE lock keeps the hub from writing only.
    """
    hub.api("GET", "/users/alice")  # after which the hub itself holds no lock
    with contextlib.closing(sqlite3.connect(hub.folder / "jupyterhub.sqlite", 30, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {kind}")
        yield
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def test_request(alice: Hub) -> None:
    """A request while the database is locked is a 503 that says so, not a wrong token, and all is well after."""
    with locked(alice):
        status, answer = alice.api("GET", "/users/alice")
    assert (status, answer["message"]) == (
        503, "The hub's database can't be used at the moment. Try again in a minute.",
    )  # fmt: skip
    assert alice.api("GET", "/users/alice")[0] == 200


@contextlib.contextmanager
def full_disk(hub: Hub) -> Iterator[None]:
    """Let no file of the hub's grow, as on a full disk, until the block has ended."""
    before = resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, before)


def test_disk_full(alice: Hub) -> None:
    """Who can't be recorded as active is let in nonetheless: servers ask the hub about every visitor of theirs."""
    token = alice.api("POST", "/users/alice/tokens", {})[1]["token"]
    cookies = alice.session(alice.provider.token())
    with full_disk(alice):
        for headers in [("Authorization", f"token {token}")], cookies:
            assert alice.request("GET", "/api/user", headers)[0] == 200
        assert alice.request("GET", "/home", cookies)[0] == 200
        assert alice.api("POST", "/users/alice/tokens", {})[0] == 503
    start_and_stop(alice)


@contextlib.contextmanager
def unanswered(hub: Hub) -> Iterator[None]:
    """Let no query for a job be answered until the block has ended."""
    (hub.slurm / "slow").touch()
    try:
        yield
    finally:
        (hub.slurm / "slow").unlink()


def pending(hub: Hub) -> bool:
    """Whether alice's server starts or stops, or the hub can't say yet."""
    status, answer = hub.api("GET", "/users/alice")
    return status == 503 or any(server["pending"] for server in answer["servers"].values())


def start_and_stop(hub: Hub) -> None:
    """Start alice's server, if it hasn't been, and stop it."""
    if not hub.server():
        hub.api("POST", "/users/alice/server", OPTIONS)
    until(lambda: not pending(hub), 60)
    assert hub.server()["ready"]
    assert hub.api("DELETE", "/users/alice/server")[0] in (202, 204)
    until(lambda: not hub.server() and not hub.jobs(), 60)


def told_ports(hub: Hub) -> int:
    """How many servers have told their port."""
    return hub.log.read_text().count("201 POST /jupyter/hub/api/batchspawner")


def test_server_comes_up(alice: Hub) -> None:
    """A start whose server comes up meanwhile goes on, and the server can be stopped."""
    before = told_ports(alice)
    with unanswered(alice):
        alice.api("POST", "/users/alice/server", OPTIONS)
        until(lambda: told_ports(alice) > before)
        lock = locked(alice, LOCKED)
        lock.__enter__()
    lock.__exit__(None, None, None)
    until(lambda: not pending(alice), 60)
    assert alice.server()["ready"]
    start_and_stop(alice)


def test_job_ends(alice: Hub) -> None:
    """A start whose job ends meanwhile has failed, and the next is not in its way."""
    alice.api("POST", "/users/alice/server", {**OPTIONS, "partition": "late"})
    until(alice.jobs)
    with locked(alice, LOCKED):
        os.killpg(int((alice.slurm / f"{alice.jobs()[0]}.pid").read_text()), signal.SIGKILL)
    until(lambda: not pending(alice), 60)
    assert not alice.server()
    (alice.slurm / f"{alice.jobs()[0]}.pid").unlink()
    start_and_stop(alice)


def test_start_fails(alice: Hub) -> None:
    """A start that can't even be saved fails at once, and the next doesn't."""
    with locked(alice, kind="IMMEDIATE"):
        assert alice.api("POST", "/users/alice/server", OPTIONS)[0] == 503
    until(lambda: not pending(alice), 60)
    assert not alice.server()
    start_and_stop(alice)


def test_stop(alice: Hub) -> None:
    """A stop ends when the lock does, and the server can be started again."""
    alice.api("POST", "/users/alice/server", OPTIONS)
    until(lambda: (alice.server() or {}).get("ready"))
    with unanswered(alice):
        assert alice.api("DELETE", "/users/alice/server")[0] == 202
        lock = locked(alice, LOCKED)
        lock.__enter__()
    lock.__exit__(None, None, None)
    until(lambda: not pending(alice), 60)
    assert not alice.server()
    start_and_stop(alice)


def test_nothing_starts_before_a_stop_is_saved() -> None:
    """JupyterHub's stop may drop the spawner and then fail: the next try would stop a server started meanwhile."""
    spawner, seen = SimpleNamespace(_stop_pending=False), []
    user = SimpleNamespace(spawners={"": spawner}, db=Mock(), log=Mock())

    async def stop(user: SimpleNamespace, server_name: str) -> None:
        seen.append(user.spawners.pop(server_name)._stop_pending)
        if len(seen) == 1:
            raise OperationalError("COMMIT", None, Exception("database is locked"))

    async def look() -> tuple[bool, bool]:
        stopping = asyncio.create_task(database.stop(user, "", original=stop))
        await asyncio.sleep(0)
        between = user.spawners.get("") is spawner and spawner._stop_pending
        await stopping
        return between, "" in user.spawners

    assert asyncio.run(look()) == (True, False)
    assert seen == [False, True]
