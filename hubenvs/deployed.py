"""What the engine has of each deployment, found by label, and taking it down.

Nothing here needs a definition, so that `down` works, and is quick, whatever has become of env.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import state
from .engine import Engine, Holdings, instance_of
from .errors import DefinitionError, StateError, suggestion
from .names import (
    CONTAINERS,
    LABEL_CHECKOUT,
    LABEL_ENVIRONMENT,
    check_instance,
    checkout_id,
    deploy_folder,
    environment_names,
    part_name,
    pod_name,
)

if TYPE_CHECKING:
    from .console import Console
    from .model import Environment

# What must outlive `down --keep-volumes`: the database that is kept is encrypted with it.
KEPT_WITH_VOLUMES = ("crypt_keys",)
# How long a container may take to stop before podman kills it, in seconds; ours take well under one.
STOP_TIMEOUT = 2


@dataclass(frozen=True)
class Deployed:
    """What the engine has of one deployment, found by label (secrets, which have none, by derived name).

    ``there`` is all that the engine had when this was looked up.
    """

    instance: str
    environment: str
    checkout: str
    there: Holdings
    pod: Mapping[str, Any] | None = None
    containers: tuple[Mapping[str, Any], ...] = ()
    volumes: tuple[str, ...] = ()

    @property
    def part_names(self) -> set[str]:
        """Return what podman calls the containers of this pod, and we its Secrets."""
        return {part_name(self.instance, container) for container in CONTAINERS}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the names of its Secrets."""
        return tuple(sorted(self.part_names & self.there.secrets))

    @property
    def instance_name(self) -> str | None:
        """Return what --instance was when it was brought up."""
        return self.instance.removeprefix(pod_name(self.environment, None)).removeprefix("-") or None

    @property
    def held_ports(self) -> set[int]:
        """Return the ports of this host that the pod listens on, whatever has become of the containers in it."""
        if self.pod is None or self.pod["Status"] not in ("Running", "Degraded", "Paused"):
            return set()
        return {port.get("host_port", 0) for item in self.containers for port in item.get("Ports") or ()}

    def state(self, env: Environment | None) -> str:
        """Return ``up``, ``degraded``, ``stopped`` or ``partial`` (parts without a pod).

        ``env``, if it is known, says how many containers there have to be.
        """
        if self.pod is None or not self.containers:
            return "partial"
        running = [container["State"] == "running" for container in self.containers]
        whole = env is None or len(running) == len(env.containers)
        return "up" if whole and all(running) else "degraded" if any(running) else "stopped"

    def folder(self, root: Path) -> Path | None:
        """Return its deploy folder, there or not; None if it is of another checkout than ``root``."""
        if self.checkout != checkout_id(root):
            return None
        return deploy_folder(root, self.environment, self.instance_name)


def find(there: Holdings) -> dict[str, Deployed]:
    """Return all deployments of which there is anything, by instance (the pod's name)."""
    labels: dict[str, Mapping[str, str]] = {}
    for described in (*there.volumes, *there.containers, *there.pods):
        if instance := instance_of(described):
            labels[instance] = described["Labels"]
    return {
        instance: Deployed(
            instance=instance,
            environment=found.get(LABEL_ENVIRONMENT, ""),
            checkout=found.get(LABEL_CHECKOUT, ""),
            there=there,
            pod=next((pod for pod in there.pods if instance_of(pod) == instance), None),
            containers=tuple(item for item in there.containers if instance_of(item) == instance),
            volumes=tuple(sorted(item["Name"] for item in there.volumes if instance_of(item) == instance)),
        )
        for instance, found in sorted(labels.items())
    }


def look(there: Holdings, root: Path, environment: str, instance: str | None) -> Deployed:
    """Return what there is of one deployment; if nothing is labelled any more, its Secrets may still be there."""
    pod = pod_name(environment, instance)
    return find(there).get(pod) or Deployed(pod, environment, checkout_id(root), there)


def refuse_foreign(env: Environment, deployed: Deployed) -> None:
    """Raise StateError if ``deployed`` is another checkout's, or somebody has a pod or a volume of one of its names."""
    if deployed.checkout != checkout_id(env.root) or deployed.environment != env.name:
        whose = "another checkout" if deployed.environment == env.name else f"environment {deployed.environment}"
        raise StateError(
            f"{env.pod} is up already, brought up from {whose}", "give this one a name of its own with --instance NAME"
        )
    hint = "it isn't ours to touch: remove it by hand, or take --instance NAME"
    there = deployed.there
    if deployed.pod is None and any(pod["Name"] == env.pod for pod in there.pods):
        raise StateError(f"there is a pod {env.pod} without this suite's labels", hint)
    if others := {volume.name for volume in env.volumes} & there.volume_names - set(deployed.volumes):
        raise StateError(f"there is a volume {min(others)} without this suite's labels", hint)


# -- down ----------------------------------------------------------------------------------------------------------


def down(
    root: Path,
    engine: Engine,
    console: Console,
    *,
    env: str | None,
    instance: str | None,
    every: bool,
    keep_volumes: bool,
    confirm: Callable[[str], None],
) -> None:
    """Take down environment ``env`` (its ``instance``), the only one that is up, or ``every`` one of this checkout.

    ``confirm`` gets each one's name before anything is taken down, and raises what it likes to keep it from that.
    Raises DefinitionError for a name that can't be, StateError when it isn't clear which one is meant, or another task
    is changing one of those in question.
    """
    try:
        check_instance(instance)
    except ValueError as error:
        raise DefinitionError(f"--instance {instance!r}: {error}", "`invoke status` lists what is up") from None
    with ExitStack() as locks:
        # Before looking, so that what is seen stays as it is. A folder that isn't there is not made to be locked.
        for folder in [deploy_folder(root, env, instance)] if env else state.folders(root):
            if folder.exists():
                locks.enter_context(state.lock(folder))
        there = engine.holdings()
        chosen = [_named(there, root, env, instance)] if env else _of_checkout(there, root, instance, every)
        to_do = [item for item in chosen if _is_anything(item, root, keep_volumes)]
        for item in to_do:
            confirm(item.environment)
        for item in to_do:
            _take_down(item, root, engine, keep_volumes)
            kept = f", kept {len(item.volumes)} volumes" if keep_volumes else ""
            console.say("down", f"{item.instance} is gone{kept}")
    if not to_do:
        console.say("down", "there is nothing to take down")


def _named(there: Holdings, root: Path, env: str, instance: str | None) -> Deployed:
    """Return the deployment that --env and --instance name."""
    names = environment_names(root)
    if env not in names and not any(item.environment == env for item in find(there).values()):
        raise DefinitionError(f"--env {env}: there is no such environment", suggestion(env, names))
    found = look(there, root, env, instance)
    if found.environment != env:
        raise StateError(f"{found.instance} is of environment {found.environment}", f"--env {found.environment}")
    if found.checkout != checkout_id(root):
        raise StateError(f"{found.instance} was brought up from another checkout", "take it down there")
    return found


def _of_checkout(there: Holdings, root: Path, instance: str | None, every: bool) -> list[Deployed]:
    """Return the deployments of the checkout ``root``: one, unless ``every`` one is meant."""
    found = [item for item in find(there).values() if item.checkout == checkout_id(root)]
    if instance is not None:
        found = [item for item in found if item.instance_name == instance]
    if len(found) > 1 and not every:
        raise StateError(f"{len(found)} are up: {', '.join(item.instance for item in found)}", "give --env, or --all")
    return found


def _is_anything(deployed: Deployed, root: Path, keep_volumes: bool) -> bool:
    """Return whether there is anything to take down; volumes count unless they are to be kept."""
    folder = deployed.folder(root)
    parts = deployed.pod or deployed.containers or deployed.secrets or (deployed.volumes and not keep_volumes)
    return bool(parts) or (folder is not None and folder.exists())


def _take_down(deployed: Deployed, root: Path, engine: Engine, keep_volumes: bool) -> None:
    """Remove pod, Secrets, volumes (unless ``keep_volumes``) and deploy folder."""
    if keep_volumes:
        clear(deployed, engine)
    else:
        # No grace: what the containers would still write goes with the volumes.
        clear(deployed, engine, grace=0, volumes=deployed.volumes)
    if folder := deployed.folder(root):
        state.remove(folder, keep=KEPT_WITH_VOLUMES if keep_volumes else ())


def clear(deployed: Deployed, engine: Engine, grace: int = STOP_TIMEOUT, volumes: Iterable[str] = ()) -> None:
    """Remove the pod with its Secrets, the volumes podman keeps beside those, and ``volumes``, where they are.

    ``grace`` is how many seconds a container has to end by itself.
    """
    names, there = deployed.part_names, deployed.there
    for pod in there.pods:
        if instance_of(pod) == deployed.instance:  # another one of that name is somebody else's
            _remove_pod(pod, engine, grace)
    tidy: list[tuple[str, ...]] = []
    if deployed.secrets:
        tidy.append(("podman", "secret", "rm", *deployed.secrets))
    # A container that podman was killed in making is in its storage alone, and no other can have the name until it is
    # gone. One that podman knows by a name of ours is somebody's, and left alone.
    known = {name for item in there.containers for name in item["Names"]}
    if unknown := sorted(names - known):
        tidy.append(("podman", "rm", "--force", "--ignore", *unknown))
    if gone := sorted(names.union(volumes) & there.volume_names):
        tidy.append(("podman", "volume", "rm", "--force", *gone))
    engine.at_once([partial(engine.run, argv) for argv in tidy])


def _remove_pod(pod: Mapping[str, Any], engine: Engine, grace: int) -> None:
    if pod["Status"] != "Running":  # podman 5 can't end a container that is paused
        engine.run(("podman", "pod", "unpause", pod["Id"]), check=False)
    # Stopped first: `pod rm --force` of podman 4.3 waits out its whole time for each container, however soon it ends.
    engine.run(("podman", "pod", "stop", "--ignore", f"--time={grace}", pod["Id"]), check=False, whole=True)
    remove = ("podman", "pod", "rm", "--force", "--ignore", f"--time={STOP_TIMEOUT}", pod["Id"])
    removed = engine.run(remove, check=False, whole=True)
    if removed.returncode != 0 and engine.run(("podman", "pod", "exists", pod["Id"]), check=False).returncode == 0:
        raise StateError(f"pod {pod['Name']} can't be removed", "see what podman says", removed.stderr.splitlines())
