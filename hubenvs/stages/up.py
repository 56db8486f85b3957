"""Task `up`: all stages, in order."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..definition.configmap import as_yaml, read_config_map
from ..definition.dev_users import parse_users, write_file
from ..definition.environment import Environment
from ..definition.layers import merge, parse_yaml
from ..definition.read import environment_folder
from ..deployment import folder
from ..deployment.desired import desired_pod, planned_images
from ..deployment.existing import Existing, all_existing
from ..deployment.ports import require_free
from ..deployment.site import read_site_files
from ..deployment.sources import read_seeds
from ..errors import PortError, StateError
from ..files import write
from ..plan.images import Build, carried
from ..session import Session, cluster_of
from .apply import apply, rehearse
from .build import build_images, commands, missing
from .check import check, import_proofs
from .clone import clone
from .play import play_pod
from .secrets import generate_secrets
from .volumes import fill_volumes
from .wait import wait


def option_settings(set_: Sequence[str], user: str | None, users: str | None) -> list[str]:
    """Return the settings (``a.b=c``) of `up`'s options: ``set_``, --as ``user`` and --users ``users``.

    Raises DefinitionError for a malformed user.
    """
    if users:
        parse_users(users)
    return [*set_, *([f"auth.user={user}"] if user else ()), *([f"dev_users=[{users}]"] if users else ())]


def keep_settings(session: Session, config_map: str | None, save: bool) -> None:
    """Keep the settings of ``config_map`` for later tasks: in the deploy folder, with ``save`` in local.yaml.

    Without ``config_map``, ``save`` moves the settings that an earlier `up` kept.
    """
    env, say = session.env, session.console.say
    kept, local = env.deploy_folder / folder.SETTINGS, env.root / "envs" / env.name / "local.yaml"
    if config_map:
        path = Path(config_map)
        settings = as_yaml(read_config_map(path, env.root).local_yaml, f"the ConfigMap in {path.absolute()}")
    elif kept.exists():
        settings = kept.read_text()
    else:
        return
    name = local.relative_to(env.root)
    if not save:
        write(kept, settings)
        say("settings", f"kept until `invoke down`; `invoke up {env.options} --save` writes them to {name}")
        return
    text = f"written to {name}"
    if local.exists():
        old = local.with_name("local.yaml.old")
        local.replace(old)
        layers = parse_yaml(old.read_text(), str(old)), parse_yaml(settings, str(local))
        settings = as_yaml(merge(layers)[0], f"{old.name} and a ConfigMap")
        text += f"; the earlier file is {old.name} now"
    write(local, settings)
    kept.unlink(missing_ok=True)
    say("settings", text)


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
        builds = build_images(session)
        if cluster := session.engine.cluster_engine():
            apply(session, cluster, builds, generate_secrets(session))
        else:
            fill_volumes(session, existing.listing.volume_names)
            session = _play(session, builds, generate_secrets(session), existing)
        with ThreadPoolExecutor() as pool:
            pool.submit(import_proofs)  # while the pod starts
            wait(session)
        if "jupyterhub" in session.env.containers:
            check(session, brief=True)
    _announce(session)


def _preflight(session: Session) -> tuple[Session, Existing]:
    """Check everything that could fail later, before anything is created.

    Returns the session, whose ports are free, and the existing resources.
    """
    session.engine.version()
    _require_same_place(session)
    existing = session.own_existing()
    while True:
        try:
            require_free(session.env, session.engine, existing.held_ports)
            break
        except PortError as error:
            session = _with_other_ports(session, error)
    read_seeds(session.env)
    read_site_files(session.env)
    if cluster := session.engine.cluster_engine():
        rehearse(session, cluster)
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


def _announce(session: Session) -> None:
    """Say where the hub is, who can log in, and what to do next."""
    env, say = session.env, session.console.say
    if "jupyterhub" not in env.containers:
        say("up", f"{env.pod}: {', '.join(env.containers)}")
        return
    say("up", env.url or "the hub is not published on this host")
    path = folder.password_file(env)
    password = f" with the password in {_from_here(path)}" if path else ""
    if env.auth.kind == "dummy":
        say("", f"log in as {env.user}{password}")
    elif env.gateway_url:
        say("", f"choose who to be at the provider's page{password}: {', '.join(env.users)}")
    else:
        say("", f"log in with an ID token of {env.issuer} in the header X-Auth-Id-Token")
    for pod in _pods_sharing_cookies(session):
        hint = f"`up` with --set base_url=/{env.instance or env.name} keeps them apart"
        say("browser", f"mixes up this hub's cookies with those of {pod}, at the same host and path; {hint}")
    for remark in session.engine.remarks(env.pod, session.published):
        say(*remark)
    say(
        "",
        f"next: invoke verify {env.options}; invoke logs {env.options} --follow; invoke down {env.options}",
    )


def _pods_sharing_cookies(session: Session) -> list[str]:
    """Return this checkout's other pods whose hub is at the same path of this host: cookies know no ports.

    JupyterLab reads one of the cookies by its name, so a name of each deployment's own is no remedy.
    """
    env, others = session.env, set()
    for path in folder.folders(env.root):
        with contextlib.suppress(StateError):  # a damaged record
            other = folder.read_record(path).environment
            if other and other.url and not other.engine and _path(other) == _path(env):
                others.add(other.pod)
    if env.engine or env.url is None or not others - {env.pod}:
        return []
    running = all_existing(session.engine.listing())
    return sorted(pod for pod in others - {env.pod} if pod in running and running[pod].pod)


def _path(env: Environment) -> str:
    return env.base_url.rstrip("/")


def _from_here(path: Path) -> str:
    """Return ``path`` relative to the current folder if it is below that."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def dry_run(session: Session) -> None:
    """Print what `up` would do. Nothing is changed."""
    env, engine, say = session.env, session.engine, session.console.say
    for repository in carried(env):
        say(
            "clone", f"{repository} from {env.repositories[repository].url} in {env.working_copy(repository)}"
        )
    builds = planned_images(env, engine)
    absent = missing(session, builds)
    scratch = Path(tempfile.gettempdir()) / "hubenvs-XXXX"
    for build in builds:
        say("build", f"{build.tag}" + ("" if build in absent else " (exists)"))
        for command in commands(session, build, scratch) if build in absent else ():
            _show(session, command)
    existing = session.existing().listing
    for volume in env.volumes if not env.engine else ():
        say("volumes", volume.name + (" (exists)" if volume.name in existing.volume_names else ""))
        if volume.name not in existing.volume_names:
            _show(session, engine.create_volume_command(volume.name, env.labels))
        if volume.seeded:
            _show(session, engine.import_volume_command(volume.name))
    for secret in env.secrets:
        say("secrets", f"{secret.name}: {', '.join(secret.keys)}")
    network = None if env.network else engine.network_command(env.pod, env.labels)
    if network and env.pod not in existing.network_names:
        _show(session, network)
    _show(session, engine.apply_command(env.pod if network else env.network))
    say("play", f"pod {env.pod}: {', '.join(env.container_name(name) for name in env.containers)}")
    if env.url:
        say("wait", env.url)


def _show(session: Session, command: Sequence[str]) -> None:
    session.console.say("", f"$ {shlex.join(command)}")
