"""The interface of an engine for stages and tools, and the rows that describe its resources.

There are two: podman.py and kubernetes.py. The images of both are podman's (podman_images.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .cluster import Cluster
from .podman_images import PodmanImages
from .process import Argv, Completed, Programs
from .rollout import Rollout

# Seconds that a container has to stop before the engine kills it; ours need well under one.
STOP_TIMEOUT = 2


class PublishedPort(NamedTuple):
    """A port of a container, published at ``address``:``host_port``."""

    container_port: int
    address: str
    host_port: int


@dataclass(frozen=True)
class Resource:
    """A pod, container, volume or network."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pod(Resource):
    """A pod; in a cluster the StatefulSet that has it. ``holds_ports``: its published ports are in use.

    ``is_degraded``: one of its containers doesn't run, perhaps the engine's own, which has its network.
    """

    id: str = ""
    holds_ports: bool = False
    is_running: bool = False
    is_degraded: bool = False


@dataclass(frozen=True)
class ListedContainer(Resource):
    """A container. ``state``: as the engine calls it, such as running, exited or paused."""

    state: str = ""
    pod: str = ""
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True)
class Listing:
    """All resources of the engine, ours or not. Secrets are known by name only."""

    pods: tuple[Pod, ...] = ()
    containers: tuple[ListedContainer, ...] = ()
    volumes: tuple[Resource, ...] = ()
    secrets: frozenset[str] = frozenset()
    networks: tuple[Resource, ...] = ()

    @property
    def volume_names(self) -> set[str]:
        """Return the names of all volumes."""
        return {volume.name for volume in self.volumes}

    @property
    def network_names(self) -> set[str]:
        """Return the names of all networks."""
        return {network.name for network in self.networks}


@dataclass(frozen=True)
class Removal:
    """The resources of the deployment ``pod_name`` that `Engine.remove` removes.

    ``container_names``: names of its containers and Secrets, existing or not. ``listing``: all resources.
    ``grace``: seconds that a container has to end by itself.
    """

    pod_name: str
    pods: Sequence[Pod]
    container_names: Set[str]
    volumes: Set[str]
    networks: Sequence[str]
    listing: Listing
    grace: int


class ContainerState(NamedTuple):
    """The state of a container, and the exit status if it has ended."""

    state: str
    exit_status: str


class Engine(Protocol):
    """Runs the containers of a deployment. Podman's class says what each method does.

    Methods raise CommandError if the engine refuses, StateError if it is missing.
    """

    name: str
    programs: Programs

    @property
    def images(self) -> PodmanImages: ...
    def run(self, argv: Sequence[str], **options: Any) -> Completed: ...
    def version(self) -> tuple[int, ...]: ...
    def address_problem(self, address: str) -> str | None: ...
    def lost_ports_remedy(self) -> str: ...
    def cluster_engine(self) -> ClusterEngine | None: ...
    def remarks(self, pod_name: str, ports: Sequence[PublishedPort]) -> list[tuple[str, str]]: ...

    def listing(self) -> Listing: ...
    def states(self, containers: Sequence[str]) -> dict[str, ContainerState]: ...
    def pod(self, name: str) -> Pod | None: ...
    def network_command(self, name: str, labels: Mapping[str, str]) -> Argv | None: ...
    def apply_command(self, network: str | None = None) -> Argv: ...
    def remove(self, removal: Removal) -> None: ...
    def secret_values(self, secrets: Sequence[str]) -> dict[str, str]: ...
    def reachable(self, pod_name: str, ports: Sequence[PublishedPort]) -> AbstractContextManager[None]: ...
    def create_volume_command(self, name: str, labels: Mapping[str, str]) -> Argv: ...
    def import_volume_command(self, name: str) -> Argv: ...
    def export_volume_command(self, name: str) -> Argv: ...
    def containers_with(self, volume: str) -> list[str]: ...

    def exec(self, container: str, *command: str, **options: Any) -> Completed: ...
    def exec_command(
        self, container: str, *command: str, user: str | None = None, interactive: bool = ..., tty: bool = ...
    ) -> Argv: ...
    def logs(self, container: str, lines: int = 20) -> list[str]: ...
    def print_logs(self, containers: Sequence[str], lines: int, follow: bool) -> None: ...


class ClusterEngine(Engine, Protocol):
    """Applies deployments to a cluster. Kubernetes's class says what each method does."""

    cluster: Cluster

    @property
    def server_version(self) -> tuple[int, ...]: ...
    def apply(self, documents: str, dry_run: bool = False) -> None: ...
    def claims_being_deleted(self, pod_name: str) -> list[str]: ...
    def foreign(self, pod_name: str, resources: Iterable[tuple[str, str]]) -> list[str]: ...
    def load(self, tags: Sequence[str]) -> list[str]: ...
    def prune(self, pod_name: str, applied: Set[tuple[str, str]]) -> None: ...
    def rollout(self, pod_name: str, component: str, timeout: float) -> Rollout: ...
    def secret_versions(self, secrets: Sequence[str]) -> str: ...
