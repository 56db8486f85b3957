"""The pod that `up` would create now, and whether the running pod is that one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..definition.environment import Environment
from ..definition.names import LABEL_FINGERPRINT
from ..engines.debian import has_mmdebstrap
from ..engines.engine import Engine, Pod
from ..plan.cluster_manifest import NEWEST, cluster_manifest
from ..plan.images import (
    Build,
    container_builds,
    debian_base_tag,
    debian_releases,
    plan_images,
    with_architecture,
)
from ..plan.manifest import Document, Documents, Fingerprint, fingerprint, labelled, manifest
from . import folder
from .existing import Existing
from .mirrors import read_mirrors
from .sources import read_seeds, read_sources, read_templates


@dataclass(frozen=True)
class Desired:
    """A manifest and the fingerprint that its pod carries as a label."""

    documents: Documents
    fingerprint: Fingerprint


def desired_builds(
    env: Environment, engine: Engine, loadable: Iterable[str] = (), mirrors: Mapping[str, str] | None = None
) -> tuple[Build, ...]:
    """Return the builds of ``env`` with the working copies as they are now.

    ``loadable``: tags of images in a bundle. A Debian base that exists here or there needs no mmdebstrap.
    ``mirrors``: digests as from `read_mirrors` (None: those recorded in this checkout).
    """
    seen = read_mirrors(env.root) if mirrors is None else mirrors
    bases = [
        with_architecture(debian_base_tag(debian, seen.get(debian.release, "")), debian.architecture)
        for debian in debian_releases(env)
    ]
    has_base = has_mmdebstrap() or all(base in loadable or engine.images.has_image(base) for base in bases)
    return plan_images(env, replace(read_sources(env, engine.programs), mirrors=seen), has_base)


def desired_pod(env: Environment, builds: tuple[Build, ...], values: Mapping[str, str]) -> Desired:
    """Return the manifest of ``env`` that runs the images ``builds``, with ``values`` in its Secrets."""
    of_containers = container_builds(env, builds)
    images = {name: build.tag for name, build in of_containers.items()}
    documents = manifest(env, read_templates(env.root), images, values)
    trees = read_seeds(env)
    seeds = {f"{volume}/{name}": data for volume, tree in trees.items() for name, data in tree.items()}
    recipes = {name: build.recipe for name, build in of_containers.items()}
    value = fingerprint(documents, recipes, seeds, env.network)
    return Desired(labelled(documents, value), value)


def desired_in_cluster(
    env: Environment, images: Mapping[str, str], version: tuple[int, ...] = NEWEST, secrets: str = ""
) -> dict[str, list[Document]]:
    """Return the documents of ``env`` for a cluster, by file; see `cluster_manifest`."""
    return cluster_manifest(env, read_templates(env.root), images, read_seeds(env), version, secrets)


def is_desired(env: Environment, existing: Existing, desired: Desired) -> bool:
    """Return whether the pod runs and is what ``desired`` describes, as created or as `reload` changed it.

    If not, `up` replaces it.
    """
    if not (pod := existing.pod) or existing.state(env) != "up":
        return False
    reloaded = folder.read_record(env.deploy_folder).reloaded
    base, _, content = pod.labels.get(LABEL_FINGERPRINT, "").partition("-")
    if reloaded.get("pod") == pod.id:
        content = reloaded["content"]
    return (base, content) == desired.fingerprint


def record_definition(env: Environment, record: folder.Record) -> None:
    """Record ``env`` in ``record``: later tasks use it, even if its files have been edited since."""
    record.definition = env.model_dump(mode="json", by_alias=True, exclude={"dummy_password"})
    folder.write_record(env.deploy_folder, record)


def record_reload(env: Environment, pod: Pod, content: str | None) -> None:
    """Record that ``pod`` now has the fingerprint's part ``content``; None while a reload is under way."""
    record = folder.read_record(env.deploy_folder)
    record.reloaded = {"pod": pod.id, "content": content}
    folder.write_record(env.deploy_folder, record)
