"""Users' servers: how they start, wait and fail, and what they withstand."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from .helpers import (
    START,
    STOP,
    Deployment,
    HubUser,
    StateError,
    inside,
    invoke,
    once,
    restart_hub,
    spawned,
    wait_until,
)

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


@once
def test_a_wrong_password_is_refused_politely(deployment: Deployment) -> None:
    """403 and the form again, not an error page."""
    with HubUser(deployment.status["url"]) as user, pytest.raises(StateError, match="answered 403"):
        user.log_in("wrong")


@inside
@once
def test_a_long_user_name_is_not_logged_whole(deployment: Deployment) -> None:
    """What a stranger sends before the log-in fills no disk. (From 1 MB on the hub takes no request at all.)"""
    before = deployment.log("jupyterhub")
    with HubUser(deployment.status["url"]) as user:
        user.page("/hub/login")
        fields = {"_xsrf": user.http.cookies["_xsrf"], "username": "x" * 900_000, "password": "wrong"}
        url = f"{user.url}/hub/login"
        assert user.http.post(url, params={"_xsrf": fields["_xsrf"]}, data=fields).status_code == 403

    def logged() -> bool:
        return deployment.log("jupyterhub").count("xxx...") > before.count("xxx...")

    wait_until(logged, 30, "the name isn't in the log")
    assert len(deployment.log("jupyterhub")) - len(before) < 100_000


# Run in the hub's container: a server that gives a request half a second, and a request whose body takes two.
SLOW_SAVE = """
const http = require("http");
const limits = { requestTimeout: 500, connectionsCheckingInterval: 50 };
const server = http.createServer(limits, (request, response) => request.resume().on("end", () => response.end()));
server.listen(0, "127.0.0.1", () => {
    const to = { port: server.address().port, method: "PUT", headers: { "Content-Length": 2 } };
    const request = http.request(to, (answer) => process.exit(console.log(answer.statusCode)));
    request.write("a");
    setTimeout(() => request.end("b"), 2000);
});
"""


@inside
@once
def test_a_large_notebook_can_be_saved_over_a_slow_line(deployment: Deployment) -> None:
    """The proxy doesn't answer 408 after node's time limit, which is five minutes for a whole request."""
    command = ("node", "--require", "/usr/local/lib/proxy/refuse.cjs", "--eval", SLOW_SAVE)
    assert deployment.run_in("jupyterhub", *command) == "200"


@inside
def test_a_server_survives_a_restart_of_the_hub(deployment: Deployment) -> None:
    """The kernel goes on while the hub is away; the hub finds the server again, and stopping it ends the job.

    `verify` leaves it alone: it starts one with a name beside it.
    """
    with deployment.user() as user:
        job = spawned(deployment, user)
        assert "12 steps, all well" in invoke("verify", *deployment.options).stdout
        with user.kernel() as execute:
            assert execute("kept = 6 * 7") == ""
            # On sockets: of many kernels in one network some would choose the same ports.
            assert execute("print(get_ipython().kernel.parent.transport)") == "ipc\n"
            restart_hub(deployment)
            assert execute("print(kept)") == "42\n"
            wait_until(lambda: deployment.health == 200, STOP, "the hub did not come back")
            assert execute("print(kept)") == "42\n"
        server = user.server()
        assert server is not None
        assert server["ready"]
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)
        wait_until(lambda: job not in deployment.jobs(), STOP, f"job {job} is still there")


@contextlib.contextmanager
def waiting_job(deployment: Deployment, user: HubUser, **choices: str) -> Iterator[str]:
    """Have ``user`` ask for a server with ``choices``; give its job's number, and let it wait while the block runs."""
    drain = ("scontrol", "update", "NodeName=node1", "Reason=test")
    _, options = user.spawn_form()
    before = set(deployment.jobs())
    deployment.run_in("slurm", *drain, "State=DRAIN")
    try:
        user.spawn({"brics_project": options["brics_project"][0], **choices})
        wait_until(lambda: set(deployment.jobs()) - before, START, "no job was submitted")
        (job,) = set(deployment.jobs()) - before
        assert deployment.jobs()[job] == "PENDING"
        yield job
    finally:
        deployment.run_in("slurm", *drain, "State=RESUME")


@once
def test_a_start_goes_on_after_a_restart_of_the_hub(deployment: Deployment) -> None:
    """A job that waits in the queue while the hub restarts is kept: the server is ready soon after it runs."""
    with deployment.user() as user:
        with waiting_job(deployment, user) as job:
            restart_hub(deployment)
            wait_until(lambda: deployment.health == 200, STOP, "the hub did not come back")
            server = user.server()
            assert server is not None
            assert server["pending"] == "spawn"
        user.wait_ready(START)
        assert deployment.jobs()[job] == "RUNNING"
        user.notebook_api("GET", "/kernels")
        user.stop(STOP)


@inside
@once
def test_a_server_is_not_forgotten_while_slurm_cannot_be_asked(deployment: Deployment) -> None:
    """With sshd away the hub doesn't know the job's state; unknown is not gone."""
    with deployment.user() as user:
        job = spawned(deployment, user)
        deployment.run_in("slurm", "s6-svc", "-d", "/run/service/sshd")
        deployment.run_in("jupyterhub", "ssh", "-O", "exit", "jupyterspawner@slurm", check=False)
        deployment.run_in("slurm", "pkill", "-f", "sshd-session", check=False)
        try:
            told = f"state of job {job} unknown: "
            wait_until(lambda: told in deployment.log("jupyterhub"), STOP, "the hub has not asked")
            server = user.server()
            assert server is not None
            assert server["ready"]
        finally:
            deployment.run_in("slurm", "s6-svc", "-u", "/run/service/sshd")
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)
        wait_until(lambda: job not in deployment.jobs(), STOP, f"job {job} is still there")


@inside
def test_a_bad_form_is_refused_and_submits_nothing(deployment: Deployment) -> None:
    """Injection, a project of somebody else's, a missing field: a message, and no job."""
    before = deployment.jobs()
    with deployment.user() as user:
        for choices in (
            {"brics_project": "project9.brics"},
            {"brics_project": "project1.brics; id"},
            {"runtime": "1:00:00; id"},
            {"partition": "$(id)"},
            {"reservation": "a b"},
            {"ngpus": "12"},
            {"unknown": "x"},
        ):
            with pytest.raises(StateError, match="answered 400"):
                user.spawn({"brics_project": "project1.brics", **choices})
    assert deployment.jobs() == before


@inside
@once
def test_a_drained_node_keeps_a_job_with_gpus_waiting(deployment: Deployment) -> None:
    """A job asks Slurm for the form's number of GPUs; while its node is drained its page says why, and how long.

    It is given a time to begin, which Slurm reports as its expected start.
    """
    with deployment.user() as user:
        with waiting_job(deployment, user, ngpus="2") as job:
            progress = f"{user.url}/hub/api/users/{user.name}/server/progress"
            with user.http.stream("GET", progress) as events:
                waiting = f"Slurm job {job} is waiting in the queue ("
                lines = events.iter_lines()
                assert any(waiting in event for event in lines)
                begin = ("scontrol", "update", f"JobId={job}")
                deployment.run_in("slurm", *begin, "StartTime=now+1hour")
                assert any(re.search("queue .*, expected to start in (59|60) min", event) for event in lines)
                deployment.run_in("slurm", *begin, "StartTime=now")
        user.wait_ready(START)
        assert "gres/gpu:2" in deployment.run_in("slurm", "scontrol", "show", "job", job)
        with user.kernel() as run:
            assert run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])").strip() == "0,1"
        user.stop(STOP)


def queries(deployment: Deployment) -> dict[str, int]:
    """Return how often Slurm has been asked since `sdiag --reset`, by the kind of request."""
    lines = deployment.run_in("slurm", "sdiag").splitlines()
    return {
        line.split()[0]: int(line.partition("count:")[2].split()[0]) for line in lines if "count:" in line
    }


@inside
@once
def test_slurm_is_asked_once_for_many_servers(deployment: Deployment) -> None:
    """Three servers cost one query of all their jobs at each poll, and none of one job; the hub sees one that ends."""
    names, polls, interval = ("one", "two", "three"), 5, 2  # as in SETTINGS
    with deployment.user() as user:
        _, options = user.spawn_form()
        for name in names:
            user.spawn({"brics_project": options["brics_project"][0]}, name)
        for name in names:
            user.wait_ready(START, name)
        began = time.monotonic()
        deployment.run_in("slurm", "sdiag", "--reset")
        time.sleep(polls * interval)
        # A busy machine makes fewer polls in this time, never more.
        wait_until(
            lambda: queries(deployment).get("REQUEST_JOB_INFO", 0) >= polls - 1, START, "Slurm is not asked"
        )
        counts = queries(deployment)
        assert counts["REQUEST_JOB_INFO"] <= (time.monotonic() - began) / interval + 1
        assert "REQUEST_JOB_INFO_SINGLE" not in counts
        deployment.run_in("slurm", "scancel", min(deployment.jobs(), key=int))
        wait_until(
            lambda: sum(user.server(name) is None for name in names) == 1, STOP, "the hub did not notice"
        )
        for name in names:
            if user.server(name):
                user.stop(STOP, name)


@inside
def test_a_job_that_dies_is_shown_to_its_user(deployment: Deployment) -> None:
    """The page of a start that failed says in Slurm's words what became of the job."""
    activate = "/opt/jupyter/bin/activate"
    with deployment.user() as user:
        _, options = user.spawn_form()
        deployment.run_in("slurm", "mv", activate, f"{activate}.away")
        try:
            user.spawn({"brics_project": options["brics_project"][0]})
            with pytest.raises(StateError) as failed:
                user.wait_ready(START)
        finally:
            deployment.run_in("slurm", "mv", f"{activate}.away", activate)
    assert "ended before its server was up: FAILED (NonZeroExitCode)" in str(failed.value.details)


@inside
@once
def test_a_users_next_job_removes_what_the_last_one_left(deployment: Deployment) -> None:
    """A job's runtime folder has its process in its name; it stays while that runs."""
    activate = 'export SLURM_JOB_ID=1; source /opt/jupyter/bin/activate jupyter-user-env; echo "$JUPYTER_RUNTIME_DIR"'

    def folders(command: str) -> list[str]:
        as_user = ("runuser", "--user", "alice.project1", "--", "bash", "-euc", command)
        return deployment.run_in("slurm", *as_user).splitlines()

    (ended,) = folders(activate)
    meanwhile = f"env --unset=JUPYTER_RUNTIME_DIR bash -euc '{activate}'"
    running, other, *there = folders(f"{activate}; {meanwhile}; ls -d /tmp/jupyter-*")
    assert ended.startswith("/tmp/jupyter-")
    assert ended not in there
    assert {running, other} <= set(there)
