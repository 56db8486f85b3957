"""A hub that is killed while servers run and start, and while Slurm is away, and the hub after it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import OPTIONS, Hub, until
from constants import API_TOKEN, START_TIMEOUT

PARTITIONS = {"": "", "second": "late", "third": "late", "fourth": "late"}
"""Alice's servers, and the partition of each; a job in `late` waits for a file before it starts the server."""


def submit(hub: Hub, partitions: dict[str, str]) -> dict[str, str]:
    """Start servers of alice's, each in its partition, and give their jobs, without waiting for the servers."""

    def submitted() -> list[tuple[str, str]]:
        return re.findall(r"alice:?(\w*): job (\d+) submitted", hub.log.read_text())

    before = len(submitted())
    for name, partition in partitions.items():
        body = json.dumps({**OPTIONS, "partition": partition})
        hub.send("POST", f"/api{hub.path(name)}", [("Authorization", f"token {API_TOKEN}")], body).close()
    until(lambda: len(submitted()) == before + len(partitions))
    return dict(submitted()[before:])


@pytest.fixture(scope="module")
def jobs(hub: Hub) -> Iterator[dict[str, str]]:
    """The jobs of alice's servers, one running and three starting when the hub was killed; one has failed since."""
    assert hub.login(hub.provider.token())[0] == 302
    jobs = submit(hub, PARTITIONS)
    until(lambda: hub.server()["ready"])
    hub.stop(signal.SIGKILL)
    os.kill(int((hub.slurm / f"{jobs['fourth']}.pid").read_text()), signal.SIGKILL)
    (hub.slurm / "away").touch()
    hub.start()
    yield jobs
    hub.stop_servers()


def test_slurm_away(hub: Hub, jobs: dict[str, str]) -> None:
    """Unknown is not gone: as long as Slurm is away running servers are ready, and starting ones go on starting."""
    until(lambda: hub.server()["ready"])
    polls = hub.calls().count("squeue")
    until(lambda: hub.calls().count("squeue") > polls + 3)
    assert hub.server()["ready"]
    assert {hub.server(name)["pending"] for name in ("second", "third", "fourth")} == {"spawn"}
    assert set(hub.jobs()) == set(jobs.values())
    (hub.slurm / "away").unlink()


def test_start_over(hub: Hub, jobs: dict[str, str]) -> None:
    """A start whose job has ended meanwhile is over at once, and its page says why."""
    session = hub.session(hub.provider.token())
    ended = "ended before its server was up: FAILED (NonZeroExitCode)"
    until(lambda: ended in hub.request("GET", "/spawn-pending/alice/fourth", session)[2], START_TIMEOUT / 4)
    (hub.slurm / f"{jobs['fourth']}.pid").unlink()


def test_start_goes_on(hub: Hub, jobs: dict[str, str]) -> None:
    """A server that tells its port to the new hub is ready, in the proxy as well, though another is still starting."""
    (hub.slurm / "go-second").touch()
    until(lambda: hub.server("second")["ready"])
    assert jobs["second"] in hub.jobs()
    assert re.search(r"Adding user alice to proxy \S+/second/ => http://127.0.0.1:\d+$", hub.log.read_text(), re.M)
    assert hub.server("third")["pending"] == "spawn"


def test_start_interrupted(hub: Hub, jobs: dict[str, str]) -> None:
    """A server that is still starting can be stopped, and started again at once."""
    assert hub.api("DELETE", hub.path("third"))[0] in (202, 204)
    until(lambda: not hub.server("third"))
    assert jobs["third"] not in hub.jobs()
    again = submit(hub, {"third": ""})["third"]
    until(lambda: "alice:third not running" in hub.log.read_text())
    until(lambda: hub.server("third")["ready"])
    assert again in hub.jobs()


def test_stop_waits(hub: Hub, jobs: dict[str, str]) -> None:
    """A stop while Slurm is away goes on until Slurm has taken it."""
    (hub.slurm / "away").touch()
    assert hub.api("DELETE", hub.path())[0] == 202
    assert jobs[""] in hub.jobs()
    (hub.slurm / "away").unlink()
    until(lambda: jobs[""] not in hub.jobs())
    assert f"alice.p1 scancel {jobs['']}" in hub.calls()


def test_start_beside_requests(hub: Hub) -> None:
    """A request that ends while a job is being submitted takes nothing from what the next hub knows of that start.

    JupyterHub rolls back what nobody has committed by then.
    """
    assert hub.login(hub.provider.token())[0] == 302
    slow = hub.slurm / "slow-sbatch"
    slow.touch()
    before = hub.calls().count("sbatch")
    body = json.dumps({**OPTIONS, "partition": "late"})
    hub.send("POST", f"/api{hub.path('fifth')}", [("Authorization", f"token {API_TOKEN}")], body).close()
    until(lambda: hub.calls().count("sbatch") > before)
    assert hub.answers()
    slow.unlink()
    until(lambda: "alice:fifth: job" in hub.log.read_text())
    hub.stop(signal.SIGKILL)
    hub.start()
    try:
        until(lambda: hub.server("fifth")["pending"] == "spawn")
        (hub.slurm / "go-fifth").touch()
        until(lambda: hub.server("fifth")["ready"])
    finally:
        hub.stop_servers()


def test_suspended(hub: Hub) -> None:
    """A server that doesn't answer when the hub starts is kept, and ready, as long as Slurm says that its job runs."""
    job = submit(hub, {"fifth": ""})["fifth"]
    until(lambda: (hub.server("fifth") or {}).get("ready"))
    group = int((hub.slurm / f"{job}.pid").read_text())
    os.killpg(group, signal.SIGSTOP)
    try:
        hub.stop()
        hub.start()
        until(lambda: (hub.server("fifth") or {}).get("ready"), 90)
    finally:
        os.killpg(group, signal.SIGCONT)
    assert job in hub.jobs()
    assert hub.api("DELETE", hub.path("fifth"))[0] in (202, 204)
    until(lambda: job not in hub.jobs())


@pytest.mark.parametrize("end", ["answers", "gone"])
def test_mute(hub: Hub, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A start whose server doesn't answer for longer than `http_timeout` goes on as long as its job is alive."""
    assert hub.login(hub.provider.token())[0] == 302
    job = submit(hub, {"mute": "late"})["mute"]
    hub.stop()
    monkeypatch.setenv("TEST_HTTP_TIMEOUT", "1")
    hub.start()
    token = re.search(r"JUPYTERHUB_API_TOKEN=(\w+)", (hub.slurm / f"{job}.sh").read_text())[1]
    try:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            headers, body = [("Authorization", f"token {token}")], json.dumps({"port": port})
            assert hub.request("POST", "/api/batchspawner", headers, body)[0] == 201
            until(lambda: f":{port}/jupyter/user/alice/mute/ doesn't answer yet" in hub.log.read_text())
            polls = hub.calls().count("squeue")
            until(lambda: hub.calls().count("squeue") > polls + 3)
            assert hub.server("mute")["pending"] == "spawn"
            assert job in hub.jobs()
        if end == "answers":
            with subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as server:
                until(lambda: hub.server("mute")["ready"])
                server.kill()
        else:
            os.kill(int((hub.slurm / f"{job}.pid").read_text()), signal.SIGKILL)
            until(lambda: not hub.server("mute"))
            (hub.slurm / f"{job}.pid").unlink()
    finally:
        hub.stop_servers()
        hub.stop()
        monkeypatch.undo()
        hub.start()


def test_stop_while_checked(hub: Hub) -> None:
    """A server can be stopped while the hub that starts waits for Slurm's word on it."""
    job = submit(hub, {"sixth": ""})["sixth"]
    until(lambda: (hub.server("sixth") or {}).get("ready"))
    hub.stop()
    (hub.slurm / "slow").touch()
    try:
        hub.start()
        assert hub.server("sixth")["pending"] == "spawn"
        assert hub.api("POST", hub.path("sixth"), OPTIONS)[0] == 202
        assert hub.api("DELETE", hub.path("sixth"))[0] in (202, 204)
    finally:
        (hub.slurm / "slow").unlink()
    until(lambda: job not in hub.jobs())
    until(lambda: not hub.server("sixth"))
