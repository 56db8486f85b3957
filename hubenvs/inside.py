"""Looking into a running environment: logs, shells, and what its volumes hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import state
from .commands import exec_argv, volume_data_argv
from .console import Console
from .engine import Engine
from .errors import DefinitionError, StateError, suggestion
from .model import Environment


def container(env: Environment, engine: Engine, name: str, running: bool = True) -> str:
    """Return podman's name for container ``name`` of ``env``; raise if there is none, or it isn't ``running``."""
    if name not in env.containers:
        raise DefinitionError(f"--container {name}: {env.name} has no such container", suggestion(name, env.containers))
    found = env.container(name)
    ask = ("podman", "container", "inspect", "--format", "{{.State.Status}}", found)
    state = engine.run(ask, check=False).text or "not there"
    if state == "not there" or (running and state != "running"):
        raise StateError(f"{env.pod} is not up: container {found} is {state}", f"invoke up {env.options}")
    return found


def logs(env: Environment, engine: Engine, only: str | None, follow: bool, lines: int) -> None:
    """Print the last ``lines`` log lines of container ``only`` (None: of the whole pod), until Ctrl-C if ``follow``.

    Of several containers each line has its container's name, in a colour of its own at a terminal.
    """
    names = [container(env, engine, name, running=False) for name in ([only] if only else env.containers)]
    options = ["--tail", str(lines), *(["--follow"] if follow else [])]
    if len(names) > 1:
        options += ["--names", *(["--color"] if sys.stdout.isatty() else [])]
    try:
        engine.run(("podman", "logs", *options, *names), terminal=True, timeout=None)
    except KeyboardInterrupt:
        if not follow:
            raise


def shell(env: Environment, engine: Engine, where: str, user: str | None, command: Sequence[str]) -> int:
    """Run ``command`` (none: a login shell) in container ``where`` as ``user``, at home; return its exit status."""
    target = container(env, engine, where)
    argv = list(command) or ["bash", "-l"]
    if user:
        if engine.run(exec_argv(target, "id", user), check=False).returncode != 0:
            known = ", ".join(dev_user.account for dev_user in env.dev_users)
            raise DefinitionError(f"--user {user}: {target} has no such account", f"its users' are {known}")
        argv = ["sh", "-c", 'cd && exec "$@"', "sh", *argv]
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    return engine.run(
        exec_argv(target, *argv, user=user, interactive=True, tty=tty), terminal=True, check=False, timeout=None
    ).returncode


def export_volume(env: Environment, engine: Engine, console: Console, suffix: str, output: Path) -> None:
    """Write the volume of ``env`` named ``suffix`` to the tar ``output``."""
    by_suffix = {volume.suffix: volume for volume in env.volumes}
    if suffix not in by_suffix:
        raise DefinitionError(f"--volume {suffix}: {env.name} has no such volume", suggestion(suffix, by_suffix))
    name = by_suffix[suffix].name
    if name not in engine.holdings().volume_names:
        raise StateError(f"volume {name} is not there", f"invoke volumes {env.options}")
    with state.writing(output) as stream:
        engine.run(volume_data_argv("export", name), timeout=None, stdout=stream)
    console.say("export", f"{name} to {output}")
