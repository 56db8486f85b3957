"""The mirrors in a host's apt sources, and what they have."""

from __future__ import annotations

import pytest

from hubenvs.engines.debian import host_mirrors, packages_indexes

ONE_LINE = """
# deb http://old.example.org/debian trixie main
deb-src http://src.example.org/debian trixie main
deb [signed-by=/usr/share/keyrings/x.gpg arch=amd64] https://apt.example.org/debian/ trixie main
deb http://other.example.org/debian trixie-backports main
deb https://apt.example.org/debian-security trixie-security main
"""
DEB822 = """
Types: deb
URIs: https://off.example.org/debian
Suites: trixie
Enabled: no

Types: deb deb-src
# a comment
URIs: https://apt.example.org/debian
Suites: trixie trixie-updates

Types: deb
URIs:
 https://apt.example.org/debian-security
Suites: trixie-security
"""
MIRRORS = ("https://apt.example.org/debian", "https://apt.example.org/debian-security")


@pytest.mark.parametrize(
    ("files", "mirrors"),
    [
        ([ONE_LINE], MIRRORS),
        ([DEB822], MIRRORS),
        ([], (None, None)),
        (["deb http://example.org/ubuntu noble main"], (None, None)),
        (["deb https://u:secret@example.org/debian trixie main"], (None, None)),
    ],
)
def test_mirrors_come_from_apt_sources(files: list[str], mirrors: tuple[str | None, str | None]) -> None:
    """Both formats are read; comments, other distributions and addresses with passwords are left out."""
    assert host_mirrors(files) == mirrors


LISTS = (
    "MD5Sum:\n {short} 9 main/binary-amd64/Packages.xz\nSHA256:\n {long} 9 main/binary-amd64/Packages.xz\n"
)
LISTS += " {other} 9 main/Contents-amd64.gz\n {long} 12 contrib/binary-amd64/Packages.xz\n"


def test_a_mirror_has_updates_only_where_packages_differ() -> None:
    """Its file of the release is signed anew, with another date, when nothing has changed."""
    digest, other = "ab" * 32, "cd" * 32

    def seen(date: str, **digests: str) -> str:
        return packages_indexes(f"Date: {date}\n{LISTS.format(short='0' * 32, **digests)}")

    before = seen("Sat", long=digest, other=digest)
    assert before == f" {digest} 9 main/binary-amd64/Packages.xz"
    assert seen("Sun", long=digest, other=other) == before
    assert seen("Sat", long=other, other=digest) != before
    with pytest.raises(OSError, match="no list of packages"):
        packages_indexes("<html>Please log in</html>")
