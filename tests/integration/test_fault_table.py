"""The sixteen faults of docs/faults.md, with three servers of two users: `nox -s faults`."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from .helpers import Deployment, HubUser, StateError, execute, login_host_answers, slowdown, wait_until

pytestmark = [pytest.mark.environments("dev_realauth"), pytest.mark.faults]

# Seconds for a server to start, and for what a fault has broken to be back, on a machine that has other work.
START, AGREE = 120, 60
# Seconds until hub and Slurm agree, from when both answer: a poll of the hub (2 s here), and what comes of it.
SOON = 2 + 5
# Seconds that the network is cut, and the database locked.
CUT, LOCKED = 15, 12


def at_once(work: Callable[[Any], None], items: list[Any]) -> None:
    """Call ``work`` with each of the items, all at the same time; raises what one of the calls has raised."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(work, items))


@dataclass
class Server:
    """A server of a user's in one project, and the kernel with a variable that a fault may cost."""

    user: HubUser
    project: str
    name: str = ""
    kernel: str = ""
    value: str = ""

    @property
    def account(self) -> str:
        """Return the account that its job runs in."""
        return f"{self.user.name}.{self.project}"

    def start(self) -> None:
        """Start it and its kernel, and set the variable."""
        self.user.spawn({"brics_project": f"{self.project}.brics"}, self.name)
        self.user.wait_ready(START, self.name)
        self.kernel = self.user.notebook_api("POST", "/kernels", self.name, {"name": "python3"}).json()["id"]
        self.value = str(time.monotonic_ns())
        self.run(f"value = {self.value}")

    def run(self, code: str) -> str:
        """Run code in its kernel, over a connection of its own."""
        from websockets.sync.client import connect

        server = f"{self.name}/" if self.name else ""
        path = f"{self.user.url}/user/{self.user.name}/{server}api/kernels/{self.kernel}/channels?session_id=faults"
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.user.http.cookies.jar)
        headers = {**self.user.bearer, "Cookie": cookies}
        address = urlsplit(path)._replace(scheme="ws").geturl()
        limits: dict[str, Any] = {"open_timeout": 60, "ping_timeout": None, "max_size": None}
        with connect(address, additional_headers=headers, proxy=None, **limits) as socket:
            return execute(socket, "faults", code, 60)

    def listed(self) -> dict[str, Any] | None:
        """Return what the hub says of it, None if it has no such server."""
        return self.user.server(self.name)

    def ready(self) -> bool:
        """Return whether the hub says that it is ready."""
        return bool((self.listed() or {}).get("ready"))

    def answers(self) -> bool:
        """Return whether it answers behind the proxy."""
        try:
            return bool(self.user.notebook_api("GET", "/status", self.name))
        except (StateError, httpx.TransportError):
            return False

    def remembers(self) -> bool:
        """Return whether its kernel has the variable."""
        try:
            return self.run("print(value)").strip() == self.value
        except Exception:  # whatever is broken on the way, the next try may find it mended
            return False


@dataclass
class Scene:
    """A pod in which three servers of two users run."""

    deployment: Deployment
    servers: list[Server] = field(default_factory=list)

    def on_node(self, node: str) -> list[Server]:
        """Return the servers whose jobs are on this node."""
        accounts = self.slurm("squeue", "--noheader", f"--nodelist={node}", "--format=%u").split()
        return [server for server in self.servers if server.account in accounts]

    def jobs(self) -> dict[str, str]:
        """Return the number of the running job of each account; fails if one has two."""
        listing = self.slurm(
            "squeue", "--noheader", "--states=RUNNING,PENDING,COMPLETING", "--format=%u %i %T"
        )
        rows = [line.split() for line in listing.splitlines()]
        jobs = {account: number for account, number, state in rows if state != "COMPLETING"}
        assert len(jobs) == len([row for row in rows if row[2] != "COMPLETING"]), f"an orphan: {rows}"
        return jobs

    def slurm_answers(self) -> bool:
        """Return whether the hub gets at the login host, and a command at Slurm's controller."""
        slurm = "is UP" in self.deployment.run_in("slurm", "scontrol", "ping", check=False)
        return slurm and login_host_answers(self.deployment)

    def slurm(self, *command: str) -> str:
        """Run a command in Slurm's container and return what it prints."""
        return self.deployment.run_in("slurm", *command)

    def agree(self) -> bool:
        """Return whether Slurm has a job for each server that the hub says is ready, and for no other; all answer."""
        try:
            listed = {server.account for server in self.servers if server.listed()}
            return listed == set(self.jobs()) and all(
                server.ready() and server.answers() for server in self.servers if server.account in listed
            )
        except (StateError, httpx.TransportError, AssertionError):
            return False

    def prepare(self) -> None:
        """Start what is missing of the three servers, and anew what an earlier fault has cost its kernel."""

        def start(server: Server) -> None:
            if server.listed() and not server.remembers():
                server.user.stop(AGREE, server.name)
            if not server.listed():
                server.start()

        at_once(start, self.servers)
        wait_until(self.agree, AGREE, f"no good beginning: {self.describe()}")

    def describe(self) -> str:
        """Return what hub and Slurm say, for a failed test's message."""
        servers = [(server.account, server.listed(), server.answers()) for server in self.servers]
        return f"{servers} {self.slurm('squeue', '--noheader', '--format=%u %i %T %r')}"

    def survive(self, *lost: Server, within: float = 0) -> None:
        """Check what every fault has to leave: hub and Slurm agree, the kernels of all but ``lost``, log-in works.

        They agree SOON after both answer again, or ``within`` so many seconds.
        """
        wait_until(lambda: self.hub_answers() and self.slurm_answers(), AGREE, "hub or Slurm doesn't answer")
        wait_until(self.agree, within or SOON * slowdown(), "hub and Slurm don't agree")

        def remembers(server: Server) -> None:
            wait_until(server.remembers, AGREE, f"the kernel of {server.account} has lost its variable")

        def logs_in(name: str) -> None:
            with self.deployment.user(name) as user:
                assert user.name == name

        at_once(remembers, [server for server in self.servers if server not in lost])
        at_once(logs_in, ["alice", "bob"])

    def logs_in(self, user: HubUser) -> bool:
        """Return whether a log-in works; one just after a restart may find a service that doesn't answer yet."""
        try:
            user.log_in_at_provider(user.name, self.deployment.password)
        except (StateError, httpx.TransportError):
            return False
        return True

    def service(self, container: str, name: str) -> str:
        """Return the process number of a service, -1 while it is down."""
        answer = self.deployment.run_in(
            container, "s6-svstat", "-o", "pid", f"/run/service/{name}", check=False
        )
        return answer or "-1"

    def kill(self, container: str, name: str) -> None:
        """Kill a service; returns when another process has taken its place."""
        before = self.service(container, name)
        if name == "jupyterhub":
            # In the image for development the hub is a child of the service, and would end more slowly by itself.
            kill = f"kill -KILL {before} $(cat /proc/{before}/task/{before}/children)"
            self.deployment.run_in(container, "/usr/local/lib/s6/as-user", "jupyterhub", "sh", "-c", kill)
        else:
            self.deployment.run_in(container, "s6-svc", "-k", f"/run/service/{name}", check=False)
        wait_until(lambda: self.service(container, name) not in (before, "-1"), AGREE, f"{name} is not back")

    def podman(self, *command: str) -> None:
        """Run a command of the engine's on the hub's container or, if it is about a pod, the pod."""
        pod = self.deployment.status["pod"]
        name = pod if command[0] == "pod" else f"{pod}-jupyterhub"
        self.deployment.engine.run(("podman", *command, name))

    def hub_answers(self) -> bool:
        """Return whether the hub answers behind proxy and gateway; 401 if the gateway has forgotten who is there."""
        try:
            answer = self.servers[0].user.http.get(f"{self.servers[0].user.url}/hub/api/")
        except httpx.TransportError:
            return False
        return self.deployment.health == 200 and answer.status_code in (200, 401)


@pytest.fixture(scope="module")
def stage(deployment: Deployment) -> Iterator[Scene]:
    """Alice with servers in two projects, bob with one."""
    with deployment.user("alice") as alice, deployment.user("bob") as bob:
        servers = [Server(alice, "project1"), Server(alice, "project2", "second"), Server(bob, "project1")]
        yield Scene(deployment, servers)


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """The three servers, with kernels."""
    stage.prepare()
    return stage


@pytest.mark.parametrize(
    ("container", "name"),
    [
        pytest.param("slurm", "sshd", id="sshd"),
        pytest.param("slurm", "slurmctld", id="slurmctld"),
        pytest.param("slurm", "munged", id="munged"),
        pytest.param("slurm", "slurmd-node1", id="slurmd"),
        pytest.param("jupyterhub", "jupyterhub", id="hub"),
        pytest.param("jupyterhub", "configurable-http-proxy", id="proxy"),
    ],
)
def test_a_program_killed(scene: Scene, container: str, name: str) -> None:
    """It is started again, and nobody loses anything."""
    scene.kill(container, name)
    # A new proxy has no routes until the hub compares them.
    scene.survive(within=AGREE if name == "configurable-http-proxy" else 0)
    cullers = processes(scene, "jupyterhub", "-m jupyterhub_idle_culler")
    assert len(cullers) == 1, cullers  # that of a killed hub ends with it


def test_hub_container(scene: Scene) -> None:
    """Stopped and started, as for a backup."""
    scene.podman("stop")
    time.sleep(2)
    scene.podman("start")
    scene.survive()


def test_network_cut(scene: Scene) -> None:
    """Nothing gets through within the pod for a while."""
    pod = scene.deployment.status["pod"]
    inspect = ("podman", "inspect", "--format", "{{.State.Pid}}", f"{pod}-slurm")
    process = scene.deployment.engine.run(inspect).text
    enter = ("nsenter", "--net", "--target", process, "ip", "link", "set", "lo")
    scene.deployment.engine.run((*enter, "down"))
    try:
        time.sleep(CUT)
    finally:
        scene.deployment.engine.run((*enter, "up"))
    scene.survive()


def test_database_locked(scene: Scene) -> None:
    """A request meanwhile is a 503, no wrong token; after that all is as before."""
    code = (
        "import sqlite3, time; database = sqlite3.connect('/var/lib/jupyterhub/jupyterhub.sqlite', timeout=30);"
        f"database.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep({LOCKED})"
    )
    scene.deployment.run_in("jupyterhub", "sh", "-c", f'python3 -c "{code}" >/tmp/locked & ')
    wait_until(
        lambda: scene.deployment.run_in("jupyterhub", "cat", "/tmp/locked"), 10, "the lock is not taken"
    )
    user = scene.servers[0].user
    answer = user.http.get(f"{user.url}/hub/api/user", headers=user.bearer)
    assert answer.status_code in (200, 503), answer.text  # 200: it took so long that the lock was over
    scene.survive()


def test_scancel(scene: Scene) -> None:
    """The job of one server is cancelled by somebody else."""
    lost = scene.servers[1]
    scene.slurm("scancel", scene.jobs()[lost.account])
    wait_until(lambda: not lost.listed(), AGREE, "the hub hasn't noticed")
    scene.survive(lost)


def test_requeue(scene: Scene) -> None:
    """The job of one server starts again, with another port; the server is reachable again, or gone."""
    lost = scene.servers[2]
    job = scene.jobs()[lost.account]
    scene.slurm("scontrol", "update", f"JobId={job}", "Requeue=1")
    scene.slurm("scontrol", "requeue", job)
    wait_until(lambda: scene.deployment.jobs().get(job) == "PENDING", AGREE, "the job is not requeued")
    scene.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: scene.deployment.jobs().get(job) != "PENDING", AGREE, "the job doesn't start again")
    scene.slurm("scontrol", "update", f"JobId={job}", "Requeue=0")  # as all other jobs are
    wait_until(lambda: lost.answers() or not lost.listed(), START, "its server has not come back")
    scene.survive(lost)


def test_node_down(scene: Scene) -> None:
    """A node fails, with all jobs on it, and comes back; those on the other one go on."""
    lost = scene.on_node("node1")
    assert 0 < len(lost) < len(scene.servers), "the jobs need two nodes: slurm.nodes and slurm.cpus_per_node"
    scene.slurm("scontrol", "update", "NodeName=node1", "State=DOWN", "Reason=fault")
    try:
        wait_until(lambda: not any(server.listed() for server in lost), AGREE, "the hub hasn't noticed")
    finally:
        # Refused if the node has come back by itself.
        scene.deployment.run_in("slurm", "scontrol", "update", "NodeName=node1", "State=RESUME", check=False)
    sinfo = ("sinfo", "--noheader", "--Node", "--nodes=node1", "--format=%t")
    wait_until(lambda: scene.slurm(*sinfo) == "idle", AGREE, "the node isn't back")
    scene.survive(*lost)


def test_time_limit(scene: Scene) -> None:
    """The job of one server comes to its time limit."""
    lost = scene.servers[0]
    scene.slurm("scontrol", "update", f"JobId={scene.jobs()[lost.account]}", "TimeLimit=0:01")
    wait_until(lambda: not lost.listed(), 2 * AGREE, "the hub hasn't noticed")
    scene.survive(lost)


@contextlib.contextmanager
def other_sbatch(scene: Scene, script: str) -> Iterator[None]:
    """Put a script in the place of Slurm's sbatch, which it finds as sbatch.real."""
    scene.slurm("mv", "/usr/bin/sbatch", "/usr/bin/sbatch.real")
    try:
        scene.slurm(
            "sh", "-c", f"printf '#!/bin/sh\\n{script}\\n' >/usr/bin/sbatch; chmod 755 /usr/bin/sbatch"
        )
        yield
    finally:
        scene.slurm("mv", "/usr/bin/sbatch.real", "/usr/bin/sbatch")


def processes(scene: Scene, container: str, words: str) -> list[str]:
    """Return the command lines in a container that have ``words`` in them."""
    code = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file 2>/dev/null; echo; done"
    lines = scene.deployment.run_in(container, "sh", "-c", code).splitlines()
    return [line for line in lines if re.search(words, line) and "/proc/" not in line]


def test_hung_sbatch(scene: Scene) -> None:
    """A start can be stopped at once, or fails within the time limit with a message; nothing is left of either."""
    server = scene.servers[1]
    server.user.stop(AGREE, server.name)
    with other_sbatch(scene, "sleep 300"):
        server.user.spawn({"brics_project": f"{server.project}.brics"}, server.name)
        wait_until(lambda: processes(scene, "slurm", "^sleep 300"), 20, "sbatch doesn't run")
        server.user.stop(10, server.name)
        server.user.spawn({"brics_project": f"{server.project}.brics"}, server.name)
        with pytest.raises(StateError) as failure:
            server.user.wait_ready(90, server.name)
        assert "not submitted" in str(failure.value.details), failure.value.details
        assert not server.listed()
        assert not processes(scene, "jupyterhub", r"^ssh .*slurmspawner_sbatch")
        wait_until(lambda: not processes(scene, "slurm", "^sleep 300|sbatch"), 60, "sbatch still runs")
    scene.survive(server)


def test_lost_answer(scene: Scene) -> None:
    """A job that the hub was never told of ends within a minute, and isn't in the way of the next."""
    server = scene.servers[1]
    server.user.stop(AGREE, server.name)
    with other_sbatch(scene, '/usr/bin/sbatch.real "$@" >/dev/null; exit 1'):
        server.user.spawn({"brics_project": f"{server.project}.brics"}, server.name)
        with pytest.raises(StateError):
            server.user.wait_ready(AGREE, server.name)
    server.start()
    wait_until(scene.agree, 60, f"an orphan: {scene.slurm('squeue')}")
    scene.survive()


def test_pod_restart(scene: Scene) -> None:
    """All jobs end with their container, and the gateway's sessions with it; the hub knows it."""
    scene.podman("pod", "restart")
    wait_until(scene.hub_answers, 2 * AGREE, "the hub doesn't answer")
    for user in {server.user.name: server.user for server in scene.servers}.values():
        wait_until(partial(scene.logs_in, user), AGREE, f"{user.name} can't log in")
    wait_until(lambda: not any(server.listed() for server in scene.servers), AGREE, "the hub hasn't noticed")
    scene.survive(*scene.servers)
