"""Task `logs`: the logs of the containers."""

from __future__ import annotations

from ..session import Session
from .shell import find_container


def logs(session: Session, container: str | None, follow: bool, lines: int) -> None:
    """Print the last ``lines`` log lines of ``container`` (None: all); ``follow``: go on until Ctrl-C."""
    names = [container] if container else session.env.containers
    containers = [find_container(session, name, running=False) for name in names]
    try:
        session.engine.print_logs(containers, lines, follow)
    except KeyboardInterrupt:
        if not follow:
            raise
