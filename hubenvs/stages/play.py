"""Stage `play`: create the pod from the manifest, or replace it if it has changed."""

from __future__ import annotations

from ..deployment import folder
from ..deployment.desired import Desired, desired_builds, desired_pod, is_desired, record_definition
from ..deployment.existing import Existing, remove_pod
from ..deployment.ports import require_free
from ..engines.host import unenforced_limits
from ..errors import CommandError, StateError
from ..plan.manifest import dump, without_limits
from ..session import Session
from .apply import apply
from .build import missing_builds


def play(session: Session) -> None:
    """Play the manifest; StateError if an image or a secret is missing."""
    with session.locked():
        builds = desired_builds(session.env, session.engine)
        cluster = session.engine.cluster_engine()
        missing = missing_builds(session, builds)
        if absent := [build for build in missing if not (cluster and build.pulled)]:  # nodes pull themselves
            raise StateError(f"no image {absent[-1].tag}", f"invoke build {session.env.options}")
        if cluster:
            apply(session, cluster, builds, session.secrets())
            return
        play_pod(session, desired_pod(session.env, builds, session.secrets()), session.own_existing())


def _ensure_network(session: Session, existing: Existing) -> str | None:
    """Return the network for the pod: the definition's, else one of its own, which is created if missing."""
    env, engine = session.env, session.engine
    if env.network or not (command := engine.network_command(env.pod, env.labels)):
        return env.network
    if env.pod not in existing.networks:
        engine.run(command, finish_on_interrupt=True)
    return env.pod


def play_pod(session: Session, desired: Desired, existing: Existing) -> bool:
    """Create the pod ``desired``, or replace one that differs; return False if it is running already.

    If this fails or is interrupted, pod, Secrets and network are removed.
    """
    env, engine, console = session.env, session.engine, session.console
    if is_desired(env, existing, desired):
        console.say("play", f"pod {env.pod} is up and unchanged")
        record_definition(env, folder.read_record(env.deploy_folder))
        return False
    if existing.pod:
        require_free(env, engine, existing.held_ports)  # before the running pod is removed
        console.say("play", f"replacing pod {env.pod}")
    if existing.pod or existing.secrets:
        remove_pod(engine, existing)
    require_free(env, engine)
    # The volumes exist by now. podman<5: 4.3 refuses a claim for an existing volume.
    documents = [item for item in desired.documents if item["kind"] != "PersistentVolumeClaim"]
    if unenforced_limits():  # runc refuses to start a container with a limit that it can't set
        documents = without_limits(documents)
    try:
        # Killing the engine midway leaves network state that can't be cleaned up.
        network = _ensure_network(session, existing)
        engine.run(engine.apply_command(network), stdin=dump(documents).encode(), finish_on_interrupt=True)
    except BaseException as error:
        created = session.existing()
        remove_pod(engine, created, networks=created.networks)
        if isinstance(error, CommandError):
            require_free(env, engine)  # another `up` may have been faster to bind the port
        raise
    console.say("play", f"pod {env.pod}: {', '.join(env.containers)}")
    record_definition(env, folder.Record(None))
    return True
