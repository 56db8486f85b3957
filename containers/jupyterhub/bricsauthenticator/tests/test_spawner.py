"""Servers from start to end: a real hub, and jobs that are processes."""

import asyncio
import json
import re
import shlex
import socket
from datetime import datetime, timedelta, timezone
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace

import pytest
from batchspawner.batchspawner import JobStatus
from conftest import OPTIONS, Hub, until
from constants import API_TOKEN
from jupyterhub.objects import Server

from bricsauthenticator import BricsSlurmSpawner
from bricsauthenticator.progress import progress_of


@pytest.mark.parametrize(
    "changed",
    [{"brics_project": "p9.brics"}, {"runtime": "1; id"}, {"cmd": "id"}, {"ngpus": 1}, {"partition": "$(id)"}],
    ids=str,
)
def test_rest_options(alice: Hub, changed: dict) -> None:
    """Options by the REST API are checked like the form's: 400, and no command is run."""
    before = alice.calls()
    status, answer = alice.api("POST", "/users/alice/server", {**OPTIONS, **changed})
    assert status == 400
    assert "id" not in answer["message"].split()
    assert alice.calls() == before


@pytest.mark.parametrize("body", [[], ["x"], "x", 1, {}])
def test_rest_anything(alice: Hub, body: object) -> None:
    """A body that isn't an object of options is a 400 as well."""
    assert alice.api("POST", "/users/alice/server", body)[0] == 400


def post_form(hub: Hub, session: list[tuple[str, str]], **fields: str) -> tuple[int, str]:
    """Send the spawn page's form, and give status and page."""
    _, headers, page = hub.request("GET", "/spawn", session)
    action = re.search(r'action="/jupyter/hub([^"]*)"', page)[1].replace("&amp;", "&")
    body = "&".join(f"{name}={value}" for name, value in fields.items())
    kind = [("Content-Type", "application/x-www-form-urlencoded"), ("Sec-Fetch-Site", "same-origin")]
    # Each once, as a browser does: with two of one name JupyterHub makes a token, which holds for the second only.
    cookies = SimpleCookie(session[0][1])
    for header in headers.get_all("Set-Cookie", []):
        cookies.load(header)
    cookie = "; ".join(f"{name}={cookie.value}" for name, cookie in cookies.items())
    status, _, page = hub.request("POST", action, [("Cookie", cookie), *kind], body)
    return status, page


def test_form(alice: Hub) -> None:
    """A wrong form comes back as a 400 with its message; a right one starts the job in the project's account."""
    session = alice.session(alice.provider.token())
    before = alice.calls()
    status, page = post_form(alice, session, **{**OPTIONS, "runtime": "soon"})
    assert status == 400
    assert "Run time must be HH:MM:SS" in page
    assert alice.calls() == before
    status, page = post_form(alice, session, **{**OPTIONS, "brics_project": "p2.brics"})
    assert status == 302
    until(lambda: (alice.server() or {}).get("ready"))
    assert "alice.p2 sbatch" in alice.calls()


def test_two_servers(alice: Hub) -> None:
    """Two servers in two projects at once; the job's script and environment are those of its account."""
    alice.api("POST", "/users/alice/server", {**OPTIONS, "partition": "gpu-1"})
    alice.api("POST", "/users/alice/servers/second", {**OPTIONS, "brics_project": "p2.brics"})
    until(lambda: all((alice.server(name) or {}).get("ready") for name in ("", "second")))
    scripts = [path.read_text() for path in sorted(alice.slurm.glob("*.sh"), key=lambda path: int(path.stem))[-2:]]
    one = next(script for script in scripts if "HOME=/home/p1/alice.p1\n" in script)
    assert any("USER=alice.p2\n" in script for script in scripts)
    assert "#SBATCH --chdir=/home/p1/alice.p1\n" in one
    assert "#SBATCH --partition=gpu-1\n" in one
    assert "export PATH=" not in one
    # What the site sets, also where the hub's own would be kept back.
    for line in ("export OWN='it'\"'\"'s'", "export LANG=C.UTF-8"):
        assert one.splitlines().count(line) == 1
    assert "\n# export OWN='it'\"'\"'s', export LANG=C.UTF-8\n" in one
    assert "crypt key" not in alice.calls()
    assert "ngpus=1 ignored" in alice.log.read_text()
    token = re.search(r"JUPYTERHUB_API_TOKEN=(\w+)", one)[1]
    assert token not in alice.log.read_text()


def newest_script(hub: Hub) -> str:
    """The batch script of the job submitted last."""
    return max(hub.slurm.glob("*.sh"), key=lambda path: path.stat().st_mtime).read_text()


def tell_port(hub: Hub, token: str, body: object) -> int:
    """Send `body` as a server tells its port, and give the status."""
    return hub.request("POST", "/api/batchspawner", [("Authorization", f"token {token}")], json.dumps(body))[0]


def test_port_only(alice: Hub) -> None:
    """A server's token can't change how its spawner runs commands."""
    alice.api("POST", "/users/alice/server", OPTIONS)
    until(lambda: (alice.server() or {}).get("ready"))
    token = re.search(r"JUPYTERHUB_API_TOKEN=(\w+)", newest_script(alice))[1]
    for body in (
        {"port": 1023},
        {"exec_prefix": "touch /x;"},
        {"port": 1, "job_id": "1"},
        {"port": "80"},
        {"port": True},
        [{}],
        5,
        {},
    ):
        assert tell_port(alice, token, body) == 400


def test_ports_without_end(alice: Hub) -> None:
    """A job that tells another port again and again holds up nobody's commands to Slurm: one at a time comes of it."""
    alice.api("POST", "/users/alice/server", OPTIONS)
    until(lambda: (alice.server() or {}).get("ready"))
    token = re.search(r"JUPYTERHUB_API_TOKEN=(\w+)", newest_script(alice))[1]
    job, before = alice.jobs()[0], alice.calls()
    (alice.slurm / "slow").touch()
    try:
        for port in range(40001, 40031):
            assert tell_port(alice, token, {"port": port}) == 201
        alice.api("POST", alice.path("another"), OPTIONS)
        until(lambda: len(alice.jobs()) == 2)
    finally:
        (alice.slurm / "slow").unlink()
    assert alice.calls().removeprefix(before).count(f" squeue {job} ") <= 2


def test_port_by_others(alice: Hub) -> None:
    """The token of a service, or one that a user has made, is no server's: 403. So is none."""
    own = alice.api("POST", "/users/alice/tokens")[1]["token"]
    for token in (API_TOKEN, own, "nonsense"):
        assert tell_port(alice, token, {"port": 1}) == 403


def test_a_link_starts_nothing(alice: Hub) -> None:
    """A GET, which any site can make a browser send, fills the form in; only a POST starts a server."""
    session = alice.session(alice.provider.token())
    before = alice.calls()
    for path in ("/spawn", "/spawn/alice", "/spawn/alice/second"):
        query = "brics_project=p2.brics&runtime=02:00:00&ngpus=1&partition=%22%3E%3Cb%3E"
        status, _, page = alice.request("GET", f"{path}?{query}", session)
        assert status == 200
        assert '<option value="p2.brics" selected>' in page
        assert 'value="02:00:00"' in page
        assert "<b>" not in page
    assert alice.server() is None
    assert alice.calls() == before


def test_not_utf8(alice: Hub) -> None:
    """Options that are no text are a 400, in the address as in the form."""
    session = alice.session(alice.provider.token())
    before = alice.calls()
    for path in ("/spawn?runtime=%ff", "/spawn/alice?runtime=%ff", "/spawn/alice/second?x=1&next=%ff"):
        assert alice.request("GET", path, session)[0] == 400
    assert post_form(alice, session, **{**OPTIONS, "runtime": "%ff"})[0] == 400
    assert alice.calls() == before


def test_job_fails(alice: Hub) -> None:
    """A job that ends before its server is up ends the start at once, and its user is told how it ended."""
    session = alice.session(alice.provider.token())
    alice.api("POST", "/users/alice/server", {**OPTIONS, "partition": "broken"})
    page = alice.failure(session)
    assert "ended before its server was up: FAILED (NonZeroExitCode)" in page
    for pid in alice.slurm.glob("*.pid"):
        pid.unlink()


def submissions(hub: Hub) -> int:
    """How many jobs were submitted, or tried to be."""
    return hub.calls().count("sbatch")


def test_submission_dropped(alice: Hub) -> None:
    """A submission that never reached Slurm, because the login host has too many connections, is tried again."""
    before = submissions(alice)
    (alice.slurm / "full").touch()
    alice.api("POST", "/users/alice/server", OPTIONS)
    until(lambda: (alice.server() or {}).get("ready"))
    assert submissions(alice) == before + 2
    assert "job not submitted, trying again: kex_exchange_identification" in alice.log.read_text()


def hang(hub: Hub) -> int:
    """Start a server whose submission hangs, and give the process number of it."""
    for name in ("hangs", "goes_on"):
        (hub.slurm / name).unlink(missing_ok=True)
    hub.api("POST", "/users/alice/server", {**OPTIONS, "partition": "hangs"})
    until(lambda: (hub.slurm / "hangs").exists() and (hub.slurm / "hangs").read_text())
    return int((hub.slurm / "hangs").read_text())


def test_submission_hangs(alice: Hub) -> None:
    """A submission that hangs fails in time with a message, and leaves neither server nor command."""
    session = alice.session(alice.provider.token())
    command = hang(alice)
    until(lambda: not (alice.server() or {}).get("pending"), 60)
    assert not alice.server()
    until(lambda: not Path(f"/proc/{command}").exists())
    page = alice.failure(session)
    assert "The Slurm job was not submitted: no answer in 15 s" in page
    assert not alice.jobs()


def test_stop_while_submission_hangs(alice: Hub) -> None:
    """A start can be stopped at once while its submission hangs; the job that comes of it later is cancelled."""
    hang(alice)
    status, _ = alice.api("DELETE", alice.path())
    assert status in (202, 204)
    until(lambda: not alice.server(), 10)
    alice.api("POST", "/users/alice/server", OPTIONS)  # another start is not in its way, nor stopped by it
    until(lambda: (alice.server() or {}).get("ready"))
    assert len(alice.jobs()) == 1
    before = alice.calls().count("scancel")
    (alice.slurm / "goes_on").touch()
    until(lambda: alice.calls().count("scancel") == before + 1)
    assert alice.server()["ready"]
    until(lambda: len(alice.jobs()) == 1)


def test_progress(alice: Hub) -> None:
    """The page's bar moves on with a start, from its submission to the server."""
    token = [("Authorization", f"token {API_TOKEN}")]
    alice.api("POST", "/users/alice/server", {**OPTIONS, "partition": "late"})
    (alice.slurm / "go-").touch()
    events = alice.request("GET", "/api/users/alice/server/progress", token)[2]
    until(lambda: (alice.server() or {}).get("ready"))
    (alice.slurm / "go-").unlink()
    steps = [json.loads(line[6:])["progress"] for line in events.splitlines() if line.startswith("data: ")]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == 100
    assert len(set(steps)) > 2


def test_progress_that_nobody_reads(alice: Hub) -> None:
    """The hub forgets a page that has been left, however long its server still waits."""
    alice.api("POST", "/users/alice/server", {**OPTIONS, "partition": "late"})
    path, token = "/api/users/alice/server/progress", [("Authorization", f"token {API_TOKEN}")]
    before = alice.log.read_text().count(f" GET /jupyter/hub{path}")
    connections = [alice.send("GET", path, token) for _ in range(3)]
    for connection in connections:
        response = connection.getresponse()
        while b'"progress": 70' not in response.readline():  # until the job runs nothing more is said
            pass
        connection.close()
        response.close()
    until(lambda: alice.log.read_text().count(f" GET /jupyter/hub{path}") == before + 3, 60)
    assert alice.server()["pending"] == "spawn"
    assert "Uncaught exception GET /jupyter/hub/api/users/alice/server/progress" not in alice.log.read_text()


class BareSpawner(BricsSlurmSpawner):
    """A spawner without a hub: what it runs needs no variables."""

    _log_name = "bare"
    orm_spawner = SimpleNamespace(name="", server=None)
    db = SimpleNamespace(commit=lambda: None)

    def get_req_subvars(self) -> dict:
        """No variables."""
        return {}

    def get_env(self) -> dict:
        """No environment."""
        return {}


def test_start_given_up(tmp_path: Path) -> None:
    """A start given up while the job is being submitted knows the job afterwards, so that it is cancelled."""
    go = tmp_path / "go"

    async def give_up() -> None:
        asyncio.get_running_loop().call_later(0.2, go.touch)
        await asyncio.wait_for(spawner.submit_batch_script(), 0.05)

    spawner = BareSpawner(
        exec_prefix="", batch_submit_cmd=f"until [ -e {go} ]; do sleep 0.01; done; echo 12", batch_script=""
    )
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up())
    assert spawner.job_id == "12"
    assert spawner.orm_spawner.state["job_id"] == "12"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("true", JobStatus.NOTFOUND),
        ("echo RUNNING node1", JobStatus.RUNNING),
        ("echo PENDING n/a", JobStatus.PENDING),
        ("echo CONFIGURING node1", JobStatus.PENDING),
        ("echo COMPLETING node1", JobStatus.RUNNING),
        ("echo SUSPENDED node1", JobStatus.RUNNING),
        ("echo CANCELLED node1", JobStatus.NOTFOUND),
        ("echo OUT_OF_MEMORY node1", JobStatus.NOTFOUND),
        ("echo Welcome; echo RUNNING node1", JobStatus.RUNNING),
        ("echo Welcome", JobStatus.UNKNOWN),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", JobStatus.NOTFOUND),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", JobStatus.UNKNOWN),
        ("exit 255", JobStatus.UNKNOWN),
        ("sleep 9", JobStatus.UNKNOWN),
        ('test "$SLURMSPAWNER_JOB_ID" = 7 || echo not passed', JobStatus.NOTFOUND),
    ],
)
def test_status(answer: str, status: JobStatus) -> None:
    """What an answer of squeue, or none, says of the job."""
    spawner = BareSpawner(exec_prefix="", batch_query_cmd=answer, command_timeout=0.1 if "sleep" in answer else 10)
    spawner.job_id = "7"
    assert asyncio.run(spawner.query_job_status()) == status


REFUSED_BY_SUDO = [
    "sudo: unknown user alice.p1",
    "sudo: unknown user: alice.p1",
    "sudo: a password is required",
    "Sorry, user hub is not allowed to execute '/usr/bin/scancel' as alice.p1 on login1.",
    "Sorry, user hub may not run sudo on login1.",
    # sudo-rs
    "sudo: user 'alice.p1' not found",
    "sudo: interactive authentication is required",
    "sudo: A terminal is required to authenticate",
    "sudo: I'm sorry hub. I'm afraid I can't do that",
]


@pytest.mark.parametrize("message", ["scancel: error: Access denied", *REFUSED_BY_SUDO])
def test_never_cancelled(message: str, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    """A job that can't be cancelled is given up after long, at once if sudo refuses, and an error names it."""
    monkeypatch.setattr(
        "bricsauthenticator.cancellation.CANCEL_GIVE_UP_TIME", 3600 if message in REFUSED_BY_SUDO else 1
    )
    spawner = BareSpawner(
        exec_prefix="",
        batch_query_cmd="echo RUNNING node1",
        batch_cancel_cmd=f"echo {shlex.quote(message)} >&2; exit 1",
        startup_poll_interval=0.05,
    )
    spawner.job_id, spawner.req_username = "7", "alice.p1"
    asyncio.run(asyncio.wait_for(spawner.stop(), 60))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"bare: job 7 of alice.p1 can't be cancelled and may still be there: {message}"]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert bool(warnings) == (message not in REFUSED_BY_SUDO)


@pytest.mark.parametrize("message", REFUSED_BY_SUDO)
@pytest.mark.parametrize(
    ("many", "up", "status"),
    [
        ("", False, JobStatus.NOTFOUND),
        ("true", False, JobStatus.NOTFOUND),
        ("echo '7|10001|FAILED|node1|None'", False, JobStatus.NOTFOUND),
        # Only the login host doesn't know the account, for a while perhaps.
        ("", True, JobStatus.UNKNOWN),
        ("true", True, JobStatus.UNKNOWN),
        ("echo '7|10001|RUNNING|node1|None'", False, JobStatus.UNKNOWN),
    ],
)
def test_account_removed(message: str, many: str, up: bool, status: JobStatus) -> None:
    """The job of an account that is no more has gone when its server has, unless Slurm says that it is there."""
    query = f"echo {shlex.quote(message)} >&2; exit 1"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ip, port = listening.getsockname()

        class Spawner(BareSpawner):
            server = Server(ip=ip, port=port)

        spawner = Spawner(exec_prefix="", batch_query_many_cmd=many, batch_query_cmd=query)
        spawner.job_id, spawner.req_username = "7", "alice.p1"
        if not up:
            listening.close()
        assert asyncio.run(spawner.query_job_status()) == status


@pytest.mark.parametrize(
    ("state", "percentage", "message"),
    [
        ("7|alice.p1|PENDING||Priority|N/A", 40, "Slurm job 7 is waiting in the queue (Priority)"),
        (
            "7|alice.p1|PENDING||Resources|{soon}",
            40,
            "Slurm job 7 is waiting in the queue (Resources, expected to start in 9 min)",
        ),
        ("7|alice.p1|PENDING||Priority", 40, "Slurm job 7 is waiting in the queue (Priority)"),
        ("7|alice.p1|RUNNING|node1|None|{soon}", 70, "Slurm job 7 is running, waiting for its server"),
    ],
)
def test_progress_message(state: str, percentage: int, message: str) -> None:
    """The page of a waiting job says why it waits, and until when if Slurm knows."""
    soon = (datetime.now(timezone.utc) + timedelta(minutes=9)).strftime("%Y-%m-%dT%H:%M:%S")
    spawner = BareSpawner(exec_prefix="", batch_query_many_cmd=f"echo '{state.format(soon=soon)}'")
    spawner.job_id, spawner.req_username = "7", "alice.p1"
    asyncio.run(spawner.query_job_status())
    assert progress_of(spawner) == (percentage, message)


def test_progress_without_an_answer_of_slurm() -> None:
    """The page of a job that isn't submitted, not yet queried, or whose server runs, says so."""
    spawner = BareSpawner()
    assert progress_of(spawner) == (10, "Submitting the Slurm job")
    spawner.submit_trouble = "Connection refused"
    assert progress_of(spawner) == (10, "Submitting the Slurm job: Connection refused; trying again")
    spawner.job_id = "7"
    assert progress_of(spawner) == (25, "Slurm job 7 is submitted")

    class Spawner(BareSpawner):
        server = Server(ip="127.0.0.1", port=1)

    spawner = Spawner()
    spawner.job_id = "7"
    assert progress_of(spawner) == (90, "Slurm job 7 has started its server, waiting for an answer")


@pytest.mark.parametrize(("output", "job_id"), [("12", "12"), ("12;cluster", "12"), ("Hello\n12", "12")])
def test_job_id(output: str, job_id: str) -> None:
    """The job id is in the last line of what sbatch prints."""
    assert BricsSlurmSpawner().parse_job_id(output) == job_id


@pytest.mark.parametrize("output", ["", "-1", "1_0", "12\nbye", "12 x", "$(id)", "1;a;b"])
def test_no_job_id(output: str) -> None:
    """Anything else is no job id."""
    with pytest.raises(RuntimeError):
        BricsSlurmSpawner().parse_job_id(output)
