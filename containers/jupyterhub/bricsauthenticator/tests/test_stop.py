"""Servers are stopped at any moment, by several at once, however slow Slurm's commands and the proxy are."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator, Sequence

import pytest
from conftest import OPTIONS, Hub, until
from constants import API_TOKEN, CULLER_TOKEN
from test_spawner import newest_script, tell_port

STOPPED = {202, 204, 404}
"""What a request to stop a server answers. 404: it had a name, and another request has removed it."""


@contextlib.contextmanager
def obstacle(hub: Hub, name: str) -> Iterator[None]:
    """Let there be a file with this name in the folder of Slurm's stand-in until the block has ended."""
    (hub.slurm / name).touch()
    try:
        yield
    finally:
        (hub.slurm / name).unlink()


def at_once(hub: Hub, requests: Sequence[tuple[str, str]]) -> list[int]:
    """Send these requests (method and server's name) without waiting for answers, and return their statuses."""
    headers = [("Authorization", f"token {API_TOKEN}")]
    bodies = {"DELETE": {"remove": True}, "POST": {**OPTIONS, "partition": "waits"}}
    connections = [
        hub.send(method, f"/api{hub.path(name)}", headers, json.dumps(bodies[method] if name else {}))
        for method, name in requests
    ]
    statuses = []
    for connection in connections:
        statuses.append(connection.getresponse().status)
        connection.close()
    return statuses


def stopped(hub: Hub) -> bool:
    """Whether alice has no server and no job."""
    return not hub.jobs() and not hub.api("GET", "/users/alice")[1]["servers"]


def test_many_that_wait(alice: Hub) -> None:
    """Starts that wait are stopped all at once, each by two people, with more commands than run at the same time."""
    names = [f"many{number}" for number in range(20)]
    assert set(at_once(alice, [("POST", name) for name in names])) <= {201, 202}
    until(lambda: len(alice.jobs()) == len(names))
    assert set(at_once(alice, [("DELETE", name) for name in (*names, *names)])) <= STOPPED
    until(lambda: stopped(alice))


def test_twice_while_slurm_is_slow(alice: Hub) -> None:
    """Two people stop a server that is up, and neither request fails, while Slurm doesn't say how its job is."""
    alice.api("POST", alice.path("twice"), OPTIONS)
    until(lambda: (alice.server("twice") or {}).get("ready"))
    with obstacle(alice, "slow"):
        assert at_once(alice, [("DELETE", "twice"), ("DELETE", "twice")]) == [202, 202]
    until(lambda: stopped(alice))


def test_beside_a_start(alice: Hub) -> None:
    """A server that is up is stopped while somebody else's request to start it waits for Slurm's word."""
    alice.api("POST", alice.path("beside"), OPTIONS)
    until(lambda: (alice.server("beside") or {}).get("ready"))
    headers = [("Authorization", f"token {API_TOKEN}")]
    with obstacle(alice, "slow"):
        start = alice.send("POST", f"/api{alice.path('beside')}", headers, json.dumps(OPTIONS))
        until(lambda: (alice.server("beside") or {}).get("pending") == "spawn")
        stop = alice.send("DELETE", f"/api{alice.path('beside')}", headers, "{}")
        assert stop.getresponse().status == 202
    start.getresponse()
    until(lambda: stopped(alice))


def test_before_the_first_answer(alice: Hub) -> None:
    """A start is stopped at once though its server, which has told its port, answers nobody."""
    alice.api("POST", alice.path("mute"), {**OPTIONS, "partition": "late"})
    until(alice.jobs)
    token = re.search(r"JUPYTERHUB_API_TOKEN=(\w+)", newest_script(alice))[1]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert tell_port(alice, token, {"port": port}) == 201
        until(lambda: f"listens at 127.0.0.1:{port}" in alice.log.read_text())
        mute.accept()[0].close()  # JupyterHub waits for its answer
        assert alice.api("DELETE", alice.path("mute"), {"remove": True})[0] in STOPPED
        until(lambda: stopped(alice), 10)


def test_after_a_failed_start(alice: Hub) -> None:
    """A start that has failed is being cleaned up, Slurm is away, and somebody stops it: its job is cancelled."""
    alice.api("POST", alice.path("failed"), {**OPTIONS, "partition": "limited"})
    until(alice.jobs)
    with obstacle(alice, "away"):
        until(lambda: "alice's server failed to start in 3" in alice.log.read_text())
        cancelled = alice.calls().count("scancel")
        until(lambda: alice.calls().count("scancel") > cancelled)
        assert alice.api("DELETE", alice.path("failed"), {"remove": True})[0] in STOPPED
    until(lambda: stopped(alice))


def test_user_deleted(alice: Hub) -> None:
    """A user is deleted while one of their servers runs and another one starts; no job is left."""
    alice.api("POST", alice.path("runs"), OPTIONS)
    until(lambda: (alice.server("runs") or {}).get("ready"))
    alice.api("POST", alice.path("starts"), {**OPTIONS, "partition": "waits"})
    until(lambda: len(alice.jobs()) == 2)
    statuses: list[int] = []
    until(lambda: statuses.append(alice.api("DELETE", "/users/alice")[0]) or statuses[-1] != 400)
    assert statuses[-1] == 204
    assert not alice.jobs()
    assert alice.login(alice.provider.token())[0] == 302


def test_user_changed(alice: Hub) -> None:
    """A change that repeats the name, as the admin page sends it, leaves it. Who has an active server isn't renamed."""
    for path, name in (("alice", "alice"), ("alice", "alicia"), ("alicia", "alice")):
        status, user = alice.api("PATCH", f"/users/{path}", {"name": name, "admin": False})
        assert (status, user.get("name")) == (200, name)
    alice.api("POST", alice.path("named"), {**OPTIONS, "partition": "waits"})
    until(alice.jobs)
    assert alice.api("PATCH", "/users/alice", {"name": "alicia"})[0] == 400


@pytest.mark.parametrize("body", ["[1]", '"x"', "1"])
def test_anything(alice: Hub, body: str) -> None:
    """A request whose body isn't an object is a 400."""
    headers = [("Authorization", f"token {API_TOKEN}")]
    assert alice.request("DELETE", f"/api{alice.path()}", headers, body)[0] == 400


def test_proxy_away(alice: Hub) -> None:
    """A server is stopped though the proxy, which restarts, can't be told."""
    alice.api("POST", alice.path("routed"), OPTIONS)
    until(lambda: (alice.server("routed") or {}).get("ready"))
    with obstacle(alice, "no-proxy"):
        assert alice.api("DELETE", alice.path("routed"), {"remove": True})[0] in STOPPED
        until(lambda: stopped(alice))


def test_idle(alice: Hub) -> None:
    """The service that stops idle servers can't stop one whose kernel computes, though it prints nothing for long."""
    for name in ("idle", "busy"):
        alice.api("POST", alice.path(name), OPTIONS)
    until(lambda: all((alice.server(name) or {}).get("ready") for name in ("idle", "busy")))
    headers = [("Authorization", f"token {CULLER_TOKEN}")]
    for name in ("idle", "busy"):
        assert alice.request("DELETE", f"/api{alice.path(name)}", headers)[0] in (202, 204)
    until(lambda: len(alice.jobs()) == 1)
    assert alice.server("busy")["ready"]
    assert at_once(alice, [("DELETE", "idle"), ("DELETE", "busy")])[1] in (202, 204)
    until(lambda: stopped(alice))
