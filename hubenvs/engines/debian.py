"""mmdebstrap, which builds the Debian root file system that our images start from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ..files import digest
from ..web import http_text
from .process import Argv

_APT = Path("/etc/apt")


def read_apt_sources() -> list[str]:
    """Return the content of this host's files of apt sources; none on a host without apt."""
    files = (
        _APT / "sources.list",
        *sorted(_APT.glob("sources.list.d/*.list")),
        *sorted(_APT.glob("sources.list.d/*.sources")),
    )
    return [file.read_text(errors="replace") for file in files if file.is_file()]


def host_mirrors(files: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the mirrors of Debian and of its security updates in apt's ``files``; None if there is none.

    A Debian mirror's path ends in /debian, as Debian asks of its mirrors, and a security mirror's in
    /debian-security. A mirror with a user's name or password is left out: command lines would show it.
    """
    mirrors: dict[str, str] = {}
    for uri in chain.from_iterable(map(_uris, files)):
        path = uri.rstrip("/").rpartition("/")[2]
        if re.match(r"https?://[^@\s]+$", uri):
            mirrors.setdefault(path, uri.rstrip("/"))
    return mirrors.get("debian"), mirrors.get("debian-security")


def _uris(text: str) -> Iterator[str]:
    """Yield the addresses in a file of apt sources, one-line or deb822, except disabled ones."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in lines:
        if one_line := re.match(r"\s*deb\s+(\[[^\]]*\]\s+)?(\S+)", line):
            yield one_line[2]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            name.lower(): value.split()
            for name, value in re.findall(r"^([\w-]+):((?:.|\n[ \t])*)", stanza, re.MULTILINE)
        }
        if "deb" in fields.get("types", ()) and fields.get("enabled") not in (["no"], ["false"]):
            yield from fields.get("uris", ())


def mirror_state(sources: Iterable[str]) -> str:
    """Return a digest of the packages that ``sources``, lines of sources.list, offer now.

    Raises OSError if a mirror doesn't answer with an index of the release.
    """
    indexes = []
    for line in sources:
        _, address, suite, _ = re.sub(r"\[.*?\]", "", line).split()
        indexes.append(packages_indexes(http_text(f"{address}/dists/{suite}/InRelease")))
    return digest(*indexes)


def packages_indexes(release: str) -> str:
    """Return the lines with the digests of the package lists in ``release``, a suite's InRelease file.

    Other lines change without an update: the file's date, and lists that images don't use. Raises OSError
    if there are none.
    """
    indexes = re.findall(r"^ [0-9a-f]{64} +\d+ main/binary-[^/]+/Packages\.xz$", release, re.MULTILINE)
    if not indexes:
        raise OSError("its InRelease file names no list of packages")
    return "\n".join(sorted(indexes))


def has_mmdebstrap() -> bool:
    """Return whether mmdebstrap is installed."""
    return shutil.which("mmdebstrap") is not None


def bootstrap_command(
    release: str, tar: str, options: Sequence[str], sources: Sequence[str], architecture: str | None = None
) -> Argv:
    """Return the command that writes a Debian ``release`` to the file ``tar``.

    ``options`` are mmdebstrap's, ``sources`` the lines of sources.list, ``architecture`` Debian's name of one
    (None: this host's).
    """
    chosen = (f"--architectures={architecture}",) if architecture else ()
    return ("mmdebstrap", *options, *chosen, release, tar, *sources)
