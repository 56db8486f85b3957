"""Looking into a running environment: logs, shells, and what its volumes hold."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from . import state
from .console import Console
from .engine import Engine, exec_argv, volume_data_argv
from .errors import DefinitionError, StateError
from .load import suggestion
from .model import Environment


def _container(env: Environment, engine: Engine, name: str) -> str:
    if name not in env.containers:
        raise DefinitionError(f"--container {name}: {env.name} has no such container", suggestion(name, env.containers))
    container = env.container(name)
    if engine.run(("podman", "container", "exists", container), check=False).returncode != 0:
        raise StateError(f"{env.pod} is not up", f"invoke up {env.options}")
    return container


def logs(env: Environment, engine: Engine, container: str | None, follow: bool, lines: int) -> None:
    """Print the last ``lines`` log lines of ``container`` (None: of the whole pod), going on if ``follow``."""
    names = [_container(env, engine, name) for name in ([container] if container else env.containers)]
    options = ["--tail", str(lines), *(["--follow"] if follow else [])]
    # With several containers podman puts the container's name before each line.
    engine.run(
        ("podman", "logs", *options, *(["--names"] if len(names) > 1 else []), *names), terminal=True, timeout=None
    )


def shell(env: Environment, engine: Engine, container: str, user: str | None, command: str | None) -> int:
    """Run ``command`` (None: a login shell) in ``container`` as ``user`` and return its exit status."""
    try:
        argv = shlex.split(command) if command else ["bash", "-l"]
    except ValueError as error:
        raise DefinitionError(f"--command {command}: {error}", "close the quotation") from None
    target = _container(env, engine, container)
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
    if name not in engine.volume_names():
        raise StateError(f"volume {name} is not there", f"invoke volumes {env.options}")
    state.write(output, engine.run(volume_data_argv("export", name), timeout=None).stdout)
    console.say("export", f"{name} to {output}")
