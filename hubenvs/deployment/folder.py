"""The deploy folder, .deploy/<environment>[-<instance>]: lock, secrets, record and logs (mode 0700)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..definition.containers import PASSWORD_KEY, PROVIDER_PASSWORD_KEY
from ..definition.names import deploy_folders
from ..errors import StateError
from ..files import write

if TYPE_CHECKING:
    from ..definition.environment import Environment

LOCK = "lock"
SECRETS = "secrets"
# write_secrets writes into NEW and sets the old folder aside as OLD, so that all secrets change at once.
NEW, OLD = f"{SECRETS}.new", f"{SECRETS}.old"
RECORD = "record.json"
SETTINGS = "settings.yaml"  # of the ConfigMap given to `up`, unless they were written to local.yaml
OLD_DEFINITION = "definition.json"  # hubenvs<0.2: the definition had a file of its own

_held: set[Path] = set()  # folders that this process has locked


def create(folder: Path) -> Path:
    """Create the deploy ``folder`` (0700) if needed and return it.

    Raises StateError if it can't be created or written, is a link, or belongs to another user.
    """
    if folder.is_symlink():
        raise StateError(f"{folder}: the deploy folder is a link to {folder.readlink()}", "remove the link")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except (FileExistsError, NotADirectoryError):
        problem = "the deploy folder can't be made: a file is in its place"
        raise StateError(f"{folder}: {problem}", "remove it") from None
    except OSError as error:
        problem = f"the deploy folder can't be made ({error.strerror})"
        raise StateError(f"{folder}: {problem}", "give this checkout to its user") from None
    if facts.st_uid != os.geteuid():
        problem = f"the deploy folder belongs to user {facts.st_uid}"
        raise StateError(f"{folder}: {problem}", "remove it, or work as that user")
    if facts.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StateError(f"{folder}: the deploy folder can't be written", f"chmod u+rwx {folder}")
    return folder


def folders(root: Path) -> list[Path]:
    """Return the deploy folders of the checkout ``root``."""
    return sorted(path for path in deploy_folders(root).glob("*") if path.is_dir())


def recorded_environments(root: Path) -> dict[Path, Environment]:
    """Return the definitions with which `up` has deployed from the checkout ``root``, by deploy folder."""
    environments = {}
    for path in folders(root):
        with contextlib.suppress(StateError):  # a damaged record
            if env := read_record(path).environment:
                environments[path] = env
    return environments


def remove(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove the deploy ``folder``, except the secrets named in ``keep``."""
    kept = read_secrets(folder, keep)
    if folder.exists():
        shutil.rmtree(folder)
    if kept:
        create(folder)
        write_secrets(folder, kept)
    elif folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the deploy ``folder`` while one task changes its deployment. Nested use in one process is allowed.

    Raises StateError, with the holder, if another task holds it. The lock ends with the process.
    """
    if folder in _held:
        yield
        return
    path = create(folder) / LOCK
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", errors="replace") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = stream.read().strip() or "another task"
            problem = f"{folder.name} is being changed by {holder}"
            raise StateError(problem, "wait until that has ended") from None
        if not _is_file_at(stream, path):  # a `down` that has just ended removed it with its folder
            raise StateError(f"{folder.name} has just been taken down by another task", "try again")
        holder = f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])})"
        with contextlib.suppress(OSError):  # on a full disk `down` has to work all the same
            stream.truncate(0)
            os.write(stream.fileno(), holder.encode(errors="replace"))
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)
            # A task that was refused before it created anything leaves no folder behind.
            with contextlib.suppress(OSError):
                if _is_file_at(stream, path) and [item.name for item in folder.iterdir()] == [LOCK]:
                    remove(folder)


def _is_file_at(stream: TextIO, path: Path) -> bool:
    """Return whether the open file ``stream`` is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def password_file(env: Environment) -> Path | None:
    """Return the file with the generated password that people log in with; None if there is none."""
    if env.auth.kind == "dummy":
        return env.deploy_folder / SECRETS / PASSWORD_KEY
    if env.gateway_url and env.auth.provider_password:
        return env.deploy_folder / SECRETS / PROVIDER_PASSWORD_KEY
    return None


def read_secrets(folder: Path, only: Container[str] | None = None) -> dict[str, str]:
    """Return the secrets in the deploy ``folder`` by key: all, or those in ``only``.

    Raises StateError if one is empty or isn't text.
    """
    secrets, old = folder / SECRETS, folder / OLD
    if old.is_dir() and not secrets.exists():  # a task was killed between the two renames of write_secrets
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
            loss = "; the database's log-in data is lost" if path.name == "crypt_keys" else ""
            hint = f"rm {path}, then `invoke up` makes a new one{loss}"
            raise StateError(f"{path}: empty, or not text", hint)
    return values


def write_secrets(folder: Path, values: Mapping[str, str]) -> None:
    """Replace the secrets in the deploy ``folder`` by ``values``, one file (0600) each: all of them or none.

    Halves of an old and a new key pair wouldn't fit each other.
    """
    secrets, old = folder / SECRETS, folder / OLD
    shutil.rmtree(folder / NEW, ignore_errors=True)
    new = create(folder / NEW)
    try:
        for name, value in values.items():
            write(new / name, value)
        if secrets.exists():
            secrets.rename(old)
        new.rename(secrets)
    finally:
        if old.exists() and not secrets.exists():
            old.rename(secrets)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


@dataclass
class Record:
    """The definition with which a deployment was brought up, and what `reload` has changed in its pod since.

    ``reloaded`` has the pod's id, and the content part of the fingerprint that it has now (null: unknown,
    because a reload was cut short).
    """

    definition: Mapping[str, Any] | None
    reloaded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> Environment | None:
        """Return the definition as an Environment; None if there is none or this version can't read it."""
        # Takes a quarter of a second, and `down` does without.
        from ..definition.environment import Environment

        with contextlib.suppress(ValueError):  # pydantic's errors are ValueErrors
            return Environment.model_validate_json(json.dumps(self.definition)) if self.definition else None
        return None

    @property
    def ports(self) -> dict[str, int]:
        """Return the ports of this host that the deployment had, by their names in `publish`."""
        published = (self.definition or {}).get("publish")
        ports = {}
        for name, endpoint in published.items() if isinstance(published, dict) else ():
            port = endpoint.get("port") if isinstance(endpoint, dict) else None
            if isinstance(port, int) and 0 < port < 65536:
                ports[name] = port
        return ports


def read_record(folder: Path) -> Record:
    """Return the record in the deploy ``folder``, by default an empty one; StateError if it is damaged."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
        definition, reloaded = content.get("definition"), content.get("reloaded")
        if "definition" not in content:
            # hubenvs<0.2: ports and digests, all text. What was reloaded is kept in another form, so the
            # next `up` replaces the pod.
            if not all(isinstance(value, str) for value in content.values()):
                raise ValueError
            old = folder / OLD_DEFINITION
            definition, reloaded = json.loads(old.read_text()) if old.exists() else None, None
        if not isinstance(definition, dict | None) or not isinstance(reloaded, dict | None):
            raise ValueError
    except (OSError, ValueError, AttributeError):
        hint = "remove it: the next `up` chooses ports anew, and may replace the pod"
        raise StateError(f"{path}: damaged", hint) from None
    return Record(definition, reloaded or {})


def write_record(folder: Path, record: Record) -> None:
    """Write the record of the deploy ``folder``."""
    write(folder / RECORD, json.dumps({"definition": record.definition, "reloaded": record.reloaded or None}))
    (folder / OLD_DEFINITION).unlink(missing_ok=True)
