"""What a host needs in its containers.conf, and what `doctor` says of it."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from hubenvs.engines import containers_conf, findings, host

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_sysctls_are_added_to_the_users_own() -> None:
    """The user's value of one wins; the list isn't replaced."""
    text = containers_conf.merged_conf(
        {"containers": {"default_sysctls": ["a=1"]}}, {}, sysctls=("a=2", "b=3")
    )
    assert text is not None
    assert tomllib.loads(text) == {"containers": {"default_sysctls": ["a=1", "b=3"]}}
    assert containers_conf.merged_conf(tomllib.loads(text), {}, sysctls=("a=2", "b=3")) is None


def test_a_host_that_needs_nothing_gets_nothing() -> None:
    """No containers.conf is made where podman works as it is."""
    needed = containers_conf.needed_conf(
        may_raise=True, cgroup_v1=False, hard={"nofile": 5, "nproc": 5}, has_runc=True
    )
    assert containers_conf.merged_conf({"engine": {"runtime": "crun"}}, needed) is None


def test_a_host_that_may_not_raise_limits_gets_those_it_has() -> None:
    """Podman's defaults are cut to the hard limits, since it may not go past them."""
    needed = containers_conf.needed_conf(
        may_raise=False, cgroup_v1=True, hard={"nofile": 20000, "nproc": -1}, has_runc=True
    )
    text = containers_conf.merged_conf({"network": {"x": "y"}}, needed)
    assert text is not None
    assert tomllib.loads(text) == {
        "network": {"x": "y"},
        "containers": {"default_ulimits": ["nofile=20000:20000", "nproc=32768:32768"]},
        "engine": {"runtime": "runc"},
    }


def test_an_ordinary_user_needs_the_runtime_alone() -> None:
    """Without root podman keeps to the hard limits, but it too would start crun on cgroup version 1."""
    needed = containers_conf.needed_conf(may_raise=False, cgroup_v1=True, hard={}, has_runc=True)
    assert needed == {"engine": {"runtime": "runc"}}


def test_the_users_own_settings_win() -> None:
    """What they set in containers.conf is merged, not replaced."""
    assert (
        containers_conf.merged_conf({"engine": {"runtime": "kata"}}, {"engine": {"runtime": "runc"}}) is None
    )


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


def test_podmans_copy_of_a_log_has_a_limit() -> None:
    """A pod that runs for months doesn't fill the disk, unless the user's own setting allows it."""
    text = containers_conf.containers_conf()
    assert text is not None
    assert tomllib.loads(text)["containers"]["log_size_max"] == containers_conf.LOG_SIZE_MAX


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


def test_storage_on_a_network_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes of a cluster are: an ordinary user's images can't be unpacked there."""
    monkeypatch.setattr(findings, "file_system", lambda *_: "nfs4")
    for rootless in (True, False):
        monkeypatch.setattr(host, "rootless", lambda: rootless)  # noqa: B023  it is called at once
        ok, found, _ = findings._storage(findings.Info("runc", "overlay", "/home/me/.local/share"))
        assert (ok, "nfs4" in found) == (not rootless, rootless)
