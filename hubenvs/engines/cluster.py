"""Which namespace of which cluster, and how images get there without a registry."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from ..errors import StateError
from .process import Argv


class Cluster(NamedTuple):
    """A namespace of a cluster. ``load``: the command that takes images there from standard input, if any."""

    context: str
    namespace: str
    load: str | None = None


def load_command(cluster: Cluster, tar: str) -> Argv:
    """Return the command that loads the images in the archive ``tar`` into ``cluster``.

    `kubernetes.load` reads the archive from standard input instead. Raises StateError if that isn't set, and
    the cluster isn't kind or minikube.
    """
    context = cluster.context
    if cluster.load:
        return tuple(shlex.split(cluster.load))
    if context.startswith("kind-"):
        return ("kind", "load", "image-archive", tar, "--name", context.removeprefix("kind-"))
    if context.startswith("minikube"):
        return ("minikube", "--profile", context, "image", "load", tar)
    problem = f"{context}: the cluster can't get images that were built here"
    raise StateError(problem, "`invoke push` them to its registry, or set kubernetes.load")
