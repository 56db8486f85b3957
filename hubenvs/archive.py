"""Trees of files as plain data: reading them, merging seeds into what a volume holds, packing deterministic tars."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Tree = Mapping[str, bytes]

# Written into a seeded volume: the digest of every file as it was seeded, to tell an edited one from an old one.
RECORD = ".seeded.json"


@dataclass(frozen=True)
class Seeding:
    """What to write into a volume, and what to tell the user about it."""

    files: dict[str, bytes]
    notes: tuple[str, ...]


def paths(folder: Path, skip: Iterable[str] = ()) -> dict[str, Path]:
    """Return the files under ``folder`` by their path relative to it, without those below a name in ``skip``."""
    left_out = {*skip, "__pycache__"}
    return {
        str(relative): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not left_out.intersection((relative := path.relative_to(folder)).parts)
    }


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return the content of the files under ``folder`` by their path relative to it."""
    return {name: path.read_bytes() for name, path in paths(folder).items()}


def pack(files: Tree, owner: int) -> bytes:
    """Return ``files`` as a tar whose bytes depend on nothing but names, contents and ``owner`` (user and group id).

    The record of what was seeded comes last: where an import was interrupted, the next one brings in the rest.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {str(parent) for name in files for parent in Path(name).parents}
        for name in sorted(folders | set(files), key=lambda name: (name == RECORD, name)):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            if name in files:
                info.size, info.mode = len(files[name]), 0o644
                tar.addfile(info, io.BytesIO(files[name]))
            else:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar by their path."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member, tar.extractfile(member)) for member in tar if member.isfile()]
        return {member.name.removeprefix("./"): stream.read() for member, stream in members if stream}


def seeding(seed: Tree, current: Tree) -> Seeding:
    """Return what brings ``seed`` into a volume that holds ``current``.

    A seed file wins over a copy that nobody edited in the volume. An edited copy is kept; if its seed has changed
    since, the new one is laid beside it as ``<name>.new``.
    """
    record = _record(current)
    files: dict[str, bytes] = {}
    notes: list[str] = []
    for name, content in sorted(seed.items()):
        there = current.get(name)
        if there is None or there == content:
            if there is None:
                files[name] = content
                if record:
                    notes.append(f"added {name}")
        elif _sha256(there) == record.get(name):
            files[name] = content
            notes.append(f"brought in the changed {name}")
        elif record.get(name) != _sha256(content):
            files[f"{name}.new"] = content
            notes.append(f"kept {name}, which was edited in the volume; the changed one is beside it as {name}.new")
    new_record = json.dumps({name: _sha256(content) for name, content in seed.items()}, indent=1, sort_keys=True)
    if files or current.get(RECORD) != new_record.encode():
        files[RECORD] = new_record.encode()
    return Seeding(files, tuple(notes))


def _record(current: Tree) -> dict[str, str]:
    """Return the digest of each file as it was seeded; none where the record is damaged: what differs is then kept."""
    try:
        record = json.loads(current.get(RECORD, b"{}"))
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
