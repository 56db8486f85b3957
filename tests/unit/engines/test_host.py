"""What this host is like."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hubenvs.engines import host


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
