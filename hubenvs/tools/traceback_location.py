"""Explain a failed reload: find the user's file and line in the output of a program in a container."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..definition.environment import Environment
from ..definition.layers import shown
from ..definition.parts import PodVolume
from ..deployment.sources import seed_source
from ..errors import StateError

_LEVEL = re.compile(r"^\[[A-Z] [^]]*\] ")
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+)')
# s6's time and JupyterHub's indent at the start of a line of the hub's log.
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+  ( {4})?")


def failure_lines(output: str) -> list[str]:
    """Return the lines of a failed command's ``output`` without loggers' prefixes and warm.py's verdict."""
    lines = (_LOGGED.sub("", line).rstrip() for line in output.splitlines())
    return [line for line in lines if line not in ("", "done", "failed")]


def explain(
    env: Environment, container: str, lines: list[str], folders: Mapping[str, Path | PodVolume]
) -> StateError:
    """Return the error in the ``lines`` of a program in ``container``, with this host's file and line.

    ``folders``: where each updated folder of the container comes from.
    """
    place, problem = locate(lines, folders)
    details = lines[-12:]
    if place is None:
        message = f"the edit does not work in {container}: {problem}"
        return StateError(message, "the previous version keeps running", details)
    path, line = place
    message = f"{_source(env, path, folders)}:{line}: {problem}"
    return StateError(message, "correct it; the previous version keeps running", details)


def locate(lines: Iterable[str], folders: Iterable[str]) -> tuple[tuple[str, int] | None, str]:
    """Return file and line of the last frame in one of ``folders`` in a traceback, and the error.

    Without such a frame, None instead of file and line.
    """
    lines, prefixes = list(lines), tuple(f"{folder}/" for folder in folders)
    place, after = None, 0
    for number, line in enumerate(lines, start=1):
        frame = _FRAME.search(line)
        if frame and frame["path"].startswith(prefixes):
            place, after = (frame["path"], int(frame["line"])), number
    problems = [line for line in lines[after:] if line[:1].strip()]
    if not problems:
        return None, "it gives no reason"
    return place, problems[0] if place else _LEVEL.sub("", problems[-1])


def _source(env: Environment, path: str, folders: Mapping[str, Path | PodVolume]) -> str:
    """Return the file on this host that ``path`` in the container comes from, relative to the checkout."""
    for folder, source in folders.items():
        if path.startswith(f"{folder}/"):
            name = path.removeprefix(f"{folder}/")
            source_file = (
                source / name if isinstance(source, Path) else seed_source(env, source, name) or Path(path)
            )
            return shown(source_file, env.root)
    return path
