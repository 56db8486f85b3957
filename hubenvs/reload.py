"""Bringing edits into the running pod: working copies and seed files, and a restart of only what they touch."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import archive, repositories, volumes
from .commands import exec_argv
from .console import Console
from .engine import Engine
from .errors import StateError
from .model import Environment
from .names import REPOSITORIES

# A change to what says how a package is installed needs more than its files.
INSTALLATION = ("pyproject.toml", "setup.py", "setup.cfg")
# JupyterHub looks at a template's file each time it shows it.
TEMPLATES = "templates/"
_LEVEL = re.compile(r"^\[[A-Z] [^]]*\] ")
WARM = ("python3", "/usr/local/lib/hub/warm.py", "--ask")
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+)')
# What s6 (the time) and JupyterHub (an indent) put before a line that the hub logs.
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+  ( {4})?")


@dataclass
class Change:
    """What is to be brought into one container.

    ``files`` and ``deleted`` are by their path there, ``notes`` for the person, ``commands`` have to succeed
    afterwards; ``whole`` says that with it the container is as a new one would be.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    commands: tuple[tuple[str, ...], ...] = ()
    whole: bool = True

    def __bool__(self) -> bool:
        return bool(self.files or self.deleted)


def places(env: Environment, container: str) -> dict[str, Path]:
    """Return which folders of ``container`` are brought up to date, and where on this host each comes from.

    A working copy has one source, a volume several folders; the last that has a file wins.
    """
    found = {f"/usr/src/{name}": env.working_copy(name) for name, image in REPOSITORIES.items() if image == container}
    return found | {volume.path: env.root for volume in env.volumes if volume.seeded and volume.container == container}


def plan(env: Environment, container: str, current: Mapping[str, bytes], engine: Engine) -> Change:
    """Return what brings ``container``, whose files are ``current``, up to date with this host's."""
    change = Change()
    for repository, image in REPOSITORIES.items():
        if image != container:
            continue
        base = f"/usr/src/{repository}/"
        folder = env.working_copy(repository)
        if repositories.present(env, repository, engine) != folder:
            raise StateError(
                f"{folder.relative_to(env.root)} is another deployment's, from another URL than this one's",
                f"invoke up {env.options}, with the settings from before, takes up this one's again",
            )
        there = _below(current, base)
        wanted = {name: path.read_bytes() for name, path in repositories.files(folder, engine).items()}
        changed = [name for name in wanted if wanted[name] != there.get(name)]
        gone = repositories.not_ignored(folder, there.keys() - wanted.keys(), engine)
        change.files |= {base + name: wanted[name] for name in changed}
        change.deleted += tuple(base + name for name in gone)
        change.notes += [f"{repository}: {name}" for name in (*changed, *gone)]
        if again := [name for name in (*changed, *gone) if name in INSTALLATION]:
            change.whole = False
            change.notes.append(f"{repository}: what {again[0]} says is installed by `invoke up {env.options}`")
        if image == "jupyterhub" and (changed or gone):
            change.commands = ((*WARM, "check"), (*WARM, "restart"))
    seeds = volumes.seeds(env)
    for volume in env.volumes:
        if not volume.seeded or volume.container != container:
            continue
        base = f"{volume.path}/"
        there = _below(current, base)
        seeding = archive.seeding(seeds[volume.name], there)
        change.files |= {base + name: content for name, content in seeding.files.items()}
        change.notes += [f"{volume.suffix}: {note}" for note in seeding.notes]
        touched = {name for name in seeding.files if name != archive.RECORD and not name.endswith(".new")}
        if container == "jupyterhub" and any(not name.startswith(TEMPLATES) or name not in there for name in touched):
            change.commands = ((*WARM, "check"), (*WARM, "restart"))
        elif container == "slurm" and touched:
            change.commands = (("scontrol", "reconfigure"),)
    return change


def _below(files: Mapping[str, bytes], base: str) -> dict[str, bytes]:
    return {name.removeprefix(base): content for name, content in files.items() if name.startswith(base)}


def require_development(env: Environment) -> None:
    """Raise StateError unless the containers of ``env`` run from working copies."""
    if env.stage != "dev":
        raise StateError(f"{env.name} has its packages installed (stage: prod)", f"invoke up {env.options}")


@dataclass(frozen=True)
class Reloaded:
    """What came of a reload: the ``changes`` that were brought in, and the first ``failure``.

    A container with a failure is as it was before.
    """

    changes: tuple[Change, ...]
    failure: StateError | None

    @property
    def whole(self) -> bool:
        """Return whether the pod is now as a new one would be."""
        return self.failure is None and all(change.whole for change in self.changes)


def reload(env: Environment, engine: Engine, console: Console) -> Reloaded:
    """Bring what was edited into the pod of ``env``, and return what came of it.

    A failure says which of the person's own files and lines doesn't work.
    """
    started = time.monotonic()
    results = engine.at_once([partial(_bring, env, container, engine) for container in env.containers])
    failure = next((result for result in results if isinstance(result, StateError)), None)
    done = tuple(result for result in results if isinstance(result, Change) and result)
    for note in (note for change in done for note in change.notes):
        console.say("reload", note)
    took = f"{time.monotonic() - started:.1f} s"
    if done:
        restarted = any(command[-1] == "restart" for change in done for command in change.commands)
        what = "the hub has restarted" if restarted else "nothing had to restart"
        console.say("reload", f"live after {took}, {what}")
    elif failure is None:
        console.say("reload", "nothing has been edited")
    return Reloaded(done, failure)


def _bring(env: Environment, container: str, engine: Engine) -> Change | StateError:
    name = env.container(container)
    folders = [path.lstrip("/") for path in places(env, container)]
    if not folders:
        return Change()
    listed = engine.run(
        exec_argv(name, "tar", "--create", "--directory=/", "--exclude=__pycache__", *folders), check=False
    )
    if listed.returncode != 0:
        return StateError(f"{env.pod} is not up", f"invoke up {env.options}", listed.stderr.splitlines()[-3:])
    current = {f"/{path}": content for path, content in archive.unpack(listed.stdout).items()}
    change = plan(env, container, current, engine)
    if not change:
        return change
    tar = archive.pack({path.lstrip("/"): content for path, content in change.files.items()}, owner=0)
    task = json.dumps({"delete": change.deleted, "commands": change.commands})
    script = Path(__file__).with_name("put.py").read_text()
    python = ("/usr/bin/env", "python3")
    done = engine.run(exec_argv(name, *python, "-c", script, task, interactive=True), stdin=tar, check=False)
    if done.returncode == 0:
        return change
    return _explained(env, container, reason(done.text + "\n" + done.stderr))


def reason(output: str) -> list[str]:
    """Return the lines of ``output``, of a command that failed in a container, without what a logger put before them.

    ``done`` and ``failed`` are the last words of `warm.py --ask`.
    """
    lines = (_LOGGED.sub("", line).rstrip() for line in output.splitlines())
    return [line for line in lines if line not in ("", "done", "failed")]


def _explained(env: Environment, container: str, output: list[str]) -> StateError:
    """Return the error that ``output``, of a program in ``container``, tells of, with this host's file and line."""
    where, problem = locate(output, places(env, container))
    details = output[-12:]
    if where:
        path, line = where
        return StateError(
            f"{_source(env, container, path)}:{line}: {problem}",
            "correct it; the previous version keeps running",
            details,
        )
    return StateError(
        f"the edit does not work in {container}: {problem}", "the previous version keeps running", details
    )


def locate(output: Iterable[str], folders: Iterable[str]) -> tuple[tuple[str, int] | None, str]:
    """Return the file and line in one of ``folders`` that the last traceback in ``output`` points at, and its error.

    None instead of file and line if there is no such traceback.
    """
    lines, below = list(output), tuple(f"{folder}/" for folder in folders)
    frames = [(number, found) for number, line in enumerate(lines) if (found := _FRAME.search(line))]
    ours = [(number, found) for number, found in frames if found["path"].startswith(below)]
    last = ours[-1][0] if ours else -1
    problems = [line for line in lines[last + 1 :] if line[:1].strip()]
    if not problems:
        return None, "it gives no reason"
    if not ours:
        return None, _LEVEL.sub("", problems[-1])
    return (ours[-1][1]["path"], int(ours[-1][1]["line"])), problems[0]


def _source(env: Environment, container: str, path: str) -> str:
    """Return the file on this host that ``path`` in ``container`` was made from, as seen from the checkout."""
    for place, folder in places(env, container).items():
        if path.startswith(f"{place}/"):
            relative = path.removeprefix(f"{place}/")
            volume = next((volume for volume in env.volumes if volume.path == place), None)
            found = folder / relative if volume is None else volumes.seed_source(env, volume, relative) or Path(path)
            return str(found.relative_to(env.root)) if found.is_relative_to(env.root) else str(found)
    return path
