"""Stage `wait`: until the hub's page, its API, its SSH connection and Slurm's nodes answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from ..definition.containers import PORTS
from ..errors import StateError
from ..polling import poll
from ..session import Session
from ..web import http_status

# States in which sinfo shows a node that answers, busy or not. A node that doesn't answer has a "*" after its
# state.
ANSWERING = {"idle", "mix", "alloc", "comp", "drain", "drng", "resv", "maint", "plnd"}
# Seconds between two looks at whether a container has ended.
LOOK_AT_CONTAINERS = 1


@dataclass(frozen=True)
class Condition:
    """Something to wait for. The logs of ``container`` explain a failure.

    Of a page, ``port`` is its port in the pod, and ``url`` its published address.
    """

    name: str
    container: str
    holds: Callable[[], bool]
    port: int | None = None
    url: str | None = None


def wait(session: Session, timeout: float | None = None, ssh: Callable[[], bool] | None = None) -> None:
    """Wait until everything answers.

    ``ssh``: returns whether the hub's SSH to our own Slurm works (None: `ssh … true` is tried). Raises
    StateError after ``timeout`` seconds (None: wait_timeout of the definition), or as soon as a container has
    ended, with the last lines of its log.
    """
    started = time.monotonic()
    seconds = timeout or session.env.wait_timeout
    groups = conditions(session, ssh)
    names = ", ".join(condition.name for group in groups for condition in group)

    def wait_for_all(group: Sequence[Condition]) -> None:
        for condition in group:
            _wait_for(session, condition, started, seconds)

    with session.reachable(), session.console.busy("wait", names):
        session.programs.at_once([partial(wait_for_all, group) for group in groups])
    session.console.say("wait", f"ready after {time.monotonic() - started:.1f} s: {names}")
    _report_refused_reservations(session)


def _wait_for(session: Session, condition: Condition, started: float, seconds: float) -> None:
    next_look = time.monotonic() + LOOK_AT_CONTAINERS

    def holds() -> bool:
        nonlocal next_look
        if condition.holds():
            return True
        if time.monotonic() > next_look:
            require_running(session)
            next_look = time.monotonic() + LOOK_AT_CONTAINERS
        return False

    if not poll(holds, started + seconds - time.monotonic()):
        silent = condition.url and http_status(condition.url) is None
        if silent and "HTTP/" in _ask(session, condition.port, "/"):
            problem = "answers in its pod, and not at the port of this host that leads there"
            raise StateError(f"{condition.name} {problem}", session.engine.lost_ports_remedy())
        raise StateError(
            f"{condition.name} did not answer within {seconds:g} s",
            f"`invoke logs {session.env.options}` shows more",
            session.engine.logs(session.env.container_name(condition.container)),
        )


def conditions(session: Session, ssh: Callable[[], bool] | None = None) -> list[list[Condition]]:
    """Return lists of conditions. The lists are waited for side by side, each in its order.

    ``ssh``: see `wait`. Pages come first: a request starts no program, which would slow down the hub's start.
    """
    env, engine = session.env, session.engine
    pages: list[Condition] = []
    names = {"jupyterhub": "hub page", "oidc-provider": "provider"}
    numbers = {port.name: port.number for port in env.ports}
    for row in sorted(env.rows, key=lambda row: row.name != "jupyterhub"):
        for port in row.ports:
            if page := env.page(port):
                answers = partial(_answers, *page)
                name = names.get(port.name, port.name)
                pages.append(Condition(name, row.name, answers, numbers[port.name], page[0]))
    if "jupyterhub" in env.containers:
        pages.append(Condition("hub", "jupyterhub", lambda: hub_answers(session, env.hub_url)))
    slurm: list[Condition] = []
    if "slurm" in env.containers:
        sinfo = ("sinfo", "--noheader", "--Node", "--format=%t")
        nodes = partial(engine.exec, env.container_name("slurm"), *sinfo, check=False)
        slurm.append(Condition("Slurm", "slurm", lambda: nodes_answer(nodes().text)))
    if "slurm" in env.containers and "jupyterhub" in env.containers:
        # The hub's own ssh: the hub then shares the connection that this opens.
        hub_ssh = partial(
            engine.exec, env.container_name("jupyterhub"), "ssh", env.ssh_target, "true", check=False
        )
        slurm.append(Condition("SSH", "slurm", ssh or (lambda: hub_ssh().returncode == 0)))
    return [group for group in (pages, slurm) if group]


def _answers(url: str, status: int) -> bool:
    return http_status(url) == status


def hub_answers(session: Session, url: str | None) -> bool:
    """Return whether the hub's API answers through the proxy, which answers 404 until the hub has registered.

    ``url``: where the hub is published (None: it isn't). A request there comes first: it starts no program.
    """
    if url and http_status(f"{url}/hub/api/") == 200:
        return True
    path = f"{session.env.base_path}/hub/api/"
    return _ask(session, PORTS["jupyterhub"].number, path).endswith(" 200 OK")


def _ask(session: Session, port: int | None, path: str) -> str:
    """Return the first line of the answer to a request for ``path`` at ``port``, made in the pod."""
    env = session.env
    host = urlsplit(env.hub.subdomain_host or "").netloc or "localhost"
    request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
    command = ("nc", "-w2", "127.0.0.1", str(port))
    answer = session.engine.exec(
        env.container_name(env.proxy_container), *command, stdin=request, check=False
    )
    return answer.text.partition("\r\n")[0]


def nodes_answer(states: str) -> bool:
    """Return whether all nodes answer slurmctld; ``states`` is the output of ``sinfo --format=%t``."""
    # "-" after a state: the backfill scheduler plans to use the node; "$": it is in a maintenance
    # reservation.
    bare = {state.rstrip("-$") for state in states.split()}
    return bool(bare) and bare <= ANSWERING


def require_running(session: Session) -> None:
    """Raise StateError, with the end of its log, if a container isn't running."""
    env = session.env
    names = [env.container_name(name) for name in env.containers]
    states = session.engine.states(names)
    for name in names:
        if name not in states:
            raise StateError(f"container {name} is not there", f"invoke up {env.options}")
        state, status = states[name]
        if state != "running":
            raise StateError(
                f"container {name} is {state} (exit status {status})",
                f"`invoke logs {env.options}` shows more, `invoke up {env.options}` begins anew",
                session.engine.logs(name),
            )


def _report_refused_reservations(session: Session) -> None:
    if not (wanted := {item.name for item in session.env.slurm.reservations}):
        return
    container = session.env.container_name("slurm")
    listing = session.engine.exec(container, "scontrol", "show", "reservation", check=False).text
    for name in sorted(wanted - set(re.findall(r"^ReservationName=(\S+)", listing, re.MULTILINE))):
        logs = f"`invoke logs {session.env.options}` shows why"
        session.console.say("wait", f"Slurm has refused reservation {name}: {logs}")
