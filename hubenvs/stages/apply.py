"""Stage `apply`: bring a deployment up in a Kubernetes cluster, or update it to the current definition."""

from __future__ import annotations

from collections.abc import Mapping

from ..deployment import folder
from ..deployment.desired import desired_in_cluster, record_definition
from ..deployment.sources import read_templates
from ..engines.engine import ClusterEngine
from ..errors import StateError
from ..plan.cluster_manifest import APPLIED, components, left_out
from ..plan.images import Build, container_builds
from ..plan.manifest import dump, manifest
from ..session import Session


def rehearse(session: Session, engine: ClusterEngine) -> None:
    """Have the server check all documents, so that it refuses them before images are built and not after.

    Raises StateError if the namespace or a right is missing, if somebody else's resource has a name that is
    needed, or if a claim is being deleted.
    """
    env = session.env
    for claim in engine.claims_being_deleted(env.pod):
        suffix = claim.removeprefix(f"{env.pod}-")
        save = f"`invoke export-volume {env.options} --volume {suffix} --output {suffix}.tar`"
        problem = f"claim {claim} is being deleted: its data goes when the pod ends"
        raise StateError(problem, f"save it by {save}, then `invoke down {env.options}`")
    images = dict.fromkeys(env.containers, "not-built-yet")
    files = desired_in_cluster(env, images, engine.server_version)
    documents = [item for content in files.values() for item in content]
    if found := engine.foreign(env.pod, [(item["kind"], item["metadata"]["name"]) for item in documents]):
        hint = "it wasn't created by this suite: remove it by hand, or use --instance NAME"
        raise StateError(f"there is a {found[0]} without this suite's labels", hint)
    engine.apply(dump(documents), dry_run=True)


def apply(
    session: Session, engine: ClusterEngine, builds: tuple[Build, ...], values: Mapping[str, str]
) -> None:
    """Bring images, Secrets and everything else into the cluster of ``engine``, and wait for the rollout.

    Raises StateError as soon as the rollout can't succeed, with the event and the end of the log.
    """
    env, console = session.env, session.console
    of_containers = container_builds(env, builds)
    images = {name: build.tag for name, build in of_containers.items()}
    documents = manifest(env, read_templates(env.root), images, values)
    # Before the first resource is created: `down` looks here for the cluster.
    record_definition(env, folder.read_record(env.deploy_folder))
    # First, and by standard input: the pod needs them, and nobody else sees them.
    engine.apply(dump([item for item in documents if item["kind"] == "Secret"]))
    with console.busy("load", "images into the cluster"):
        loaded = engine.load([build.tag for build in of_containers.values() if not build.pulled])
    if loaded:
        console.say("load", ", ".join(loaded))
    secrets = engine.secret_versions([secret.name for secret in env.secrets])
    version = engine.server_version
    files = desired_in_cluster(env, images, version, secrets)
    for missing in left_out(env, version):
        text = ".".join(map(str, version))
        console.say("apply", f"Kubernetes {text} has no {missing}: left out")
    applied = [item for name in APPLIED for item in files.get(name, ())]
    engine.apply(dump(applied))
    with console.busy("apply", f"rollout of {env.pod}"):
        for component in components(env):
            engine.rollout(env.pod, component, env.wait_timeout).wait()
    engine.prune(env.pod, {(item["kind"], item["metadata"]["name"]) for item in applied})
    where = f"{engine.cluster.context}/{engine.cluster.namespace}"
    console.say("apply", f"{env.pod} in {where}: {', '.join(env.containers)}")
