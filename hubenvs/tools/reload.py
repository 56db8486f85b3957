"""Task `reload`: bring edits into the running pod, and restart only what they affect."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from ..definition.containers import CONTAINERS, SOURCES
from ..definition.names import LABEL_FINGERPRINT
from ..definition.parts import PodVolume
from ..deployment.desired import desired_builds, desired_pod, record_reload
from ..deployment.folder import read_record, write_record
from ..deployment.sources import read_seeds, seed_folders, working_copy_files
from ..engines.engine import Pod
from ..engines.git import Git
from ..errors import HubEnvsError, StateError
from ..files import Tree, pack, unpack
from ..plan.images import repositories_in
from ..plan.manifest import Fingerprint
from ..plan.seeds import SEED_DIGESTS, SEED_NAMES, merge_seeds, replace_seeds
from ..session import Session
from .traceback_location import explain, failure_lines

# These say how a package is installed; a change to them needs a new image.
INSTALLATION = ("pyproject.toml", "setup.py", "setup.cfg")
# JupyterHub reads a template's file each time it shows it.
TEMPLATES = "templates/"
# The program in the hub's container that restarts a development hub.
WARM = ("python3", "/usr/local/lib/hub/warm.py", "--ask")
RESTART_HUB = ((*WARM, "check"), (*WARM, "restart"))


@dataclass
class Change:
    """The changes to one container.

    ``files`` and ``deleted`` have absolute paths, ``commands`` must succeed afterwards, ``notes`` are for the
    user. ``complete``: with this change the container equals a new one.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: tuple[tuple[str, ...], ...] = ()
    complete: bool = True

    def __bool__(self) -> bool:
        return bool(self.files or self.deleted)


def reload(session: Session, watch: bool = False) -> None:
    """Bring edited working copies, hub configuration and templates into the running pod.

    ``watch``: do it again at every save, until Ctrl-C. Raises StateError, with the user's own file and line,
    if an edit doesn't work; that container is then as it was before.
    """
    if watch:
        _watch(session)
    else:
        _reload_once(session)


def require_development(session: Session) -> None:
    """Raise StateError unless the containers run from working copies."""
    if session.env.stage != "dev":
        problem = f"{session.env.name} has its packages installed (stage: prod)"
        hint = f"`invoke up {session.env.options}` installs edits; `--set stage=dev` makes them reloadable"
        raise StateError(problem, hint)


def _reload_once(session: Session) -> None:
    env, engine = session.env, session.engine
    require_development(session)
    with session.locked():
        pod = engine.pod(env.pod)
        if pod is None:
            raise StateError(f"{env.pod} is not up", f"invoke up {env.options}")
        if env.engine:  # a cluster's pods have no fingerprint to record
            changes, failure = _change_containers(session)
            if changes:
                text = f"until the pod is replaced; `invoke up {env.options}` makes an image of it"
                session.console.say("reload", text)
            if failure:
                raise failure
            return
        # Computed before the edits are read. A file saved in between may get into the pod but isn't counted,
        # so the next run sees it as a change.
        desired = desired_pod(env, desired_builds(env, engine), session.secrets()).fingerprint
        before = read_record(env.deploy_folder)
        record_reload(env, pod, None)  # in case this is interrupted
        changes, failure = _change_containers(session)
        if not changes:
            write_record(env.deploy_folder, before)
        elif failure is None and all(change.complete for change in changes):
            _record(session, pod, desired)
        if failure:
            raise failure


def _record(session: Session, pod: Pod, desired: Fingerprint) -> None:
    """Record that ``pod`` now is the ``desired`` one, unless they differ in more than a reload changes."""
    if pod.labels.get(LABEL_FINGERPRINT, "").partition("-")[0] == desired.base:
        record_reload(session.env, pod, desired.content)
    else:
        text = f"other settings have changed too: `invoke up {session.env.options}` replaces the pod"
        session.console.say("reload", text)


def _change_containers(session: Session) -> tuple[list[Change], StateError | None]:
    """Change every container side by side; return what was changed, and the first failure."""
    started = time.monotonic()
    calls = [partial(_change_container, session, name) for name in session.env.containers]
    results = session.programs.at_once(calls)
    failure = next((result for result in results if isinstance(result, StateError)), None)
    changes = [result for result in results if isinstance(result, Change) and result]
    for note in chain.from_iterable(change.notes for change in changes):
        session.console.say("reload", note)
    if changes:
        restarted = any(change.commands == RESTART_HUB for change in changes)
        what = "the hub has restarted" if restarted else "nothing had to restart"
        session.console.say("reload", f"live after {time.monotonic() - started:.1f} s, {what}")
    elif failure is None:
        session.console.say("reload", "nothing has been edited")
    return changes, failure


def _change_container(session: Session, container: str) -> Change | StateError:
    """Change one container; return the change, or the error after which the container is as before."""
    name = session.env.container_name(container)
    places = updated_folders(session, container)
    if not places:
        return Change()
    relative = (path.lstrip("/") for path in places)
    tar_command = ("tar", "--create", "--directory=/", "--exclude=__pycache__", *relative)
    listed = session.engine.exec(name, *tar_command, check=False)
    if listed.returncode != 0:
        problem, lines = f"{session.env.pod} is not up", listed.stderr.splitlines()[-3:]
        return StateError(problem, f"invoke up {session.env.options}", lines)
    present = {f"/{path}": content for path, content in unpack(listed.stdout).items()}
    change = plan_change(session, container, present)
    if not change:
        return change
    tar = pack({path.lstrip("/"): content for path, content in change.files.items()}, owner=0)
    task = json.dumps({"delete": change.deleted, "commands": change.commands})
    script = Path(__file__).with_name("replace_files.py").read_text()
    done = session.engine.exec(name, "/usr/bin/env", "python3", "-c", script, task, stdin=tar, check=False)
    if done.returncode == 0:
        return change
    return explain(session.env, container, failure_lines(done.text + "\n" + done.stderr), places)


def updated_folders(session: Session, container: str) -> dict[str, Path | PodVolume]:
    """Return the folders of ``container`` that `reload` updates, each with its working copy or volume."""
    env, repository = session.env, CONTAINERS[container].repository
    folders: dict[str, Path | PodVolume] = {}
    if repository:
        folders[f"{SOURCES}/{repository}"] = env.working_copy(repository)
    return folders | {
        volume.path: volume for volume in env.volumes if volume.seeded and volume.container == container
    }


def plan_change(session: Session, container: str, present: Tree) -> Change:
    """Return the change that updates ``container``, whose files are ``present``, to this host's files."""
    change = Change()
    if repository := CONTAINERS[container].repository:
        _plan_working_copy(session, change, repository, present)
    seeds = read_seeds(session.env)
    for volume in session.env.volumes:
        if volume.seeded and volume.container == container:
            _plan_volume(change, volume, seeds[volume.name], present, session.env.engine is None)
    return change


def _plan_working_copy(session: Session, change: Change, repository: str, present: Tree) -> None:
    folder, base = session.env.working_copy(repository), f"{SOURCES}/{repository}/"
    old = _below(present, base)
    paths = working_copy_files(session.env, session.programs, repository)
    new = {name: path.read_bytes() for name, path in paths.items()}
    changed = [name for name in new if new[name] != old.get(name)]
    removed = _not_ignored(session, folder, sorted(old.keys() - new.keys()))
    change.files |= {base + name: new[name] for name in changed}
    change.deleted += [base + name for name in removed]
    change.notes += [f"{repository}: {name}" for name in (*changed, *removed)]
    if installation := [name for name in (*changed, *removed) if name in INSTALLATION]:
        change.complete = False
        what = f"changes to {installation[0]} are installed by `invoke up {session.env.options}`"
        change.notes.append(f"{repository}: {what}")
    if repository == CONTAINERS["jupyterhub"].repository and (changed or removed):
        change.commands = RESTART_HUB


def _not_ignored(session: Session, folder: Path, names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that Git doesn't ignore in the working copy; none if it is a plain folder."""
    if not names:
        return []
    git = Git(session.programs, folder)
    listed = git("check-ignore", "-z", "--stdin", stdin="\0".join(names).encode())
    ignored = set(listed.stdout.decode().split("\0"))
    return [name for name in names if name not in ignored] if listed.returncode in (0, 1) else []


def _plan_volume(change: Change, volume: PodVolume, seeds: Tree, present: Tree, lasts: bool) -> None:
    """Plan the change of ``volume``. ``lasts``: it outlives its pod, so files edited in it are kept."""
    base = f"{volume.path}/"
    old = _below(present, base)
    seeding = merge_seeds(seeds, old) if lasts else replace_seeds(seeds, old)
    change.files |= {base + name: content for name, content in seeding.files.items()}
    change.deleted += [base + name for name in seeding.deleted]
    change.notes += [f"{volume.suffix}: {note}" for note in seeding.notes]
    written = {
        name for name in seeding.files if name not in (SEED_DIGESTS, SEED_NAMES) and not name.endswith(".new")
    }
    touched = written.union(seeding.deleted)
    needs_restart = any(not name.startswith(TEMPLATES) or name not in old for name in touched)
    if volume.container == "jupyterhub" and needs_restart:
        change.commands = RESTART_HUB
    elif volume.container == "slurm" and touched:
        change.commands = (("scontrol", "reconfigure"),)


def _below(files: Mapping[str, bytes], base: str) -> dict[str, bytes]:
    return {name.removeprefix(base): content for name, content in files.items() if name.startswith(base)}


def _watch(session: Session) -> None:
    """Reload at every save until Ctrl-C; an edit that doesn't work is reported, and the next one awaited."""
    import watchfiles

    folders = [session.env.working_copy(name) for name in repositories_in(session.env)]
    folders += [folder for folder in seed_folders(session.env) if folder.is_dir()]
    require_development(session)
    session.console.say("watch", f"{len(folders)} folders; Ctrl-C ends it")
    try:
        _reload_reporting(session)
        for _ in watchfiles.watch(*folders, step=20, debounce=200):
            _reload_reporting(session)
    except KeyboardInterrupt:
        session.console.say("watch", "ended")


def _reload_reporting(session: Session) -> None:
    try:
        _reload_once(session)
    except HubEnvsError as error:
        print(error.report)
    except OSError as error:  # an editor's temporary file has been removed
        session.console.say("watch", f"{error.filename}: {error.strerror}; waiting for the next save")
