"""What this host is like."""

from __future__ import annotations

import configparser
import os
import pwd
import sys
from pathlib import Path

import pytest

from hubenvs.engines import host
from hubenvs.errors import StateError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INDEX = "https://pypi.example.org/simple"
OTHER = "https://other.example.org/simple"


@pytest.mark.parametrize(
    ("rootless", "systemd", "lingers", "ends"),
    [
        (True, True, False, True),
        (True, True, True, False),
        (True, False, False, False),
        (False, True, False, False),
    ],
)
def test_an_ordinary_users_pods_end_at_logout(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rootless: bool,
    systemd: bool,
    lingers: bool,
    ends: bool,
) -> None:
    """`up` and `doctor` say so where systemd ends them, and how they can stay."""
    name = pwd.getpwuid(os.geteuid()).pw_name
    for folder, exists in (("systemd", systemd), (f"linger/{name}", lingers)):
        if exists:
            (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(host, "rootless", lambda: rootless)
    monkeypatch.setattr(host, "SYSTEMD", tmp_path / "systemd")
    monkeypatch.setattr(host, "LINGER", tmp_path / "linger")
    assert ("loginctl enable-linger" in host.ends_at_logout()) is ends


def test_builds_have_a_cache_of_their_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root too takes nothing that another user has put where all can write."""
    monkeypatch.setattr(host.platform, "system", lambda: "Linux")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = host.build_caches()
    assert folder == tmp_path / f"hubenvs-{os.geteuid()}"
    host.make_build_caches()
    assert folder.stat().st_mode & 0o777 == 0o700
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    folder.rename(tmp_path / f"hubenvs-{os.geteuid()}")  # somebody else's
    with pytest.raises(StateError, match="another user owns it"):
        host.make_build_caches()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("POCF", ""),
        ("OCF", ""),
        ("PF", "sudo doesn't work in its containers"),  # Debian's own
        ("OC", "its containers don't have QEMU"),
        (None, ""),
    ],
)
def test_a_handler_that_cannot_run_containers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, problem: str
) -> None:
    """Without one there may be another, such as Apple's."""
    monkeypatch.setattr(host, "HANDLERS", tmp_path)
    if flags:
        text = f"enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: {flags}\noffset 0\n"
        (tmp_path / "qemu-aarch64").write_text(text)
    found = host.emulation_problem("arm64")
    assert found.endswith(problem) if problem else found == ""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without settings of uv and pip: a folder with a user's ``home`` and ``etc``."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.setattr(host, "ETC", tmp_path / "etc")
    return tmp_path


UV = "home/.config/uv/uv.toml", "etc/uv/uv.toml"
PIP = "home/.config/pip/pip.conf", "etc/pip.conf"


@pytest.mark.parametrize(
    ("variables", "files", "index"),
    [
        ({}, {}, None),
        ({"UV_DEFAULT_INDEX": INDEX, "PIP_INDEX_URL": OTHER}, {UV[0]: f'index-url = "{OTHER}"'}, INDEX),
        ({}, {UV[0]: f'[[index]]\nurl = "{OTHER}"\n[[index]]\nurl = "{INDEX}"\ndefault = true'}, INDEX),
        ({}, {UV[0]: f'[[index]]\nurl = "{OTHER}"'}, None),  # beside the default one
        ({"PIP_INDEX_URL": OTHER}, {UV[1]: f'index-url = "{INDEX}"'}, INDEX),
        ({}, {UV[0]: f'index-url = "{INDEX}"', UV[1]: f'index-url = "{OTHER}"'}, INDEX),
        ({"PIP_INDEX_URL": INDEX}, {PIP[0]: f"[global]\nindex-url = {OTHER}"}, INDEX),
        ({}, {PIP[0]: f"[global]\nindex-url = {INDEX}", PIP[1]: f"[global]\nindex-url = {OTHER}"}, INDEX),
        ({}, {PIP[1]: f"[global]\nindex-url = {INDEX}"}, INDEX),
        ({}, {PIP[1]: "[global]\ntimeout = 9"}, None),
    ],
)
def test_the_package_index_is_the_hosts(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    files: dict[str, str],
    index: str | None,
) -> None:
    """Settings of uv win over pip's, variables over files, and a user's file over that of all users."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name, content in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(content)
    assert host.python_index() == index


@pytest.mark.usefixtures("machine")
def test_a_build_gets_the_index_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that uv and pip read. One without TLS is trusted; a folder isn't there in a build."""
    for url in ("http://site:100%25@192.0.2.7:3141/simple", "https://pypi.example.org/simple"):
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        files = host.index_files()
        assert tomllib.loads(files["uv.toml"]) == {"index": [{"url": url, "default": True}]}
        pip = configparser.RawConfigParser()
        pip.read_string(files["pip.conf"])
        trusted = {"trusted-host": "192.0.2.7"} if url.startswith("http:") else {}
        assert dict(pip["global"]) == {"index-url": url, **trusted}
    for unreachable in ("file:///srv/simple", "http://localhost:3141/root/pypi/+simple/"):
        monkeypatch.setenv("UV_DEFAULT_INDEX", unreachable)
        assert host.index_files() == {}
