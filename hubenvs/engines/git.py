"""Git commands about a working copy."""

from __future__ import annotations

import os
from pathlib import Path

from .. import files
from ..errors import StateError
from .process import Completed, Programs

# No prompt for a password: an unreachable URL is an error. Messages in English: we search them.
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class Git:
    """Runs Git in ``folder``.

    ``is_root``: Git doesn't look for a repository in the folders above ``folder``.
    """

    def __init__(self, programs: Programs, folder: Path, is_root: bool = False) -> None:
        self._programs = programs
        self._folder = folder
        self._variables = dict(_ENVIRONMENT)
        if is_root:
            self._variables["GIT_CEILING_DIRECTORIES"] = str(folder.parent)

    def __call__(self, *command: str, check: bool = False, stdin: bytes | None = None) -> Completed:
        """Run ``git command``.

        Raises StateError if Git refuses the folder because another user owns it, CommandError if the command
        fails (with ``check``).
        """
        argv = ("git", "-C", str(self._folder), *command)
        done = self._programs.run(argv, check=check, stdin=stdin, variables=self._variables)
        if done.returncode == 128 and "dubious ownership" in done.stderr:
            problem = "another user owns it, so Git refuses to read it"
            raise StateError(f"{self._folder}: {problem}", "work as its owner")
        return done


def clone(programs: Programs, source: str, target: Path) -> None:
    """Clone ``source``, a URL or a bundle, into the new folder ``target``; CommandError if that fails."""
    programs.run(("git", "clone", "--quiet", "--", source, str(target)), variables=_ENVIRONMENT)


def working_files(programs: Programs, folder: Path, is_root: bool = False) -> dict[str, Path]:
    """Return the files that Git tracks or doesn't ignore, or all of a plain folder, by relative path.

    Raises StateError for a link that leads out of a clone (``is_root``): what it leads to on this host would
    get into an image.
    """
    git = Git(programs, folder, is_root)
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode != 0:
        found = files.paths(folder, skip=(".git",))
    else:
        names = sorted(os.fsdecode(listed.stdout).split("\0"))
        files.require_text(names, folder)
        found = {name: folder / name for name in names if (folder / name).is_file()}
    if is_root:
        files.require_within(found.values(), folder)
    return found
