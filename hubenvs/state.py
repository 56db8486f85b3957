"""The deploy folder of an environment: its lock, its secrets and its logs, for its owner's eyes alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import StateError

LOCK = "lock"
SECRETS = "secrets"
# New secrets are gathered in the one, and the old ones kept in the other, until they have changed places.
NEW, OLD = f"{SECRETS}.new", f"{SECRETS}.old"
DEFINITION = "definition.json"


def make(folder: Path) -> Path:
    """Make the deploy ``folder`` (0700) and return it.

    Raises StateError if it can't be made or written, is a link, or belongs to another user; closes it to others.
    """
    if folder.is_symlink():
        raise StateError(f"{folder}: the deploy folder is a link to {folder.readlink()}", "remove the link")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except (FileExistsError, NotADirectoryError):
        raise StateError(f"{folder}: the deploy folder can't be made: a file is in its place", "remove it") from None
    except OSError as error:
        raise StateError(
            f"{folder}: the deploy folder can't be made ({error.strerror})", "give this checkout to its user"
        ) from None
    if facts.st_uid != os.geteuid():
        raise StateError(
            f"{folder}: the deploy folder belongs to user {facts.st_uid}", "remove it, or work as that user"
        )
    if facts.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StateError(f"{folder}: the deploy folder can't be written", f"chmod u+rwx {folder}")
    return folder


def write(path: Path, content: str | bytes) -> None:
    """Write ``path`` (0600) whole or not at all; raise StateError if it can't be, or is a device or the like."""
    with writing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that becomes ``path`` (0600) when the block has come to its end.

    Raises StateError if it can't be written, or if ``path`` is a device or the like.
    """
    if path.exists() and not path.is_file():  # renaming would put a file in its place, /dev/full's too
        raise StateError(f"{path}: not a file", "name another")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as stream:
                yield stream
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"{path}: can't be written ({error.strerror})", "make room, or make it writable") from None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the deploy ``folder`` while one task changes its environment.

    Raises StateError, saying who holds it, if another task does. A lock ends with the process that holds it.
    """
    path = make(folder) / LOCK
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", errors="replace") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = stream.read().strip() or "another task"
            raise StateError(f"{folder.name} is being changed by {holder}", "wait until that has ended") from None
        if not _is_at(stream, path):  # a `down` that has just ended removed it with its folder
            raise StateError(f"{folder.name} has just been taken down by another task", "try again")
        holder = f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])})"
        with contextlib.suppress(OSError):  # on a full disk `down` has to work all the same
            stream.truncate(0)
            os.write(stream.fileno(), holder.encode(errors="replace"))
        try:
            yield
        finally:
            # A task that was refused before it made anything leaves no folder either.
            with contextlib.suppress(OSError):
                if _is_at(stream, path) and [item.name for item in folder.iterdir()] == [LOCK]:
                    remove(folder)


def _is_at(stream: TextIO, path: Path) -> bool:
    """Return whether the open file ``stream`` is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def folders(root: Path) -> list[Path]:
    """Return the deploy folders of the checkout ``root``."""
    return sorted(path for path in (root / ".deploy").glob("*") if path.is_dir())


def read_secrets(folder: Path, only: Container[str] | None = None) -> dict[str, str]:
    """Return the secrets kept in the deploy ``folder``, by key: all, or those in ``only``.

    Raises StateError if one is empty or isn't text.
    """
    secrets, old = folder / SECRETS, folder / OLD
    if old.is_dir() and not secrets.exists():  # a task was killed between two renames
        old.rename(secrets)
    if not secrets.is_dir():
        return {}
    values = {}
    for path in secrets.iterdir():
        if only is not None and path.name not in only:
            continue
        try:
            values[path.name] = path.read_text()
        except (IsADirectoryError, UnicodeDecodeError):
            values[path.name] = ""
        if not values[path.name].strip():
            raise StateError(f"{path}: damaged", "`invoke down`, then `invoke up`, makes all secrets anew")
    return values


def write_secrets(folder: Path, values: Mapping[str, str]) -> None:
    """Keep ``values`` in the deploy ``folder``, each in a file of its own (0600): all of them, or those from before.

    Halves of two key pairs would fit nowhere.
    """
    secrets, old = folder / SECRETS, folder / OLD
    shutil.rmtree(folder / NEW, ignore_errors=True)
    fresh = make(folder / NEW)
    try:
        for name, value in values.items():
            write(fresh / name, value)
        if secrets.exists():
            secrets.rename(old)
        fresh.rename(secrets)
    finally:
        if old.exists() and not secrets.exists():
            old.rename(secrets)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def read_record(folder: Path) -> dict[str, str]:
    """Return what is known of this deployment (its ports, what `reload` made of its pod), or nothing.

    Raises StateError if the file that says so is damaged.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(value, str) for value in record.values()):
        raise StateError(f"{path}: damaged", "remove it: the next `up` chooses ports anew, and may replace the pod")
    return record


def write_record(folder: Path, record: Mapping[str, str]) -> None:
    """Keep what is known of this deployment."""
    write(folder / "record.json", json.dumps(dict(record)))


def read_definition(folder: Path) -> str | None:
    """Return the definition that the deployment was brought up with, as JSON, or None if there is none."""
    path = folder / DEFINITION
    return path.read_text() if path.exists() else None


def write_definition(folder: Path, definition: str) -> None:
    """Keep the definition that the deployment is brought up with."""
    write(folder / DEFINITION, definition)


def remove(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove the deploy ``folder``; the secrets named in ``keep`` stay, everything else goes."""
    kept = read_secrets(folder, keep)
    if folder.exists():
        shutil.rmtree(folder)
    if kept:
        make(folder)
        write_secrets(folder, kept)
    elif folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
