"""Daemons and containers that die under a running server: what comes back, and what the hub knows then."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .helpers import (
    ACCOUNT,
    START,
    STOP,
    Deployment,
    HubUser,
    StateError,
    http_status,
    inside,
    login_host_answers,
    once,
    restart_hub,
    rootless,
    service,
    spawned,
    wait_until,
)

pytestmark = [once, inside]

# Crashes after which s6 must have given a service up; it does so at five within a minute.
CRASHES = 8
# Listen at ports until the input ends.
LISTEN = (
    "import socket, sys; held = [socket.create_server(('127.0.0.1', int(port))) for port in sys.argv[1:]]; "
    "print(flush=True); sys.stdin.read()"
)
# Seconds until all is well after a daemon has died; 2 to 6 on a machine that does nothing else.
HEALED = 60


@pytest.fixture(scope="module")
def user(deployment: Deployment) -> Iterator[HubUser]:
    """A user who has logged in, and whose server the tests share."""
    with deployment.user() as user:
        yield user
        with contextlib.suppress(StateError):
            user.stop(STOP)
    wait_until(lambda: not deployment.jobs(), STOP, "the job has not ended")


def job_of(deployment: Deployment, user: HubUser) -> str:
    """Return the number of the job with the user's server, which is started if there is none."""
    return next(iter(deployment.jobs()), None) or spawned(deployment, user)


def kill(deployment: Deployment, container: str, name: str) -> None:
    """Kill a service and wait until another process has taken its place, or its container has ended."""
    before = service(deployment, container, name)
    deployment.run_in(container, "s6-svc", "-k", f"/run/service/{name}", check=False)
    wait_until(
        lambda: service(deployment, container, name) not in (before, "-1"), HEALED, f"{name} is not back"
    )


def serves(user: HubUser) -> bool:
    """Return whether the user's server answers behind the proxy, and the hub knows it."""
    try:
        user.notebook_api("GET", "/kernels")
        server = user.server()
    except (StateError, httpx.TransportError):
        return False
    return server is not None and bool(server["ready"])


def slurm_is_well(deployment: Deployment) -> bool:
    """Return whether the hub gets at the wrappers' host and the node has its job."""
    node = deployment.run_in("slurm", "sinfo", "--noheader", "--Node", "--format=%t", check=False)
    return login_host_answers(deployment) and node == "mix"


def hub_answers(deployment: Deployment) -> bool:
    """Return whether the log-in page is there."""
    return http_status(f"{deployment.status['url']}/hub/login") == 200


@pytest.mark.parametrize(
    ("container", "name"),
    [
        ("jupyterhub", "configurable-http-proxy"),
        ("slurm", "munged"),
        ("slurm", "slurmctld"),
        ("slurm", "slurmd-node1"),
        ("slurm", "sshd"),
    ],
)
def test_a_daemon_that_dies_is_back(deployment: Deployment, user: HubUser, container: str, name: str) -> None:
    """It is started anew, the job runs on, and its server is reachable again; the proxy has all its routes."""
    job = job_of(deployment, user)
    kill(deployment, container, name)
    wait_until(
        lambda: serves(user) and slurm_is_well(deployment), HEALED, f"not all is well {HEALED} s later"
    )
    assert deployment.jobs() == {job: "RUNNING"}


def test_a_taken_port_is_waited_for(deployment: Deployment) -> None:
    """Hub and proxy start as soon as another program leaves their ports; their container goes on."""
    services = ("/run/service/jupyterhub", "/run/service/configurable-http-proxy")
    hub = f"{deployment.status['pod']}-jupyterhub"
    command = deployment.engine.exec_command(
        hub, "python3", "-c", LISTEN, "8081", "8001", user="root", interactive=True
    )
    for path in services:
        deployment.run_in("jupyterhub", "s6-svc", "-wD", "-d", path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        for path in services:
            deployment.run_in("jupyterhub", "s6-svc", "-u", path)
        for port in (8081, 8001):
            wait_until(
                lambda port=port: f"another program listens on port {port}" in deployment.log("jupyterhub"),
                HEALED,
                f"nobody says that port {port} is taken",
            )
        listener.communicate(b"")
    wait_until(lambda: hub_answers(deployment), HEALED, "the hub has not come back")


def test_a_slurm_that_ended_starts_again(deployment: Deployment, user: HubUser) -> None:
    """A daemon that keeps crashing ends its container; started anew the job has failed, as the hub knows too."""
    container = f"{deployment.status['pod']}-slurm"
    job = job_of(deployment, user)
    for _ in range(CRASHES):
        if service(deployment, "slurm", "slurmd-node1"):
            kill(deployment, "slurm", "slurmd-node1")
    state = ("podman", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container)
    wait_until(lambda: deployment.engine.run(state).text == "exited 1", HEALED, "the container has not ended")
    server = user.server()
    assert server is not None
    assert server["ready"]
    deployment.engine.run(("podman", "start", container))
    wait_until(lambda: user.server() is None, STOP, "the hub has not noticed")
    assert "JobState=NODE_FAIL" in deployment.run_in("slurm", "scontrol", "show", "job", job)
    assert int(spawned(deployment, user)) > int(job)


def test_a_hub_that_is_stopped_and_started(deployment: Deployment, user: HubUser) -> None:
    """Its container knows the servers of before, and those that ended meanwhile as ended."""
    container = f"{deployment.status['pod']}-jupyterhub"
    job_of(deployment, user)
    for action in ("stop", "start"):
        deployment.engine.run(("podman", action, container))
    wait_until(lambda: hub_answers(deployment) and serves(user), HEALED, "the server is not reachable")
    deployment.engine.run(("podman", "stop", container))
    deployment.run_in("slurm", "scancel", *deployment.jobs())
    wait_until(lambda: not deployment.jobs(), STOP, "the job has not ended")
    deployment.engine.run(("podman", "start", container))
    wait_until(lambda: hub_answers(deployment), HEALED, "the hub is not back")
    wait_until(lambda: user.server() is None, STOP, "the hub has not noticed")


def asked(user: HubUser, method: str, name: str, body: dict[str, object]) -> int:
    """Ask the hub to start (POST) or stop (DELETE) a server, and return the status of its answer."""
    url = f"{user.url}/hub/api/users/{user.name}/servers/{name}"
    return user.http.request(method, url, headers=user.bearer, json=body).status_code


def test_a_power_loss(deployment: Deployment, user: HubUser) -> None:
    """Slurm and hub are killed, and Slurm starts the jobs anew: a server is reachable or gone, and can be stopped.

    The hub is back first, so that it can't know more of the servers than that they don't answer.
    """
    job_of(deployment, user)
    choices = {"brics_project": "project1.brics", "runtime": "00:10:00", "ngpus": "0"}
    user.spawn(choices, "other")
    user.wait_ready(START, "other")
    for job in deployment.jobs():
        deployment.run_in("slurm", "scontrol", "update", f"JobId={job}", "Requeue=1")
    slurm, hub = (f"{deployment.status['pod']}-{name}" for name in ("slurm", "jupyterhub"))
    deployment.engine.run(("podman", "stop", "--time=0", slurm, hub))  # by SIGKILL; waits for their end
    deployment.engine.run(("podman", "start", hub))
    wait_until(lambda: hub_answers(deployment), HEALED, "the hub is not back")
    try:
        # 400 is right for a server that is ready.
        assert asked(user, "POST", "other", {**choices}) == 202 or (user.server("other") or {}).get("ready")
        assert asked(user, "DELETE", "other", {"remove": True}) in (202, 204)
    finally:
        deployment.engine.run(("podman", "start", slurm))
    wait_until(lambda: user.server("other") is None, HEALED, "the other server is not stopped")
    wait_until(lambda: user.server() is None or serves(user), HEALED, "the server is neither there nor gone")


def run_with_mounts(deployment: Deployment, container: str, script: str) -> None:
    """Run a shell script with the mounts of a container and this host's root, who may change them."""
    name = f"{deployment.status['pod']}-{container}"
    process = deployment.engine.run(("podman", "inspect", "--format={{.State.Pid}}", name)).text
    enter = ("nsenter", "--mount", "--pid", "--target", process)
    deployment.engine.run((*enter, "sh", "-euc", script))


@contextlib.contextmanager
def small_disk(deployment: Deployment) -> Iterator[str]:
    """Let the hub keep database and logs on a disk of their own, at the path that is given."""
    kept, disk = "/var/lib/jupyterhub", "/mnt"

    def without_hub(script: str) -> None:
        deployment.run_in("jupyterhub", "s6-svc", "-wD", "-d", "/run/service/jupyterhub")
        run_with_mounts(deployment, "jupyterhub", script)
        for logger in ("jupyterhub", "configurable-http-proxy"):
            deployment.run_in("jupyterhub", "s6-svc", "-k", f"/run/service/{logger}/log")
        deployment.run_in("jupyterhub", "s6-svc", "-u", "/run/service/jupyterhub")

    without_hub(
        f"mount -t tmpfs -o size=40m tmpfs {disk}; cp -a {kept}/. {disk}; chown --reference={kept} {disk};"
        f"mount --move {disk} {kept}"
    )
    try:
        yield kept
    finally:
        database = f"{kept}/jupyterhub.sqlite"
        without_hub(f"mv {database} {disk}; umount --lazy {kept}; mv {disk}/jupyterhub.sqlite {database}")


@contextlib.contextmanager
def full(deployment: Deployment, folder: str, container: str = "jupyterhub") -> Iterator[None]:
    """Let the disk with a folder in a container be full."""
    deployment.run_in(container, "dd", "if=/dev/zero", f"of={folder}/fill", "bs=4k", check=False)
    try:
        yield
    finally:
        deployment.run_in(container, "rm", f"{folder}/fill")


@pytest.mark.skipif(rootless(), reason="only root can mount a disk in a container")
def test_a_full_disk(deployment: Deployment, user: HubUser) -> None:
    """Servers stay usable and nobody waits for a log; a start is 503. All is well as soon as there is room."""
    job = job_of(deployment, user)
    choices = {"brics_project": "project1.brics", "runtime": "00:10:00", "ngpus": "0"}
    with small_disk(deployment) as folder:
        wait_until(lambda: serves(user), HEALED, "the server is not reachable")
        log = f"{folder}/log/jupyterhub/current"
        with full(deployment, folder):
            for _ in range(40):  # more lines than the pipe to the logger would hold
                assert http_status(f"{user.url}/hub/{'x' * 6000}") == 404
            user.page("/hub/home")
            assert serves(user)
            with pytest.raises(StateError, match="answered 503"):
                user.api("POST", f"/users/{user.name}/servers/other", choices)
            kill(deployment, "jupyterhub", "configurable-http-proxy")
            wait_until(lambda: serves(user), HEALED, "the proxy has no routes")
            deployment.run_in("jupyterhub", "s6-svc", "-k", "/run/service/jupyterhub/log")
            wait_until(lambda: "can't be written to" in deployment.log("jupyterhub"), HEALED, "not said")
            restart_hub(deployment)
            wait_until(
                lambda: "the hub starts as soon as" in deployment.log("jupyterhub"), HEALED, "not said"
            )
            assert http_status(f"{user.url}/hub/login") == 503
        wait_until(lambda: hub_answers(deployment) and serves(user), HEALED, "the server is not reachable")
        assert deployment.jobs() == {job: "RUNNING"}

        def is_logged() -> bool:  # up to 10 s later: until then the container's log has the lines alone
            http_status(f"{user.url}/hub/afterwards")
            return "afterwards" in deployment.run_in("jupyterhub", "cat", log)

        wait_until(is_logged, HEALED, "not logged")
    wait_until(lambda: hub_answers(deployment) and serves(user), HEALED, "the server is not reachable")
    user.stop(STOP)
    wait_until(lambda: not deployment.jobs(), STOP, "the job has not ended")


@pytest.mark.skipif(rootless(), reason="only root can mount a disk in a container")
def test_a_node_whose_disk_was_full(deployment: Deployment) -> None:
    """Slurm drains it, for good; it takes jobs again as soon as there is room."""
    spool = "/var/lib/slurm/spool"

    def state() -> str:
        return deployment.run_in("slurm", "sinfo", "--noheader", "--Node", "--format=%t %E")

    script = f"mount -t tmpfs -o size=8m tmpfs /mnt; cp -a {spool}/. /mnt; mount --move /mnt {spool}"
    run_with_mounts(deployment, "slurm", script)
    try:
        with full(deployment, spool, "slurm"):
            submit = ("runuser", "-u", ACCOUNT, "--", "sbatch", "--output=/dev/null", "--wrap=true")
            deployment.run_in("slurm", *submit)
            wait_until(lambda: state().startswith("drain SlurmdSpoolDir"), HEALED, "the node is not drained")
        wait_until(lambda: state().startswith("idle"), HEALED, "the node has not returned to service")
    finally:
        run_with_mounts(deployment, "slurm", f"umount --lazy {spool}")


def restart_sshd(deployment: Deployment) -> None:
    """Let sshd read its configuration again, and the hub make a new connection."""
    kill(deployment, "slurm", "sshd")
    wait_until(lambda: login_host_answers(deployment), HEALED, "sshd is not back")


@contextlib.contextmanager
def stock_sshd(deployment: Deployment) -> Iterator[None]:
    """Give the login host OpenSSH's own limits of sessions and connections."""
    config = "/etc/ssh/sshd_config"
    deployment.run_in("slurm", "cp", config, f"{config}.ours")
    try:
        limits = ("-e", "s/^MaxSessions .*/MaxSessions 10/", "-e", "s/^MaxStartups .*/MaxStartups 10:30:100/")
        deployment.run_in("slurm", "sed", "-i", *limits, config)
        restart_sshd(deployment)
        yield
    finally:
        deployment.run_in("slurm", "mv", f"{config}.ours", config)
        restart_sshd(deployment)


@contextlib.contextmanager
def drained(deployment: Deployment) -> Iterator[None]:
    """Let new jobs wait in the queue."""
    deployment.run_in("slurm", "scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test")
    try:
        yield
    finally:
        deployment.run_in("slurm", "scontrol", "update", "NodeName=node1", "State=RESUME")


def test_many_starts_wait(deployment: Deployment, user: HubUser) -> None:
    """105 starts at once, over a login host with stock limits, all come to Slurm's queue: none is refused or fails."""
    _, options = user.spawn_form()
    choices = {"brics_project": options["brics_project"][0], "runtime": "00:10:00", "ngpus": "0"}
    before = set(deployment.jobs())
    names = [f"wait{number}" for number in range(105)]
    path = f"/users/{user.name}/servers"
    with stock_sshd(deployment), drained(deployment), ThreadPoolExecutor(30) as threads:
        list(threads.map(lambda name: user.api("POST", f"{path}/{name}", choices), names))

        def waiting() -> int:
            servers = user.api("GET", f"/users/{user.name}").json()["servers"]
            assert {servers.get(name, {}).get("pending") for name in names} == {"spawn"}
            return len(set(deployment.jobs()) - before)

        wait_until(lambda: waiting() == len(names), 240, "not all are in the queue")
        list(threads.map(lambda name: user.api("DELETE", f"{path}/{name}", {"remove": True}), names))
        wait_until(lambda: set(deployment.jobs()) == before, 120, "not all have left the queue")
