"""The development repositories' working copies: made once, never overwritten; what is in them is what runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from . import archive
from .engine import Completed, Engine
from .errors import CommandError, StateError
from .model import Environment, is_folder
from .names import REPOSITORIES, WORKING_COPIES, digest

# A working copy made from this checkout's own source remembers which state of it that was.
_TRAILER = "Bundled-Source-Digest"
# A working copy cloned from a URL remembers, in its Git configuration, which ref the definition asked for.
_REF = "hubenvs.ref"
# The commit's author is the tool: the working copy may be made where nobody has told Git a name.
_IDENTITY = ("-c", "user.name=hubenvs", "-c", "user.email=hubenvs@localhost", "-c", "commit.gpgsign=false")
# What makes a folder a Python package that can be installed.
_PACKAGE = ("pyproject.toml", "setup.py", "setup.cfg")
# Never ask for a password on a terminal: say that the URL can't be reached. And say it in words that are known here.
_GIT = ("env", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")


def clone(env: Environment, engine: Engine) -> list[str]:
    """Make the working copies of ``env`` that aren't there yet; return one line about each.

    A working copy from another source than ``env`` says is kept aside. Raises StateError if a source can't be reached.
    """
    names = [name for name, image in REPOSITORIES.items() if image in env.containers]
    return [f"{name}: {_clone_one(env, name, engine)}" for name in names]


def _git(folder: Path, *command: str, engine: Engine, check: bool = False, stdin: bytes | None = None) -> Completed:
    """Run a command of Git's about ``folder`` and return what came of it.

    Raises StateError where Git refuses to look at the folder, and with ``check`` CommandError where it fails.
    """
    # A working copy that has lost its .git is a plain folder, not a part of the checkout that it lies in.
    ceiling = (f"GIT_CEILING_DIRECTORIES={folder.parent}",) if folder.parent.name == WORKING_COPIES else ()
    done = engine.run((*_GIT, *ceiling, "git", "-C", str(folder), *command), check=check, stdin=stdin)
    if done.returncode == 128 and "dubious ownership" in done.stderr:
        raise StateError(f"{folder} belongs to another user, so Git doesn't look at it", "work as its owner")
    return done


def _clone_one(env: Environment, name: str, engine: Engine) -> str:
    source = env.repositories.source(name)
    target = env.working_copy(name)
    if is_folder(source.url):
        if not target.is_dir():
            raise StateError(f"repositories.{name}.url: there is no folder {target}", "correct it, or use `bundled`")
        if not any((target / file).is_file() for file in _PACKAGE):
            raise StateError(
                f"repositories.{name}.url: {target} has no {' or '.join(_PACKAGE)}", "name the package's folder"
            )
        return f"{target}, used in place"
    bundled = source.url == "bundled"
    if target == env.bundled(name):
        return "the bundled source, without a working copy"
    aside = None
    if os.path.lexists(target) and not target.is_dir():
        raise StateError(f"{target}: not a folder, where the working copy is to be", "remove it")
    if target.is_dir():
        origin = _origin(target, engine)
        if origin == source.url:
            return _existing(env, name, target, engine, f"kept {target.relative_to(env.root)}")
        aside, before = _aside(target, origin), _aside(target, source.url)
        if aside.exists():
            raise StateError(f"{aside} and {target} are both from {origin}", "move one of them away")
        if before.is_dir():
            target.rename(aside)
            before.rename(target)
            text = f"took up the copy from {source.url} again; the one from {origin} is kept as {aside.name}"
            return _existing(env, name, target, engine, text)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        fresh = Path(scratch) / name
        if bundled:
            copy(files(env.bundled(name), engine), fresh)
            message = f"{name} as bundled\n\n{_TRAILER}: {_bundled_digest(env, name, engine)}"
            for command in (
                ("init", "--quiet"),
                ("add", "--all"),
                (*_IDENTITY, "commit", "--quiet", f"--message={message}"),
            ):
                _git(fresh, *command, engine=engine, check=True)
        else:
            _clone_url(name, source.url, source.ref, fresh, engine)
        if aside:
            target.rename(aside)
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            return _clone_one(env, name, engine)  # another environment's `up` was faster
    text = f"made {target.relative_to(env.root)} from {source.url}" + (f" at {source.ref}" if source.ref else "")
    return text + (f"; the one from before is kept as {aside.name}" if aside else "")


def restore(env: Environment, name: str, bundle: Path, engine: Engine) -> None:
    """Make the working copy of ``name`` out of ``bundle``, as if it had been cloned from where ``env`` says."""
    source, target = env.repositories.source(name), env.working_copy(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        fresh = Path(scratch) / name
        engine.run(("git", "clone", "--quiet", "--", str(bundle), str(fresh)))
        remote = ("remove", "origin") if source.url == "bundled" else ("set-url", "origin", source.url)
        _git(fresh, "remote", *remote, engine=engine, check=True)
        fresh.rename(target)


def _clone_url(name: str, url: str, ref: str | None, fresh: Path, engine: Engine) -> None:
    hint = f"check the URL and the network, or use this checkout's own: --set repositories.{name}.url=bundled"
    try:
        engine.run((*_GIT, "git", "clone", "--quiet", "--", url, str(fresh)))
    except CommandError as error:
        raise StateError(f"repositories.{name}.url: {url} can't be cloned ({_reason(error)})", hint) from None
    if ref:
        try:
            _git(fresh, "checkout", "--quiet", ref, "--", engine=engine, check=True)
        except CommandError as error:
            raise StateError(f"repositories.{name}.ref: {url} has no {ref} ({_reason(error)})", "correct it") from None
    _git(fresh, "config", "--local", _REF, ref or "HEAD", engine=engine, check=True)


def _checked_out(target: Path, ref: str, engine: Engine) -> bool:
    """Check out ``ref`` if the definition asks for it only now and nothing of a person's is in the way."""
    git = partial(_git, target, engine=engine)
    asked = git("config", "--local", _REF).text
    edits = git("status", "--porcelain")
    commits = git("log", "--format=%h", "HEAD", "--not", "--remotes", "--tags")
    if asked in ("", ref) or edits.text or commits.text:
        return False
    git("fetch", "--quiet", "--tags", "origin")  # without a network, what is there may do
    if git("checkout", "--quiet", ref, "--").returncode != 0:
        return False
    git("merge", "--quiet", "--ff-only")  # a branch that was checked out before
    git("config", "--local", _REF, ref, check=True)
    return True


def _origin(target: Path, engine: Engine) -> str:
    """Return the URL that a working copy was cloned from."""
    return _git(target, "config", "--local", "remote.origin.url", engine=engine).text or "bundled"


def present(env: Environment, name: str, engine: Engine) -> Path:
    """Return where the working copy of ``env`` is now: kept aside while another deployment's is in its place."""
    url, target = env.repositories.source(name).url, env.working_copy(name)
    if target == env.bundled(name) or is_folder(url) or not target.is_dir() or _origin(target, engine) == url:
        return target
    return _aside(target, url)


def _aside(target: Path, url: str) -> Path:
    """Return where the working copy from ``url`` is kept while another source's is in its place."""
    return target.with_name(f"{target.name}.{digest(url)}")


def _reason(error: CommandError) -> str:
    """Return the first thing that git says, in which it names the cause."""
    return next(iter(error.details), error.hint).removeprefix("fatal: ")


def _existing(env: Environment, name: str, target: Path, engine: Engine, text: str) -> str:
    """Bring a working copy to the ref that is asked for if it can be; return ``text`` with what there is to say."""
    source = env.repositories.source(name)
    if source.ref:
        here, there = (
            _git(target, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", engine=engine).text
            for ref in ("HEAD", source.ref)
        )
        if here != there:
            if _checked_out(target, source.ref, engine):
                return f"{text}, {source.ref} checked out"
            text += f" (it is not at {source.ref}: check that out there)"
    if source.url == "bundled":
        first = _git(target, "log", "--max-parents=0", "--format=%B", engine=engine).text
        if _TRAILER in first and f"{_TRAILER}: {_bundled_digest(env, name, engine)}" not in first:
            text += " (the bundled source has changed since it was made: move the copy away to get that)"
    return text


def _bundled_digest(env: Environment, name: str, engine: Engine) -> str:
    return digest({name: path.read_bytes() for name, path in files(env.bundled(name), engine).items()})


def files(folder: Path, engine: Engine) -> dict[str, Path]:
    """Return the files of a working copy that belong into an image: those that Git has or does not ignore."""
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", engine=engine)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:  # a plain folder
        names = list(archive.paths(folder, skip=(".git",)))
    return {name: folder / name for name in sorted(names) if (folder / name).is_file()}


def copy(found: Mapping[str, Path], target: Path) -> None:
    """Copy the files ``found`` by their names into the folder ``target``."""
    for name, path in found.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name)


def not_ignored(folder: Path, names: Iterable[str], engine: Engine) -> list[str]:
    """Return those of ``names`` that Git would not ignore in the working copy; none if it is a plain folder."""
    asked = sorted(names)
    if not asked:
        return []
    listed = _git(folder, "check-ignore", "-z", "--stdin", engine=engine, stdin="\0".join(asked).encode())
    ignored = set(listed.stdout.decode().split("\0"))
    return [name for name in asked if name not in ignored] if listed.returncode in (0, 1) else []


def describe(env: Environment, engine: Engine) -> list[dict[str, object]]:
    """Return name, url, commit and whether it is edited, of each working copy of ``env``; null where there is none."""
    rows: list[dict[str, object]] = []
    for name, image in REPOSITORIES.items():
        if image not in env.containers:
            continue
        git = partial(_git, present(env, name, engine), engine=engine)
        commit, edited = None, None
        with contextlib.suppress(StateError):  # another user's: what else there is can be shown all the same
            if commit := git("rev-parse", "--short", "HEAD").text or None:
                # --no-optional-locks: looking must not rewrite the index of somebody's repository.
                edited = bool(git("--no-optional-locks", "status", "--porcelain", "--", ".").text)
        rows.append({"name": name, "url": env.repositories.source(name).url, "commit": commit, "edited": edited})
    return rows
