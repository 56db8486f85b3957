"""The Session: one environment, the engine and the console. Functions of stages and tools take it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import Console
from .definition.containers import PORTS
from .definition.names import checkout_id, deploy_folder, deploy_folders, environment_names
from .deployment import folder
from .deployment.existing import Existing, find_existing, refuse_foreign
from .deployment.ports import instance_ports
from .engines.cluster import Cluster
from .engines.engine import Engine, PublishedPort
from .engines.process import Programs
from .engines.select import select_engine
from .errors import DefinitionError, StateError

if TYPE_CHECKING:
    from .definition.environment import Environment


@dataclass(frozen=True)
class Session:
    """An environment, engine and console. ``declared``: names in `publish` whose ports `--set` gives."""

    env: Environment
    engine: Engine
    console: Console
    declared: frozenset[str] = frozenset()

    @property
    def programs(self) -> Programs:
        """Return the runner of programs other than the engine's."""
        return self.engine.programs

    def locked(self) -> AbstractContextManager[None]:
        """Hold the deployment's lock during the block; StateError if another task holds it."""
        return folder.lock(self.env.deploy_folder)

    def existing(self) -> Existing:
        """Return the deployment's existing resources, whoever created them."""
        return find_existing(self.engine.listing(), self.env.root, self.env.name, self.env.instance)

    def own_existing(self) -> Existing:
        """Return the deployment's existing resources; StateError if somebody else's have its names."""
        existing = self.existing()
        refuse_foreign(self.env, existing)
        return existing

    def secrets(self) -> dict[str, str]:
        """Return the generated secrets; StateError if one is missing."""
        values = folder.read_secrets(self.env.deploy_folder)
        if not values.keys() >= self.env.secret_keys:
            raise StateError(f"{self.env.name} has no secrets yet", f"invoke secrets {self.env.options}")
        return values

    def require_here(self, task: str, hint: str) -> None:
        """Raise StateError with ``hint`` if a cluster runs the deployment: ``task`` is for this host only."""
        if self.env.engine:
            raise StateError(f"{task}: works on this host only, and {self.env.name} is in a cluster", hint)

    def architecture(self) -> str:
        """Return the architecture of the images, such as amd64."""
        return self.env.debian.architecture or self.engine.images.architecture()

    def reachable(self) -> AbstractContextManager[None]:
        """Keep the pod's pages reachable at the published addresses; in a cluster this forwards ports."""
        return self.engine.reachable(self.env.pod, self.published_pages)

    @property
    def published_pages(self) -> list[PublishedPort]:
        """Return the ports of the pod's pages that are published, and where."""
        return [
            PublishedPort(port.number, port.endpoint.address, port.endpoint.port)
            for port in self.env.ports
            if port.endpoint and PORTS[port.name].page
        ]

    def with_instance_ports(self) -> Session:
        """Return the session with an instance's ports: from `--set`, else as before, else free ones."""
        previous = folder.read_record(self.env.deploy_folder).ports
        ports = instance_ports(self.env, self.declared, previous)
        return replace(self, env=self.env.with_ports(ports))


def open_engine(root: Path, console: Console, dry: bool = False, cluster: Cluster | None = None) -> Engine:
    """Return the engine for the checkout ``root``: that of ``cluster``, by default this host's.

    ``dry``: only query it, and write no configuration.
    """
    configuration = None if dry else deploy_folders(root)
    return select_engine(configuration, Programs(console.echo), cluster, checkout_id(root))


def cluster_of(env: Environment | None) -> Cluster | None:
    """Return the cluster that ``env`` is deployed in, None if this host runs it."""
    if env is None or not env.engine:
        return None
    place = env.kubernetes
    return Cluster(place.context or "", place.namespace or "", place.load)


def recorded_clusters(root: Path) -> dict[Path, Cluster]:
    """Return the clusters in which `up` has deployed from the checkout ``root``, by deploy folder."""
    places = ((path, cluster_of(env)) for path, env in folder.recorded_environments(root).items())
    return {path: cluster for path, cluster in places if cluster}


def open_session(
    root: Path,
    name: str | None,
    *,
    instance: str | None = None,
    settings: Sequence[str] = (),
    configuration: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_map: Path | None = None,
    console: Console | None = None,
    dry: bool = False,
    as_deployed: bool = False,
) -> Session:
    """Return a session for environment ``name`` of the checkout ``root``; DefinitionError without one.

    ``settings`` to ``config_map``: see `read_environment`. ``dry``: only query the engine. ``as_deployed``:
    use the definition with which the deployment was brought up, unless there are ``settings``.
    """
    from .definition.read import read_environment  # takes a quarter of a second, and `down` does without

    if not name:
        raise DefinitionError("--env: which environment?", f"one of {', '.join(environment_names(root))}")
    console = console or Console()
    if as_deployed and not settings:
        deployed = folder.read_record(deploy_folder(root, name, instance)).environment
        if deployed:
            return Session(deployed, open_engine(root, console, dry, cluster_of(deployed)), console)
    kept = deploy_folder(root, name, instance) / folder.SETTINGS
    is_kept = kept.exists() and not config_map
    if is_kept:
        where = f"{kept.relative_to(root)} (remove the file to drop them)"
        console.say("settings", f"with those of the ConfigMap in {where}")
    env = read_environment(
        root,
        name,
        instance=instance,
        settings=settings,
        configuration=configuration,
        environ=environ,
        config_map=config_map,
        kept_settings=kept if is_kept else None,
    )
    engine = open_engine(root, console, dry, cluster_of(env))
    return Session(env, engine, console, declared_ports(settings)).with_instance_ports()


def declared_ports(settings: Sequence[str]) -> frozenset[str]:
    """Return the names in `publish` that ``settings``, those of `--set`, give a port."""
    from .definition.layers import merge, parse_set

    return frozenset(merge(map(parse_set, settings))[0].get("publish") or ())
