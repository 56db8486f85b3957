"""Task `down`: remove pod, Secrets, volumes and deploy folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ..console import Console
from ..definition.names import check_instance, checkout_id, deploy_folder, environment_names
from ..deployment import folder
from ..deployment.existing import Existing, all_existing, find_existing, remove_pod
from ..engines.engine import Engine, Listing
from ..errors import DefinitionError, StateError, suggestion
from ..plan.keys import with_all_crypt_keys
from ..session import recorded_clusters

# Secrets that outlive `down --keep-volumes`: the database in a kept volume is encrypted with them.
KEPT_WITH_VOLUMES = ("crypt_keys",)


def down(
    root: Path,
    engine: Engine,
    console: Console,
    *,
    env: str | None,
    instance: str | None,
    all_: bool,
    keep_volumes: bool,
    confirm: Callable[[Existing], None],
) -> None:
    """Take down environment ``env`` (its ``instance``), the only one, or with ``all_`` all of this checkout.

    ``confirm`` is called with each deployment before anything is removed; raise to abort. No definition is
    needed. Raises DefinitionError for an impossible name, StateError if it isn't clear which one is meant or
    another task is changing one of them.
    """
    try:
        check_instance(instance)
    except ValueError as error:
        hint = "`invoke status` lists what is up"
        raise DefinitionError(f"--instance {instance!r}: {error}", hint) from None
    with ExitStack() as locks:
        # Locked before looking, so that nothing changes in between. A missing folder isn't created for its
        # lock.
        for path in [deploy_folder(root, env, instance)] if env else folder.folders(root):
            if path.exists():
                locks.enter_context(folder.lock(path))
        listing = engine.listing()
        chosen = _named(listing, root, env, instance) if env else _of_checkout(listing, root, instance, all_)
        to_remove = [item for item in chosen if _exists(item, root, keep_volumes)]
        for item in to_remove:
            confirm(item)
        for item in to_remove:
            recorded = _recorded(item, root)
            _take_down(item, root, engine, keep_volumes)
            kept = f", kept {len(item.volumes)} volumes" if keep_volumes else ""
            console.say("down", f"{item.pod_name} is gone{kept}")
            if not keep_volumes and (text := forgotten_jobs(recorded)):
                console.say("", text)
    if not to_remove:
        console.say("down", "there is nothing to take down")
    if not env and not engine.cluster_engine():
        _say_what_runs_in_clusters(root, console)


def _say_what_runs_in_clusters(root: Path, console: Console) -> None:
    for path, cluster in recorded_clusters(root).items():
        where = f"--context {cluster.context} --namespace {cluster.namespace}"
        console.say("down", f"{path.name} is in a cluster: `invoke down --engine kubernetes {where}`")


def _named(listing: Listing, root: Path, env: str, instance: str | None) -> list[Existing]:
    """Return the one deployment that --env and --instance name."""
    names = environment_names(root)
    if env not in names and not any(item.environment == env for item in all_existing(listing).values()):
        raise DefinitionError(f"--env {env}: there is no such environment", suggestion(env, names))
    existing = find_existing(listing, root, env, instance)
    if existing.environment != env:
        problem = f"{existing.pod_name} is of environment {existing.environment}"
        raise StateError(problem, f"give --env {existing.environment}")
    if existing.checkout != checkout_id(root):
        raise StateError(f"{existing.pod_name} was brought up from another checkout", "`invoke down` there")
    return [existing]


def _of_checkout(listing: Listing, root: Path, instance: str | None, all_: bool) -> list[Existing]:
    """Return the deployments of the checkout ``root``; without ``all_`` there must not be more than one."""
    existing = [item for item in all_existing(listing).values() if item.checkout == checkout_id(root)]
    if instance is not None:
        existing = [item for item in existing if item.instance == instance]
    if len(existing) > 1 and not all_:
        names = ", ".join(item.pod_name for item in existing)
        raise StateError(f"{len(existing)} are up: {names}", "give --env, or --all")
    return existing


def _exists(existing: Existing, root: Path, keep_volumes: bool) -> bool:
    """Return whether there is anything to remove; volumes don't count with ``keep_volumes``."""
    path = existing.deploy_folder(root)
    volumes = existing.volumes and not keep_volumes
    resources = existing.pod or existing.containers or existing.secrets or existing.networks or volumes
    return bool(resources) or bool(path and path.exists())


def _recorded(existing: Existing, root: Path) -> Mapping[str, Any]:
    """Return the recorded definition; empty if there is none or it is damaged."""
    path = existing.deploy_folder(root)
    with suppress(StateError):
        return (folder.read_record(path).definition if path else None) or {}
    return {}


def forgotten_jobs(definition: Mapping[str, Any]) -> str:
    """Return a warning about jobs at a site that outlive the hub's database; empty if there can't be any."""
    containers, slurm = definition.get("containers") or (), definition.get("slurm")
    if "jupyterhub" not in containers or "slurm" in containers or not isinstance(slurm, dict):
        return ""
    jobs = "no hub knows the users' servers any more; they go on as jobs until their time limit"
    return f"{jobs}. To end them at {slurm.get('ssh_hostname')}, as root: scancel --name=jupyterhub"


def _take_down(existing: Existing, root: Path, engine: Engine, keep_volumes: bool) -> None:
    kept: dict[str, str] = {}
    if keep_volumes:
        values = engine.secret_values(existing.secrets)  # a cluster's, which another checkout may have made
        kept = {key: values[key] for key in KEPT_WITH_VOLUMES if key in values}
        remove_pod(engine, existing, networks=existing.networks)
    else:
        # No grace: the containers' last writes would go with the volumes.
        remove_pod(engine, existing, existing.volumes, existing.networks, grace=0)
    if path := existing.deploy_folder(root):
        folder.remove(path, keep=KEPT_WITH_VOLUMES if keep_volumes else ())
        if kept:
            folder.create(path)
            folder.write_secrets(path, with_all_crypt_keys(folder.read_secrets(path), kept))
