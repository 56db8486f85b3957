"""Files on this host: writing them atomically, reading trees, packing tars, digests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO

from .errors import StateError

Tree = Mapping[str, bytes]  # content by path relative to the tree's root

_CHUNK = 2**20
# First bytes of a script and of a Linux program.
_PROGRAM = (b"#!", b"\x7fELF")


def digest(*parts: str | bytes | Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of ``parts``. A mapping counts with its names, sorted."""
    chunks: list[str | bytes] = []
    for part in parts:
        if isinstance(part, Mapping):
            for name in sorted(part):
                chunks += (name, part[name])
        else:
            chunks.append(part)
    total = hashlib.sha256()
    for chunk in chunks:
        data = chunk.encode() if isinstance(chunk, str) else chunk
        # The length comes first, so that ("ab", "c") and ("a", "bc") differ.
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


def sha256(stream: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of ``stream``, as hexadecimal digits."""
    total = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        total.update(chunk)
    return total.hexdigest()


def write(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` atomically, mode 0600; StateError as in `writing`."""
    with writing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def require_file(path: Path) -> None:
    """Raise StateError if ``path`` exists and isn't a regular file: a rename would replace /dev/null too."""
    if path.exists() and not path.is_file():
        raise StateError(f"{path}: not a file", "name another")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file (0600) that replaces ``path`` when the block ends without an error.

    Raises StateError if it can't be written, or if ``path`` exists and isn't a regular file.
    """
    require_file(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as stream:
                yield stream
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        hint = "make room, or make it writable"
        raise StateError(f"{path}: can't be written ({error.strerror})", hint) from None


def paths(folder: Path, skip: Iterable[str] = ()) -> dict[str, Path]:
    """Return the files under ``folder`` by relative path, without those below a name in ``skip``.

    Raises StateError as `require_text` does.
    """
    skipped = {*skip, "__pycache__"}
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not skipped.intersection(relative.parts):
            files[str(relative)] = path
    require_text(files, folder)
    return files


def require_text(names: Iterable[str], folder: Path) -> None:
    """Raise StateError for the first of ``names`` in ``folder`` that isn't UTF-8, which no image keeps."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise StateError(f"{folder / name}: its name is not UTF-8", "rename or remove it") from None


def read_tree(folder: Path, within: Path | None = None) -> dict[str, bytes]:
    """Return the content of the files under ``folder`` by relative path.

    ``within``: the folder that links must not leave (None: ``folder``). Raises StateError for a link that
    does: another file of this host would be copied into a volume or a ConfigMap.
    """
    files = paths(folder)
    require_within(files.values(), within or folder)
    return {name: path.read_bytes() for name, path in files.items()}


def require_within(paths: Iterable[Path], folder: Path) -> None:
    """Raise StateError if one of ``paths`` is, or is below, a link that leads out of ``folder``."""
    top = folder.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(top):
            raise StateError(f"{path}: leads out of {folder}", "put a copy in its place")


def is_program(content: bytes) -> bool:
    """Return whether ``content`` is a script or a Linux program; a copied file may have lost its mode."""
    return content.startswith(_PROGRAM)


def pack(files: Tree, owner: int, last: str = "") -> bytes:
    """Return ``files`` as a tar that depends on nothing but the arguments.

    ``owner``: user and group id of all files. The file named ``last`` comes last, so that an import that was
    cut short doesn't contain it.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {str(parent) for name in files for parent in Path(name).parents}
        for name in sorted(folders | set(files), key=lambda name: (name == last, name)):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            if name in files:
                info.size = len(files[name])
                info.mode = 0o755 if is_program(files[name]) else 0o644
                tar.addfile(info, io.BytesIO(files[name]))
            else:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
    return buffer.getvalue()


def not_executable(data: bytes) -> set[str]:
    """Return the paths of a tar's regular files that have no executable bit."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name.removeprefix("./") for member in tar if member.isfile() and not member.mode & 0o111
        }


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar by path."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member, tar.extractfile(member)) for member in tar if member.isfile()]
        return {member.name.removeprefix("./"): stream.read() for member, stream in members if stream}


def file_system(path: str, mounts: str) -> str:
    """Return the type of the file system that ``path`` is in; ``mounts``: the text of /proc/mounts."""
    rows = enumerate(line.split() for line in mounts.splitlines())
    mounted = [(len(row[1]), order, row[2]) for order, row in rows if Path(path).is_relative_to(row[1])]
    # The longest mount point contains the path; of two mounts there, the later one is visible.
    return max(mounted, default=(0, 0, ""))[2]
