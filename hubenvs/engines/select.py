"""Which engine runs the deployments: podman, the only one so far."""

from __future__ import annotations

from pathlib import Path

from .engine import Engine
from .podman import Podman
from .process import Programs


def select_engine(folder: Path | None, programs: Programs, label: str) -> Engine:
    """Return the engine.

    ``folder``: where it may write configuration (None: nowhere). ``label`` (``name=value``) is put on every
    image that is built.
    """
    return Podman(folder, programs, label)
