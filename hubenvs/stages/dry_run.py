"""`up --dry-run`: print the commands of `up` instead of running them."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..deployment.desired import desired_builds
from ..plan.images import repositories_in
from ..session import Session
from .build import build_commands, missing_builds


def dry_run(session: Session) -> None:
    """Print what `up` would do. Nothing is changed."""
    env, engine, say = session.env, session.engine, session.console.say
    for repository in repositories_in(env):
        say(
            "clone", f"{repository} from {env.repositories[repository].url} in {env.working_copy(repository)}"
        )
    builds = desired_builds(env, engine)
    absent = missing_builds(session, builds)
    scratch = Path(tempfile.gettempdir()) / "hubenvs-XXXX"
    for build in builds:
        say("build", f"{build.tag}" + ("" if build in absent else " (exists)"))
        for command in build_commands(session, build, scratch) if build in absent else ():
            _show(session, command)
    existing = session.existing().listing
    for volume in env.volumes if not env.engine else ():
        say("volumes", volume.name + (" (exists)" if volume.name in existing.volume_names else ""))
        if volume.name not in existing.volume_names:
            _show(session, engine.create_volume_command(volume.name, env.labels))
        if volume.seeded:
            _show(session, engine.import_volume_command(volume.name))
    for secret in env.secrets:
        say("secrets", f"{secret.name}: {', '.join(secret.keys)}")
    network = None if env.network else engine.network_command(env.pod, env.labels)
    if network and env.pod not in existing.network_names:
        _show(session, network)
    _show(session, engine.apply_command(env.pod if network else env.network))
    say("play", f"pod {env.pod}: {', '.join(env.container_name(name) for name in env.containers)}")
    if env.url:
        say("wait", env.url)


def _show(session: Session, command: Sequence[str]) -> None:
    session.console.say("", f"$ {shlex.join(command)}")
