"""Jobs whose batch script has the launcher: what the hub and the job learn of each other."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import OPTIONS, Hub, free_port, until

TESTS = Path(__file__).parent
HOME = "home/p1/alice.p1"


@pytest.fixture
def alice(hub: Hub) -> Iterator[Hub]:
    """The hub with alice known, and her home."""
    (hub.slurm / HOME).mkdir(parents=True, exist_ok=True)
    assert hub.login(hub.provider.token())[0] == 302
    yield hub
    for pid in hub.slurm.glob("*.pid"):
        if not running(hub, pid.stem):
            pid.unlink()
    hub.stop_servers()


def running(hub: Hub, job: str) -> bool:
    """Whether the job's first process is there."""
    return Path("/proc", (hub.slurm / f"{job}.pid").read_text(), "environ").exists()


def submit(hub: Hub, partition: str, name: str = "") -> str:
    """Ask for a server of alice's in `partition`, and give the number of its job."""
    before = set(hub.slurm.glob("*.pid"))
    hub.api("POST", hub.path(name), {**OPTIONS, "partition": partition})  # 500 if it fails at once
    until(lambda: set(hub.slurm.glob("*.pid")) - before)
    return (set(hub.slurm.glob("*.pid")) - before).pop().stem


def ready(hub: Hub, name: str = "") -> bool:
    """Whether alice's server is ready."""
    return bool((hub.server(name) or {}).get("ready"))


def routes(hub: Hub) -> list[str]:
    """The addresses that the proxy has got for alice's server, in order."""
    return re.findall(r"Adding user alice to proxy \S*/alice/ => (\S+)", hub.log.read_text())


def test_starts(alice: Hub) -> None:
    """The server listens at the reserved port, which no other process can be given, and writes to its log file."""
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    log = (alice.slurm / HOME / f".job-{job}.log").read_text()
    assert f"activating in {alice.slurm}/{HOME}\n" in log
    assert "batchspawner-singleuser" not in (alice.slurm / f"{job}.sh").read_text().replace("launcher", "")


def test_lost_answer(alice: Hub) -> None:
    """A job whose submission seems to have failed ends by itself, since the hub doesn't know its start."""
    job = submit(alice, "launched-lost")
    until(lambda: not alice.server())
    until(lambda: not running(alice, job), 15)
    assert "Ending this job: the hub says 403" in log_of(alice, job)


def test_submitted_twice(alice: Hub) -> None:
    """Of two jobs of one start, as of a connection that was reset after the first submission, one goes on."""
    alice.api("POST", alice.path(), {**OPTIONS, "partition": "launched-reset"})
    until(lambda: ready(alice))
    first, second = sorted(alice.slurm.glob("*.pid"), key=lambda path: path.stat().st_mtime)[-2:]
    until(lambda: not running(alice, first.stem), 15)
    assert "Ending this job: the hub says 403" in log_of(alice, first.stem)
    assert "GET /jupyter/user/alice/api" in log_of(alice, second.stem)
    assert running(alice, second.stem)
    assert ready(alice)


def log_of(hub: Hub, job: str) -> str:
    """What a job has written."""
    home = hub.slurm / HOME / f".job-{job}.log"
    return (hub.slurm / f"{job}.log").read_text() + (home.read_text() if home.exists() else "")


def test_given_up(alice: Hub) -> None:
    """A job that has asked in time ends as well when its start is given up and nobody cancels it."""
    job = submit(alice, "launched-late")
    until(lambda: "activating" in log_of(alice, job))
    pid = alice.slurm / f"{job}.pid"
    kept = pid.read_text()
    pid.unlink()  # Slurm says that there is no such job
    until(lambda: not alice.server())
    pid.write_text(kept)
    (alice.slurm / "go-").touch()
    until(lambda: not running(alice, job), 15)
    (alice.slurm / "go-").unlink()


def test_hub_away(alice: Hub) -> None:
    """A job that finds the hub away goes on trying, and its server is ready after all."""
    job = submit(alice, "launched-late")
    until(lambda: "activating" in log_of(alice, job))
    alice.stop(signal.SIGKILL)
    (alice.slurm / "go-").touch()
    until(lambda: "The hub is not there yet" in log_of(alice, job))
    alice.start()
    until(lambda: ready(alice))
    assert running(alice, job)
    (alice.slurm / "go-").unlink()


def test_the_end_is_told(alice: Hub) -> None:
    """A job whose server ends by itself tells the hub, which sends nothing to that port any more."""
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    first = int((alice.slurm / f"{job}.pid").read_text())
    (server,) = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
    os.kill(server, signal.SIGTERM)
    until(lambda: not alice.server(), 15)
    said = alice.log.read_text().partition(f"the server of job {job} has ended")[2]
    assert "Removing user alice from proxy" in said


def test_requeued(alice: Hub) -> None:
    """A job that Slurm starts anew has another port, which hub and proxy know within seconds."""
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    before = routes(alice)
    environment = {**os.environ, "FAKE_USER": "root", "SLURMSPAWNER_JOB_ID": job}
    subprocess.run([sys.executable, TESTS / "fake_slurm.py", alice.slurm, "requeue"], env=environment, check=True)
    until(lambda: len(routes(alice)) > len(before), 10)
    assert routes(alice)[-1] != before[-1]
    port = int(routes(alice)[-1].rpartition(":")[2])
    time.sleep(1.5)  # a poll
    assert ready(alice)
    assert subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/"], check=False).returncode == 0


def test_requeued_while_hub_away(alice: Hub) -> None:
    """So has one that is started anew while the hub is away, or is just starting."""
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    before = len(routes(alice))
    alice.stop()
    environment = {**os.environ, "FAKE_USER": "root", "SLURMSPAWNER_JOB_ID": job}
    subprocess.run([sys.executable, TESTS / "fake_slurm.py", alice.slurm, "requeue"], env=environment, check=True)
    until(lambda: "The hub is not there yet" in log_of(alice, job))
    alice.start()
    until(lambda: routes(alice)[before:] and ready(alice), 20)
    until(lambda: len(set(routes(alice)[before - 1 :])) > 1, 20)


def test_checked_late(alice: Hub) -> None:
    """A server stopped while a hub that starts still waits for its answer has nothing to do with the next one."""
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    alice.stop()
    os.killpg(int((alice.slurm / f"{job}.pid").read_text()), signal.SIGSTOP)  # it answers nobody
    alice.start()
    assert alice.api("DELETE", alice.path())[0] in (202, 204)
    until(lambda: not alice.server())
    job = submit(alice, "launched")
    until(lambda: ready(alice))
    until(lambda: "alice still running" in alice.log.read_text())
    time.sleep(2.5)  # two polls
    assert ready(alice)
    assert running(alice, job)


def test_log_is_shown(alice: Hub) -> None:
    """What the job has written last is on the page of a start that fails, as text; not what an earlier job wrote."""
    session = alice.session(alice.provider.token())
    job = submit(alice, "launched-broken")
    page = alice.failure(session)
    assert f"The Slurm job {job} ended before its server was up: FAILED (NonZeroExitCode). It said:" in page
    assert "The server ended with exit status 127." in page
    assert "&lt;b&gt;" in page
    assert re.search(r"line \d+: nonsense: command not found", page)


def test_what_was_said_outlives_the_hub(alice: Hub) -> None:
    """A hub that starts after the job has said why it ends, and before that was noticed, shows it as well."""
    job = submit(alice, "launched-broken-late")
    until(lambda: "activating" in log_of(alice, job))
    (alice.slurm / "slow").touch()
    (alice.slurm / "go-").touch()
    until(lambda: not running(alice, job))
    alice.stop(signal.SIGKILL)
    (alice.slurm / "slow").unlink()
    (alice.slurm / "go-").unlink()
    alice.start()
    session = alice.session(alice.provider.token())
    page = alice.failure(session)
    assert "The server ended with exit status 127." in page


@pytest.mark.parametrize(("mode", "reason"), [(None, "No such file or directory"), (0o500, "Permission denied")])
def test_home(alice: Hub, mode: int | None, reason: str) -> None:
    """A home that is missing or can't be written to is named."""
    home = alice.slurm / HOME
    away = home.rename(alice.slurm / "away-home")
    try:
        if mode is not None:
            if os.getuid() == 0:
                home.write_text("")  # nothing keeps root from writing
                reason = "Not a directory"
            else:
                home.mkdir(mode)
        session = alice.session(alice.provider.token())
        submit(alice, "launched")
        page = alice.failure(session)
        assert "can&#39;t write its log file: " in page
        assert f"{home}" in page
        assert reason in page
    finally:
        if home.exists():
            home.rmdir() if home.is_dir() else home.unlink()
        away.rename(home)


def test_home_full(alice: Hub) -> None:
    """A server that ends because its user's home or quota is full leaves no log; its page says what is wrong."""
    session = alice.session(alice.provider.token())
    submit(alice, "launched-full-broken")
    page = alice.failure(session)
    assert "The server ended with exit status 1." in page
    assert "Its log file can&#39;t be written to: No space left on device." in page


LAUNCHER = TESTS.parent / "src/bricsauthenticator/launcher.py"


def launch(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher, which waits for a hub at `url` for a second."""
    variables = {"JUPYTERHUB_API_URL": url, "JUPYTERHUB_API_TOKEN": "x", "SLURM_JOB_ID": "7"}
    return subprocess.run(
        [sys.executable, LAUNCHER, "script", folder, "log", "1"],
        cwd=folder, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_no_hub(tmp_path: Path) -> None:
    """A job that can't reach the hub in its time ends."""
    done = launch(tmp_path, f"http://127.0.0.1:{free_port()}/hub/api")
    assert done.returncode == 1
    assert "The hub is not there yet, trying again: " in done.stderr
    assert "Ending this job: the hub can't be reached: " in done.stderr


@pytest.mark.parametrize("version", ["5.5.4", ""])
def test_not_found(tmp_path: Path, version: str) -> None:
    """A hub's 404 ends the job at once; that of a proxy before a hub which starts doesn't."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(404)
            if version:
                self.send_header("X-JupyterHub-Version", version)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        done = launch(tmp_path, f"http://127.0.0.1:{server.server_port}/hub/api")
        server.shutdown()
    assert done.returncode == 1
    assert ("trying again: 404 Not Found" in done.stderr) == (not version)
    assert ("Ending this job: the hub says 404 Not Found" in done.stderr) == bool(version)


def test_reserved_port(tmp_path: Path) -> None:
    """A reserved port can be taken over by who asks for it, and is given to nobody who asks for any."""
    source = LAUNCHER.read_text().rpartition("main(")[0]
    names: dict = {}
    exec(source, names)
    reserved = [names["reserve"]() for _ in range(200)]
    ports = {held.getsockname()[1] for held in reserved}
    assert len(ports) == 200
    for _ in range(500):
        with socket.socket() as other:
            other.bind(("", 0))
            assert other.getsockname()[1] not in ports
    port = ports.pop()
    assert not names["listens"]("127.0.0.1", port)
    with socket.create_server(("", port)):
        assert names["listens"]("127.0.0.1", port)
