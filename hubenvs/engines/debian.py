"""mmdebstrap, which builds the Debian root file system that our images start from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from .process import Argv


def has_mmdebstrap() -> bool:
    """Return whether mmdebstrap is installed."""
    return shutil.which("mmdebstrap") is not None


def bootstrap_command(release: str, tar: str, options: Sequence[str], sources: Sequence[str]) -> Argv:
    """Return the command that writes a Debian ``release`` to the file ``tar``.

    ``options`` are mmdebstrap's, ``sources`` the lines of sources.list.
    """
    return ("mmdebstrap", *options, release, tar, *sources)
