"""The rows of an Environment's lists of ports, volumes and Secrets."""

from __future__ import annotations

from typing import NamedTuple

from .schema import Endpoint


class PodPort(NamedTuple):
    """A port that a container listens on: its name in `publish`, and where it is published, if it is."""

    name: str
    container: str
    number: int
    endpoint: Endpoint | None


class PodVolume(NamedTuple):
    """A named volume. ``suffix`` is its name without the pod's, ``owner`` the user id of its seed files."""

    name: str
    suffix: str
    container: str
    path: str
    owner: int
    seeded: bool


class Secret(NamedTuple):
    """A Kubernetes Secret: its name, the container that mounts it, its keys."""

    name: str
    container: str
    keys: tuple[str, ...]

    @property
    def path(self) -> str:
        """Return the folder at which the container mounts it."""
        return f"/run/credentials/{self.container}"
