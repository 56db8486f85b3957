"""Task `up`: all stages, in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING

from ..definition.dev_users import write_file
from ..definition.read import environment_folder
from ..deployment import folder
from ..deployment.desired import desired_pod
from ..deployment.existing import Existing
from ..deployment.ports import require_free
from ..deployment.site import read_site_files
from ..deployment.sources import read_seeds
from ..errors import PortError, StateError
from ..plan.images import Build
from ..session import Session, cluster_of
from .announce import announce
from .apply import apply, rehearse
from .build import build_images
from .check import prove, report
from .clone import clone
from .keep_settings import keep_settings
from .play import play_pod
from .secrets import generate_secrets
from .volumes import fill_volumes
from .wait import wait

if TYPE_CHECKING:
    from .proofs import Proof


def up(session: Session, config_map: str | None = None, save: bool = False, users: str | None = None) -> None:
    """Bring the environment up: clone, build, volumes, secrets, play (in a cluster: apply), wait, check.

    ``config_map``, ``save``: see `keep_settings`. ``users``: written to the environment's file dev_users.
    """
    root = session.env.root
    with session.locked():
        session, existing = _preflight(session)
        if users:
            write_file(environment_folder(root, session.env.name) / "dev_users", root, users)
        keep_settings(session, config_map, save)
        clone(session)
        cluster = session.engine.cluster_engine()
        builds = build_images(session, pull=not cluster)  # a cluster's nodes pull themselves
        if cluster:
            apply(session, cluster, builds, generate_secrets(session))
        else:
            fill_volumes(session, existing.listing.volume_names)
            session = _play(session, builds, generate_secrets(session), existing)
        proofs = _wait_and_prove(session)
        if proofs:
            report(session, proofs, brief=True)
    announce(session)


def _wait_and_prove(session: Session) -> list[Proof]:
    """Wait until everything answers, and return the proofs of `check`; none without a hub."""
    proofs: list[Proof] = []

    def hub_ssh_works() -> bool:
        proofs[:] = prove(session)
        return proofs[0].ok  # if it isn't, it is the only one

    with ThreadPoolExecutor() as pool:
        pool.submit(import_module, f"{__package__}.proofs")  # while the pod starts
        wait(session, ssh=hub_ssh_works)
    if session.env.slurm_elsewhere:
        with session.console.busy("check", "SSH from the hub to Slurm"):
            proofs = prove(session)
    return proofs


def _preflight(session: Session) -> tuple[Session, Existing]:
    """Check everything that could fail later, before anything is created.

    Returns the session, whose ports are free, and the existing resources.
    """
    _require_same_place(session)
    # The first error is raised: an engine that is too old may fail at the listing too.
    _, existing = session.programs.at_once((session.engine.version, session.own_existing))
    while True:
        try:
            require_free(session.env, session.engine, existing.held_ports)
            break
        except PortError as error:
            session = _with_other_ports(session, error)
    read_site_files(session.env)
    if cluster := session.engine.cluster_engine():
        rehearse(session, cluster)
    else:
        read_seeds(session.env)
    return session, existing


def _require_same_place(session: Session) -> None:
    """Raise StateError if the deployment is up elsewhere: on this host, or in another cluster."""
    env = session.env
    recorded = folder.read_record(env.deploy_folder).environment
    place, wanted = cluster_of(recorded), cluster_of(env)
    if recorded and (place and place[:2]) != (wanted and wanted[:2]):
        where = f"in {place.context}/{place.namespace}" if place else "on this host"
        hint = f"`invoke down {env.options}` first, or give --instance NAME"
        raise StateError(f"{env.pod} is up {where}", hint)


def _play(session: Session, builds: tuple[Build, ...], values: dict[str, str], existing: Existing) -> Session:
    """Play, and return the session with the ports in use."""
    while True:
        try:
            play_pod(session, desired_pod(session.env, builds, values), existing)
            return session
        except PortError as error:
            session = _with_other_ports(session, error)
            existing = session.own_existing()


def _with_other_ports(session: Session, error: PortError) -> Session:
    """Return the session with free ports instead of those that another `up` has taken meanwhile.

    Raises ``error`` if the user has named the port.
    """
    changed = session.with_instance_ports()
    if changed.env.publish == session.env.publish:
        raise error
    return changed
