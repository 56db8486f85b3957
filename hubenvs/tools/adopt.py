"""Task `adopt`: bring a hub up with the database and keys of isambard-sc/brics_jupyterhub_envs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from ..definition.containers import HUB_ID
from ..deployment import folder
from ..engines.engine import Engine
from ..errors import DefinitionError, StateError
from ..files import digest, pack, unpack, write
from ..session import Session
from ..stages.up import up

DATABASE = "jupyterhub.sqlite"
# The old deployment's files by name, and our name for the content of each.
FILES = {
    DATABASE: DATABASE,
    "jupyterhub_crypt_key": "crypt_keys",
    "jupyterhub_cookie_secret": "cookie_secret",
    "cookie_secret": "cookie_secret",
    "ssh_client_key": "ssh_key",
    "ssh_key": "ssh_key",
    "ssh_known_hosts": "known_hosts",
}
# Not empty while a hub writes to its database, or after it was killed while writing.
UNFINISHED = (f"{DATABASE}-wal", f"{DATABASE}-journal")
RECORD = "adopted.json"  # in the deploy folder: the digest of the adopted files
KEY_BYTES = 32
SHOWN = 5  # users that are shown by name


@dataclass(frozen=True)
class Users:
    """Summary of a hub's database: names of users, number of tokens, job number of each server."""

    names: tuple[str, ...]
    tokens: int
    jobs: Mapping[str, str]


def adopt(session: Session, sources: Sequence[str], config_map: str | None, dry_run: bool) -> None:
    """Bring the environment up with the hub database, keys and SSH files in ``sources``, which are only read.

    A source is a folder, a volume, or a tar of one. ``config_map``: see `up`. ``dry_run``: only say what
    would be taken. Raises DefinitionError if something is missing or doesn't fit, StateError if the old hub
    still runs, or if the environment has another database already.
    """
    session.require_here("adopt", "docs/kubernetes.md says how to restore a backup there")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(session.locked())
        old_files = _read_old_files(session.engine, sources)
        database = Path(scratch) / DATABASE
        write(database, old_files[DATABASE])
        users = read_users(database, old_files["crypt_keys"])
        _say(session, old_files, users)
        taken = digest(old_files)
        if _is_adopted(session, taken) or dry_run:
            adopted = f"it is adopted already; `invoke up {session.env.options}` brings it up"
            session.console.say("adopt", "nothing was changed" if dry_run else adopted)
            return
        adopt_servers(database)
        _write(session, old_files, database.read_bytes())
        write(session.env.deploy_folder / RECORD, json.dumps({"digest": taken}))
        up(session, config_map)


# -- the old deployment --------------------------------------------------------------------------------


def _read_old_files(engine: Engine, sources: Sequence[str]) -> dict[str, bytes]:
    """Return the content of the old deployment's files, by our names for them (`FILES`)."""
    old_files: dict[str, bytes] = {}
    for source in sources:
        for path, content in _files(engine, source):
            name = PurePosixPath(path).name
            if name in UNFINISHED and content:
                raise StateError(
                    f"{source}: {path} shows that its hub runs, or was killed", "stop it properly first"
                )
            if (key := FILES.get(name)) and old_files.setdefault(key, content) != content:
                raise DefinitionError(
                    f"{source}: {path} differs from another file for the same", "name one source"
                )
    for key in (DATABASE, "crypt_keys"):
        if key not in old_files:
            names = " or ".join(name for name, value in FILES.items() if value == key)
            raise DefinitionError(
                f"--from {' '.join(sources)}: no {names} in it", "name the folder or volume that has it"
            )
    return old_files


def _files(engine: Engine, source: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the files in ``source`` that `_matters` picks."""
    path = Path(source)
    if path.is_dir():
        yield from _files_of_folder(path)
    elif path.is_file():
        with path.open("rb") as stream:
            yield from _files_of_tar(stream, source)
    elif source in engine.listing().volume_names:
        if users := engine.containers_with(source):
            raise StateError(f"volume {source} is in use by {', '.join(users)}", "stop the old hub first")
        with tempfile.TemporaryFile() as stream:
            engine.run(engine.export_volume_command(source), timeout=None, stdout=stream)
            stream.seek(0)
            yield from _files_of_tar(stream, source)
    else:
        raise DefinitionError(f"--from {source}: neither a folder, nor a tar, nor a volume", "correct it")


def _matters(path: PurePosixPath) -> bool:
    return path.name in (*FILES, *UNFINISHED) and "home" not in path.parts[:-1]


def _files_of_folder(source: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(source.rglob("*")):
        if path.is_file() and _matters(PurePosixPath(path.relative_to(source))):
            if path.name == DATABASE and (process := _process_with(path)):
                raise StateError(f"{path}: process {process} has it open", "stop the old hub first")
            yield str(path), path.read_bytes()


def _files_of_tar(stream: IO[bytes], source: str) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=stream) as tar:
            for member in tar:
                if member.isfile() and _matters(PurePosixPath(member.name)):
                    content = tar.extractfile(member)
                    yield member.name, content.read() if content else b""
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError) as error:
        raise DefinitionError(f"{source}: not a tar ({error})", "name a volume's export") from None


def _process_with(path: Path) -> str | None:
    """Return the number of a process that has the file ``path`` open, or None."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if descriptor.samefile(path):
                return descriptor.parts[2]
    return None


# -- the database --------------------------------------------------------------------------------------


def read_users(database: Path, crypt_key: bytes) -> Users:
    """Return a summary of ``database``; DefinitionError if it isn't a hub's or ``crypt_key`` doesn't fit."""
    keys = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in crypt_keys(crypt_key)])
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            # A view can have rows without end.
            if connection.execute("SELECT 1 FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone():
                raise ValueError("it has views or triggers")
            _require_readable(connection, keys)
            names = tuple(str(name) for (name,) in connection.execute("SELECT name FROM users ORDER BY name"))
            ((tokens,),) = connection.execute("SELECT count(*) FROM api_tokens")
            servers = _servers(connection)
            for _, _, _, state, options in servers:
                adopted_state(state, options)
            jobs = {f"{user}/{name}": str(state["job_id"]) for _, user, name, state, _ in servers}
            return Users(names, tokens, jobs)
    except (sqlite3.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DefinitionError(
            f"{DATABASE}: not the database of a hub ({error})", "name another source"
        ) from None


def _require_readable(connection: sqlite3.Connection, keys: MultiFernet) -> None:
    """Raise DefinitionError for the first user whose auth state none of ``keys`` decrypts."""
    for name, auth_state in connection.execute("SELECT name, encrypted_auth_state FROM users"):
        try:
            if auth_state is not None:
                keys.decrypt(auth_state)
        except InvalidToken:
            problem = f"jupyterhub_crypt_key does not decrypt the auth state of {name}"
            raise DefinitionError(problem, "find the key that this database was used with") from None


def adopt_servers(database: Path) -> None:
    """Add account and home, which our spawner expects, to each running server's state in ``database``."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for number, _, _, state, options in _servers(connection):
            new = json.dumps(adopted_state(state, options))
            connection.execute("UPDATE spawners SET state = ? WHERE id = ?", (new, number))


def _servers(connection: sqlite3.Connection) -> list[tuple[int, str, str, dict[str, Any], dict[str, Any]]]:
    """Return number, user, name, state and user's options of each server that has a job."""
    columns = "s.id, u.name, s.name, s.state, s.user_options"
    rows = connection.execute(f"SELECT {columns} FROM spawners s JOIN users u ON u.id = s.user_id").fetchall()
    servers = [
        (number, user, name, json.loads(state or "null") or {}, json.loads(options or "null") or {})
        for number, user, name, state, options in rows
    ]
    return [server for server in servers if server[3].get("job_id")]


def adopted_state(state: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a server's ``state`` with account and home, from its projects and the user's ``options``."""
    key = options.get("brics_project", "")
    username = ((state.get("brics_projects") or {}).get(key) or {}).get("username")
    if not username or "username" in state:
        return dict(state)
    return {**state, "username": username, "homedir": f"/home/{key.partition('.')[0]}/{username}"}


def crypt_keys(content: bytes) -> list[bytes]:
    """Return the keys in a file for JUPYTERHUB_CRYPT_KEY, in the forms that JupyterHub takes.

    Those are 32 bytes, their hexadecimal digits or base64 text, several with ``;`` in between.
    """
    if len(content) == KEY_BYTES:
        return [content]
    keys = []
    for part in content.strip().split(b";"):
        try:
            key = (
                bytes.fromhex(part.decode()) if len(part) == 2 * KEY_BYTES else base64.urlsafe_b64decode(part)
            )
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise DefinitionError("jupyterhub_crypt_key: not a key of 32 bytes", "find the right file")
        keys.append(key)
    return keys


# -- the new deployment --------------------------------------------------------------------------------


def _say(session: Session, old_files: Mapping[str, bytes], users: Users) -> None:
    say = session.console.say
    names = ", ".join(users.names[:SHOWN]) + ("" if len(users.names) <= SHOWN else ", …")
    say("adopt", f"{len(users.names)} users: {names}; {users.tokens} tokens")
    kept = "kept" if session.env.slurm_elsewhere else "their jobs are not in this pod's Slurm"
    for server, job in users.jobs.items():
        say("adopt", f"server {server} in job {job}: {kept}")
    say("adopt", f"taken: {', '.join(sorted(_wanted(session, old_files)))}")


def _wanted(session: Session, old_files: Mapping[str, bytes]) -> set[str]:
    """Return the names of ``old_files`` to take; our own Slurm has SSH keys of its own."""
    return {key for key in old_files if session.env.slurm_elsewhere or key not in ("ssh_key", "known_hosts")}


def _is_adopted(session: Session, taken: str) -> bool:
    """Return whether exactly this was adopted; StateError if the environment has another database."""
    env, engine = session.env, session.engine
    record = env.deploy_folder / RECORD
    if record.exists() and json.loads(record.read_text()).get("digest") == taken:
        return True
    volume = _data_volume(session)
    if volume in session.existing().volumes and DATABASE in unpack(
        engine.run(engine.export_volume_command(volume)).stdout
    ):
        raise StateError(f"{env.pod} has a database already", f"invoke down {env.options}")
    return False


def _data_volume(session: Session) -> str:
    return next(volume.name for volume in session.env.volumes if volume.suffix == "jupyterhub-data")


def _write(session: Session, old_files: Mapping[str, bytes], database: bytes) -> None:
    """Put files, secrets and database where `up` finds them."""
    env, engine = session.env, session.engine
    values = {"crypt_keys": ";".join(key.hex() for key in crypt_keys(old_files["crypt_keys"]))}
    if cookie := old_files.get("cookie_secret"):
        values["cookie_secret"] = cookie.decode(errors="replace").strip()
        if not values["cookie_secret"].isascii():
            raise DefinitionError("jupyterhub_cookie_secret: not text", "find the right file")
    if env.slurm_elsewhere:
        _write_site_files(session, old_files)
    folder.write_secrets(env.deploy_folder, {**folder.read_secrets(env.deploy_folder), **values})
    volume = _data_volume(session)
    if volume not in session.own_existing().volumes:
        engine.run(engine.create_volume_command(volume, env.labels))
    engine.run(engine.import_volume_command(volume), stdin=pack({DATABASE: database}, HUB_ID))


def _write_site_files(session: Session, old_files: Mapping[str, bytes]) -> None:
    env = session.env
    files = {env.site_files[key]: old_files[key] for key in ("ssh_key", "known_hosts") if key in old_files}
    if key := old_files.get("ssh_key"):
        try:
            public = load_ssh_private_key(key, password=None).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a passphrase
            raise DefinitionError(f"ssh_key: can't be used ({error})", "find the right file") from None
        path = env.site_files["ssh_key"]
        line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        files.setdefault(path.with_name(f"{path.name}.pub"), line + b" jupyterhub\n")
    for path, content in files.items():
        if not os.path.lexists(path):
            write(path, content)
        elif path.suffix != ".pub" and path.read_bytes() != content:
            raise DefinitionError(f"{path}: differs from the old hub's", "remove the one that is wrong")
