"""What `doctor` says of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.engines import findings, host


@pytest.mark.parametrize(
    ("version", "cgroup_v1", "rootless", "has_pasta", "problem"),
    [
        ((4, 3, 1), True, True, False, None),
        ((5, 8, 3), True, True, False, None),
        ((6, 1, 0), True, False, True, "podman 6.1.0 can't run on cgroup version 1"),
        ((6, 1, 0), False, True, False, "podman 6.1.0 needs pasta for an ordinary user's pods"),
        ((6, 1, 0), False, True, True, None),
        ((6, 1, 0), False, False, False, None),
    ],
)
def test_doctor_names_what_a_version_of_podman_cannot_do(
    version: tuple[int, ...], cgroup_v1: bool, rootless: bool, has_pasta: bool, problem: str | None
) -> None:
    """Podman 6 needs cgroup version 2, and pasta where it isn't run by root."""
    ok, text, remedy = findings.podman_result(version, cgroup_v1, rootless, has_pasta)
    assert (ok, None if ok else text) == (problem is None, problem)
    assert ok or remedy


def test_a_configuration_of_uv_that_is_damaged_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` names the file, and goes on."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "uv/uv.toml"
    file.parent.mkdir()
    file.write_text("[")
    result = findings.finding("index", lambda: (True, host.python_index() or "", ""))
    assert not result.ok
    assert result.found.startswith(str(file))


def test_storage_on_a_network_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes of a cluster are: an ordinary user's images can't be unpacked there."""
    monkeypatch.setattr(findings, "file_system", lambda *_: "nfs4")
    for rootless in (True, False):
        monkeypatch.setattr(host, "rootless", lambda: rootless)  # noqa: B023  it is called at once
        ok, found, _ = findings._storage(findings.Info("runc", "overlay", "/home/me/.local/share"))
        assert (ok, "nfs4" in found) == (not rootless, rootless)
