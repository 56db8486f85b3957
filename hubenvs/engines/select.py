"""Which engine runs a deployment: podman on this host, or a Kubernetes cluster."""

from __future__ import annotations

from pathlib import Path

from .cluster import Cluster
from .engine import Engine
from .kubernetes import Kubernetes
from .podman import Podman
from .process import Programs


def select_engine(folder: Path | None, programs: Programs, cluster: Cluster | None, checkout: str) -> Engine:
    """Return the engine of ``cluster``; None: podman.

    ``folder``: where it may write configuration (None: nowhere). ``checkout``: this checkout's id in
    labels.
    """
    if cluster:
        return Kubernetes(folder, programs, cluster, checkout)
    return Podman(folder, programs)
