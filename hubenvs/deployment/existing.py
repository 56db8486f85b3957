"""The existing resources of each deployment, found by label. `down` works without a definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..definition import names
from ..definition.containers import CONTAINERS
from ..engines.engine import STOP_TIMEOUT, Engine, ListedContainer, Listing, Pod, Removal, Resource
from ..errors import StateError

if TYPE_CHECKING:
    from ..definition.environment import Environment


@dataclass(frozen=True)
class Existing:
    """The resources of one deployment. ``listing``: all resources that the engine had then."""

    pod_name: str
    environment: str
    checkout: str
    listing: Listing
    pod: Pod | None = None
    containers: tuple[ListedContainer, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    stage: str | None = None

    @property
    def is_prod(self) -> bool:
        """Return whether it is of stage prod, so that `down` asks first."""
        # hubenvs<0.2: deployments have no label with their stage.
        return (self.stage or self.environment) == "prod"

    @property
    def container_names(self) -> set[str]:
        """Return the names that the deployment's containers and Secrets can have."""
        return {names.container_name(self.pod_name, container) for container in CONTAINERS}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the names of the deployment's Secrets."""
        return tuple(sorted(self.container_names & self.listing.secrets))

    @property
    def instance(self) -> str | None:
        """Return the value of --instance that it was brought up with."""
        return self.pod_name.removeprefix(names.pod_name(self.environment, None)).removeprefix("-") or None

    @property
    def held_ports(self) -> set[tuple[str, int]]:
        """Return addresses and ports that the pod has bound on this host, even if its containers ended."""
        if self.pod is None or not self.pod.holds_ports:
            return set()
        return {(port.address, port.host_port) for container in self.containers for port in container.ports}

    def state(self, env: Environment | None) -> str:
        """Return ``up``, ``degraded``, ``stopped``, or ``partial`` (there is no pod).

        ``env`` says which containers there should be; None if the definition isn't known.
        """
        if self.pod is None or not self.containers:
            return "partial"
        running = [container.state == "running" for container in self.containers]
        if not any(running):
            return "stopped"
        found = {container.name for container in self.containers}
        complete = env is None or found >= {env.container_name(name) for name in env.containers}
        return "up" if complete and all(running) and not self.pod.is_degraded else "degraded"

    def deploy_folder(self, root: Path) -> Path | None:
        """Return the path of its deploy folder; None if another checkout than ``root`` brought it up."""
        if self.checkout != names.checkout_id(root):
            return None
        return names.deploy_folder(root, self.environment, self.instance)


def all_existing(listing: Listing) -> dict[str, Existing]:
    """Return every deployment that has a labelled resource, by the pod's name."""
    labels: dict[str, Mapping[str, str]] = {}
    for resource in (*listing.networks, *listing.volumes, *listing.containers, *listing.pods):
        if pod := pod_name_of(resource):
            labels[pod] = resource.labels
    return {
        pod: Existing(
            pod_name=pod,
            environment=of_pod.get(names.LABEL_ENVIRONMENT, ""),
            checkout=of_pod.get(names.LABEL_CHECKOUT, ""),
            stage=of_pod.get(names.LABEL_STAGE),
            listing=listing,
            pod=next((item for item in listing.pods if pod_name_of(item) == pod), None),
            containers=tuple(item for item in listing.containers if pod_name_of(item) == pod),
            volumes=tuple(sorted(item.name for item in listing.volumes if pod_name_of(item) == pod)),
            networks=tuple(item.name for item in listing.networks if pod_name_of(item) == pod),
        )
        for pod, of_pod in sorted(labels.items())
    }


def find_existing(listing: Listing, root: Path, environment: str, instance: str | None) -> Existing:
    """Return the resources of one deployment. Without any labelled resource, its Secrets may still exist."""
    pod = names.pod_name(environment, instance)
    return all_existing(listing).get(pod) or Existing(pod, environment, names.checkout_id(root), listing)


def pod_name_of(resource: Resource) -> str | None:
    """Return the pod name of the deployment that owns ``resource``; None if it lacks our labels."""
    labels = resource.labels
    return labels.get(names.LABEL_INSTANCE) if labels.get(names.LABEL_PART_OF) == names.PART_OF else None


def refuse_foreign(env: Environment, existing: Existing) -> None:
    """Raise StateError if another checkout has this deployment, or an unlabelled resource has its name."""
    other = "another checkout" if existing.checkout != names.checkout_id(env.root) else ""
    if existing.environment != env.name:
        other = f"environment {existing.environment}"
    if other:
        hint = "give this one a name of its own with --instance NAME"
        raise StateError(f"{env.pod} is up already, brought up from {other}", hint)
    hint = "it wasn't created by this suite: remove it by hand, or use --instance NAME"
    listing = existing.listing
    if existing.pod is None and any(pod.name == env.pod for pod in listing.pods):
        raise StateError(f"there is a pod {env.pod} without this suite's labels", hint)
    pods_and_containers = *listing.pods, *listing.containers  # which can't have the same name
    taken = {item.name for item in pods_and_containers if pod_name_of(item) != env.pod}
    if others := {env.pod, *map(env.container_name, env.containers)} & taken:
        raise StateError(f"there is a pod or container {min(others)} already", "use --instance NAME")
    if others := {volume.name for volume in env.volumes} & listing.volume_names - set(existing.volumes):
        raise StateError(f"there is a volume {min(others)} without this suite's labels", hint)
    if env.pod in listing.network_names - set(existing.networks):
        raise StateError(f"there is a network {env.pod} without this suite's labels", hint)
    if env.network and env.network not in listing.network_names:
        hint = "create it, or set null for a network of the pod's own"
        raise StateError(f"network: there is no network {env.network} on this host", hint)


def remove_pod(
    engine: Engine,
    existing: Existing,
    volumes: Iterable[str] = (),
    networks: Sequence[str] = (),
    grace: int = STOP_TIMEOUT,
) -> None:
    """Remove pod and Secrets of ``existing``, ``volumes`` and ``networks``.

    ``grace``: seconds that a container has to end by itself.
    """
    # A pod of that name without our labels is somebody else's.
    pods = [pod for pod in existing.listing.pods if pod_name_of(pod) == existing.pod_name]
    containers, listing = existing.container_names, existing.listing
    # These go with the pod, but not if the engine was killed while it made one.
    removed = {*volumes, *names.scratch_volumes(existing.pod_name)}
    engine.remove(Removal(existing.pod_name, pods, containers, removed, networks, listing, grace))
