"""What this host is like."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hubenvs.engines import host
from hubenvs.errors import StateError


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
