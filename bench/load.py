"""Load: many users of dev_realauth at once, by tokens, each with a server and a kernel of their own."""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from hubenvs.console import Console
from hubenvs.deployment import folder
from hubenvs.errors import HubEnvsError, StateError
from hubenvs.plan.tokens import sign_token
from hubenvs.session import Session, open_session
from hubenvs.stages.up import up as bring_up
from hubenvs.tools.client import BROKEN, HubUser
from hubenvs.tools.down import down

from . import figures

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = "dev_realauth"
# Seconds that the hub may be silent, and that a server may take to stop, while a hundred others do the same.
PATIENCE = 300.0
# Servers for each node, each of which has 16 CPUs by default.
PER_NODE = 16
# Round trips of squeue that are timed, and the seconds between two looks at the connections.
ROUND_TRIPS = 20
LOOK = 5.0
# What the hub's process is called: it is started by a fork of a Python that has imported it.
HUB = "python3"
# Run in the hub's container, with the command to time: nanoseconds of each of $1 runs that read $2.
TIMED = """\
times=$1 input=$2; shift 2
while [ "$times" -gt 0 ]; do
    since=$(date +%s%N); printf '%s\\n' "$input" | "$@" >/dev/null || exit; echo "$(($(date +%s%N) - since))"
    times=$((times - 1))
done"""


class Visitor:
    """A user on the way: comes (logs in, spawns, computes), stays, and goes (computes again, stops)."""

    def __init__(self, url: str, token: str) -> None:
        self.user = HubUser(url, timeout=PATIENCE)
        self.token = token
        self.spawn = self.cell = math.nan  # seconds from the form until the server is ready, and has computed
        self.stopped = False
        self.problem = ""
        self._kernel = ExitStack()

    def come(self) -> None:
        """Log in, spawn, and run a cell in a kernel that stays."""
        with self._explained("come"):
            self.user.log_in_with(self.token)
            since = time.monotonic()
            self.user.spawn({})
            self._wait_until_ready()
            self.spawn = time.monotonic() - since
            self.execute = self._kernel.enter_context(self.user.kernel())
            self._expect("kept = 6 * 7\nprint(kept)")
            self.cell = time.monotonic() - since

    def _wait_until_ready(self) -> None:
        """Read the events that the spawn page shows, in one request, until the server is ready.

        Raises StateError when the spawn has failed, with the hub's own words. The hub ends a start that takes
        too long, and writes an event every few seconds.
        """
        where = f"{self.user.url}/hub/api/users/{self.user.name}/server/progress"
        with self.user.http.stream("GET", where, headers=self.user.bearer, timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if event.get("ready"):
                    return
                if event.get("failed"):
                    raise StateError("the spawn failed", details=[event.get("message", "")])
        raise StateError(f"the spawn's events ended, with status {answer.status_code}")

    def go(self) -> None:
        """Look whether the kernel remembers, and stop the server; one that has never been ready, too."""
        with self._explained("go"), self._kernel:
            if not self.problem:
                self._expect("print(kept)")
        with self._explained("stop"):
            if self.user.name and self.user.server():
                self.user.stop(PATIENCE)
                self.stopped = True
        self.user.close()

    def _expect(self, code: str) -> None:
        if (printed := self.execute(code).strip()) != "42":
            raise StateError(f"the kernel printed {printed!r}, not 42")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            details = "; ".join(getattr(error, "details", ()))
            self.problem = self.problem or f"{what}: {type(error).__name__}: {error} {details}".strip()


class Pod:
    """What is looked at in a running pod with a hub and a Slurm of its own."""

    def __init__(self, session: Session) -> None:
        self.env, self.engine = session.env, session.engine

    def run_in(self, container: str, *command: str) -> str:
        """Run ``command`` in ``container`` and return what it prints, whether or not it succeeds."""
        return self.engine.exec(self.env.container_name(container), *command, check=False).text

    def hub_seconds(self) -> float:
        """Return the CPU time of the hub and of the commands that it has run."""
        return figures.cpu_ticks(self.run_in("jupyterhub", "sh", "-c", "cat /proc/[0-9]*/stat"), HUB) / 100

    def rpcs(self) -> int:
        """Return the RPCs that slurmctld has answered."""
        return figures.rpc_count(self.run_in("slurm", "sdiag"))

    def connections(self) -> int:
        """Return the SSH connections there are."""
        return figures.ssh_connections(self.run_in("jupyterhub", "cat", "/proc/net/tcp", "/proc/net/tcp6"))

    def memory(self) -> int:
        """Return the bytes that all the pod's processes have for themselves."""
        statuses = (self.run_in(name, "sh", "-c", "cat /proc/[0-9]*/status") for name in self.env.containers)
        return sum(map(figures.private_memory, statuses))

    def squeue(self) -> float:
        """Return the median seconds of the hub's question about all jobs, the whole way there and back."""
        command = f"{self.env.slurm.wrappers_bin}/slurmspawner_squeue_many"
        user = self.env.slurm.query_many_as or "slurm"
        question = ("ssh", self.env.ssh_target, "sudo", "-n", "-u", user, command)
        jobs = self.run_in("slurm", "squeue", "--noheader", "--format=%i") or "1"
        answer = self.run_in("jupyterhub", "sh", "-c", TIMED, "sh", str(ROUND_TRIPS), jobs, *question)
        return median(map(int, answer.split())) / 1e9 if answer else math.nan


@contextmanager
def up(users: int, instance: str, console: Console, settings: Sequence[str] = ()) -> Iterator[Session]:
    """Bring up dev_realauth with room for ``users``, and ``settings`` over that (as of `invoke up --set`).

    It is taken down at the end of the block, however that comes.
    """
    own = (
        f"dev_users=[{', '.join(f'u{number}.load' for number in range(users))}]",
        f"slurm.nodes={math.ceil(users / PER_NODE)}",
    )
    # The hub's own port is published as well as the gateway's, at the next free port unless `--set` gives it.
    published = {"publish": {"jupyterhub": "127.0.0.1:8001"}}
    session = open_session(
        ROOT, ENVIRONMENT, instance=instance, settings=(*own, *settings), configuration=published
    )
    try:
        bring_up(session)
        yield open_session(ROOT, ENVIRONMENT, instance=instance, as_deployed=True)
    finally:
        down(
            *(ROOT, session.engine, console),
            env=ENVIRONMENT,
            instance=instance,
            all_=False,
            keep_volumes=False,
            confirm=lambda _: None,
        )


def run(session: Session, users: int, keep: float, console: Console) -> figures.Load:
    """Let ``users`` come at once, keep their servers for ``keep`` seconds after the last first cell."""
    env, pod = session.env, Pod(session)
    key_set = folder.read_secrets(env.deploy_folder)["jwks"]
    visitors = [Visitor(str(env.hub_url), sign_token(env, key_set, name)) for name in env.users[:users]]
    connections: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            connections.append(pod.connections())

    def since(start: tuple[float, float, int]) -> tuple[float, float]:
        """Return the hub's part of a core and the RPCs a minute since ``start``."""
        now = sample()
        seconds = now[0] - start[0]
        return (now[1] - start[1]) / seconds, 60 * (now[2] - start[2]) / seconds

    def sample() -> tuple[float, float, int]:
        return time.monotonic(), pod.hub_seconds(), pod.rpcs()

    with ThreadPoolExecutor(users + 1) as pool:
        looking = pool.submit(look)
        try:
            begin = sample()
            list(pool.map(Visitor.come, visitors))
            hub_spawning, rpcs_spawning = since(begin)
            ready = [visitor for visitor in visitors if not visitor.problem]
            taken = time.monotonic() - begin[0]
            console.say("load", f"{len(ready)} of {users} have computed, after {taken:.0f} s")
            begin = sample()
            time.sleep(keep)
            hub_keeping, rpcs_keeping = since(begin)
            squeue, memory = pod.squeue(), pod.memory()
            connections.append(pod.connections())
        finally:
            done.set()
            list(pool.map(Visitor.go, visitors))
        looking.result()
    return figures.Load(
        users=users,
        spawns=tuple(visitor.spawn for visitor in visitors if not math.isnan(visitor.spawn)),
        cells=tuple(visitor.cell for visitor in visitors if not math.isnan(visitor.cell)),
        lost=sum(bool(visitor.problem) for visitor in ready),
        stopped=sum(visitor.stopped and not visitor.problem for visitor in visitors),
        hub_spawning=hub_spawning,
        hub_keeping=hub_keeping,
        connections=max(connections),
        rpcs_spawning=rpcs_spawning,
        rpcs_keeping=rpcs_keeping,
        squeue=squeue,
        memory=memory,
        problems=tuple(visitor.problem for visitor in visitors if visitor.problem),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load, print its table, and return 1 if any user didn't get all the way."""
    parser = argparse.ArgumentParser(prog="nox -s load --", description=__doc__)
    parser.add_argument("--users", type=int, default=100, help="how many come at once (100)")
    parser.add_argument("--keep", type=float, default=60, help="seconds that all servers run (60)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `invoke up`")
    parser.add_argument("--instance", default="load", help="name of the deployment that it makes (load)")
    options = parser.parse_args(arguments)
    if options.users < 1 or options.keep <= 0:
        parser.error("--users and --keep: 1 or more")
    console = Console()
    try:
        with up(options.users, options.instance, console, options.set) as session:
            load = run(session, options.users, options.keep, console)
    except HubEnvsError as error:
        print(error.report, file=sys.stderr)
        return 1
    print(figures.table(("measured", "figure"), zip(figures.HEADINGS, load.row(), strict=True)), end="")
    for problem in load.problems:
        print(f"  | {problem}", file=sys.stderr)
    return 1 if load.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
