"""Stage `clone`: working copies of the development repositories. An existing one is never overwritten."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..definition.environment import working_copy
from ..definition.names import WORKING_COPIES
from ..engines import git
from ..engines.git import Git
from ..errors import CommandError, StateError
from ..files import digest
from ..plan.images import repositories_in
from ..session import Session

# A line in the first commit of a copy of the bundled source: the digest of that source.
_TRAILER = "Bundled-Source-Digest"
# A key in the Git configuration of a clone: the ref that the definition asked for.
_REF = "hubenvs.ref"
# The tool is the commits' author, because Git may not know the user's name.
_IDENTITY = ("-c", "user.name=hubenvs", "-c", "user.email=hubenvs@localhost", "-c", "commit.gpgsign=false")
# A folder with one of these files is a Python package that can be installed.
_PACKAGE = ("pyproject.toml", "setup.py", "setup.cfg")


def clone(session: Session) -> None:
    """Create missing working copies and print a line about each; StateError if a source can't be reached."""
    for repository in repositories_in(session.env):
        session.console.say("clone", f"{repository}: {_clone(session, repository)}")


def _clone(session: Session, repository: str) -> str:
    """Create the working copy of ``repository`` if it doesn't exist; return a message about it."""
    env = session.env
    source, target = env.repositories[repository], env.working_copy(repository)
    if source.is_folder:
        return _in_place(repository, target)
    if target == env.bundled(repository):
        return "the bundled source, without a working copy"
    if os.path.lexists(target) and not target.is_dir():
        raise StateError(f"{target}: a file is in the working copy's place", "remove it")
    _adopt_older_layout(session, repository)
    if target.is_dir():
        return _update(session, repository, f"kept {target.relative_to(env.root)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{repository}-") as scratch:
        new = Path(scratch) / repository
        if source.url == "bundled":
            _copy_bundled(session, repository, new)
        else:
            _clone_url(session, repository, new)
        try:
            new.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            return _clone(session, repository)  # another environment's `up` was faster
    at = f" at {source.ref}" if source.ref else ""
    return f"made {target.relative_to(env.root)} from {source.url}{at}"


def _in_place(repository: str, folder: Path) -> str:
    if not folder.is_dir():
        hint = "correct it, or use `bundled`"
        raise StateError(f"repositories.{repository}.url: there is no folder {folder}", hint)
    if not any((folder / name).is_file() for name in _PACKAGE):
        problem = f"{folder} has no {' or '.join(_PACKAGE)}"
        raise StateError(f"repositories.{repository}.url: {problem}", "name the package's folder")
    return f"{folder}, used in place"


def _adopt_older_layout(session: Session, repository: str) -> None:
    """hubenvs<0.2: `<repository>` was the copy in use, from any source. Rename it after its source."""
    root = session.env.root
    folder = working_copy(root, repository, "bundled")
    aside = folder.with_name(f"{repository}.{digest('bundled')}")
    if folder.is_dir():
        origin = Git(session.programs, folder, is_root=True)("config", "--local", "remote.origin.url").text
        target = working_copy(root, repository, origin or "bundled")
        if target != folder and not target.exists():
            folder.rename(target)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def _copy_bundled(session: Session, repository: str, target: Path) -> None:
    """Make ``target`` a repository with one commit of the bundled source."""
    files = git.working_files(session.programs, session.env.bundled(repository))
    copy_files(files, target)
    message = f"{repository} as bundled\n\n{_TRAILER}: {_digest(files)}"
    run = Git(session.programs, target, is_root=True)
    run("init", "--quiet", check=True)
    run("add", "--all", check=True)
    run(*_IDENTITY, "commit", "--quiet", f"--message={message}", check=True)


def _clone_url(session: Session, repository: str, target: Path) -> None:
    """Clone the source of ``repository`` into ``target``; StateError if URL or ref can't be fetched."""
    source, key = session.env.repositories[repository], f"repositories.{repository}"
    try:
        git.clone(session.programs, source.url, target)
    except CommandError as error:
        hint = f"check the URL and the network, or use the bundled source: --set {key}.url=bundled"
        raise StateError(f"{key}.url: {source.url} can't be cloned ({_reason(error)})", hint) from None
    run = Git(session.programs, target, is_root=True)
    if source.ref:
        try:
            run("checkout", "--quiet", source.ref, "--", check=True)
        except CommandError as error:
            problem = f"{source.url} has no {source.ref} ({_reason(error)})"
            raise StateError(f"{key}.ref: {problem}", "name a branch, tag or commit of it") from None
    run("config", "--local", _REF, source.ref or "HEAD", check=True)


def _update(session: Session, repository: str, text: str) -> str:
    """Check out the definition's ref if that loses no edits or commits; return ``text`` with remarks."""
    source = session.env.repositories[repository]
    run = Git(session.programs, session.env.working_copy(repository), is_root=True)
    if source.ref:
        current, wanted = (
            run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").text for ref in ("HEAD", source.ref)
        )
        if current != wanted:
            if _check_out(run, source.ref):
                return f"{text}, {source.ref} checked out"
            text += f" (it is not at {source.ref}: check that out there)"
    if source.url == "bundled":
        first = run("log", "--max-parents=0", "--format=%B").text
        bundled = _digest(git.working_files(session.programs, session.env.bundled(repository)))
        if _TRAILER in first and f"{_TRAILER}: {bundled}" not in first:
            text += " (the bundled source has changed since it was made: move the copy away to get that)"
    return text


def _check_out(run: Git, ref: str) -> bool:
    """Check out ``ref`` unless it was asked for before, or there are edits or unpublished commits."""
    asked = run("config", "--local", _REF).text
    edits = run("status", "--porcelain")
    commits = run("log", "--format=%h", "HEAD", "--not", "--remotes", "--tags")
    if asked in ("", ref) or edits.text or commits.text:
        return False
    run("fetch", "--quiet", "--tags", "origin")  # may fail without a network; the ref may be here already
    if run("checkout", "--quiet", ref, "--").returncode != 0:
        return False
    run("merge", "--quiet", "--ff-only")  # a branch that was checked out before
    run("config", "--local", _REF, ref, check=True)
    return True


def restore(session: Session, repository: str, bundle: Path) -> None:
    """Create the working copy of ``repository`` from the Git bundle ``bundle``, as if it had been cloned."""
    source, target = session.env.repositories[repository], session.env.working_copy(repository)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{repository}-") as scratch:
        new = Path(scratch) / repository
        git.clone(session.programs, str(bundle), new)
        remote = ("remove", "origin") if source.url == "bundled" else ("set-url", "origin", source.url)
        Git(session.programs, new, is_root=True)("remote", *remote, check=True)
        new.rename(target)


class WorkingCopy(NamedTuple):
    """The working copy of repository ``name`` from ``url``; ``commit`` and ``edited`` are None if unknown."""

    name: str
    url: str
    commit: str | None
    edited: bool | None


def working_copies(session: Session) -> list[WorkingCopy]:
    """Return the working copies of the environment's repositories."""
    rows = []
    for repository in repositories_in(session.env):
        folder = session.env.working_copy(repository)
        run = Git(session.programs, folder, is_root=folder.parent.name == WORKING_COPIES)
        commit, edited = None, None
        try:
            if folder.is_dir() and (commit := run("rev-parse", "--short", "HEAD").text or None):
                # --no-optional-locks: the index of somebody's repository isn't rewritten.
                edited = bool(run("--no-optional-locks", "status", "--porcelain", "--", ".").text)
        except StateError:  # another user's repository; everything else can still be shown
            commit = None
        url = session.env.repositories[repository].url
        rows.append(WorkingCopy(repository, url, commit, edited))
    return rows


def copy_files(files: Mapping[str, Path], target: Path) -> None:
    """Copy ``files`` by name into the folder ``target``."""
    for name, path in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name)


def _digest(files: Mapping[str, Path]) -> str:
    return digest({name: path.read_bytes() for name, path in files.items()})


def _reason(error: CommandError) -> str:
    """Return Git's first line, which names the cause."""
    return next(iter(error.details), error.hint).removeprefix("fatal: ")
