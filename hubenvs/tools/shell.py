"""Task `shell`: a shell or a command in a container. Task `slurm` uses it too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..definition.containers import PROXY
from ..errors import DefinitionError, StateError, suggestion
from ..session import Session


def shell(session: Session, container: str, user: str | None, command: Sequence[str]) -> int:
    """Run ``command`` (none: a login shell) in ``container`` as ``user``; return its exit status."""
    engine, target = session.engine, find_container(session, container)
    argv = list(command) or ["bash", "-l"]
    if user:
        if engine.exec(target, "id", user, check=False).returncode != 0:
            accounts = ", ".join(dev_user.account for dev_user in session.env.dev_users)
            hint = f"its users have {accounts}"
            raise DefinitionError(f"--user {user}: {target} has no such account", hint)
        argv = ["sh", "-c", 'cd && exec "$@"', "sh", *argv]
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    run = engine.exec_command(target, *argv, user=user, interactive=True, tty=tty)
    return session.programs.run(run, terminal=True, check=False, timeout=None).returncode


def find_container(session: Session, name: str, running: bool = True) -> str:
    """Return the engine's name for container ``name``.

    Raises DefinitionError if the environment has no such container, StateError if it doesn't exist, or with
    ``running`` if it doesn't run.
    """
    env = session.env
    containers = [*env.containers]
    if session.engine.cluster_engine() and env.proxy_apart:
        containers.append(PROXY)
    if name not in containers:
        hint = suggestion(name, containers)
        raise DefinitionError(f"--container {name}: {env.name} has no such container", hint)
    container = env.container_name(name)
    states = session.engine.states([container])
    state = states[container].state if container in states else None
    if state is None or (running and state != "running"):
        problem = f"{env.pod} is not up: container {container} is {state or 'not there'}"
        raise StateError(problem, f"invoke up {env.options}")
    return container
