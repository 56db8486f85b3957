"""The commands: argv for each engine and system, and what a host needs in its containers.conf."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hubenvs import engine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_a_build_gets_the_trust_store_and_leaves_it_out_of_the_image() -> None:
    """The host's certificates are mounted for the build; nothing copies them."""
    argv = engine.build_argv(
        tag="t", context=Path("/c"), base="b", target="stage-dev", contexts={"repo": "/r"}, ca_bundle="/x/ca.crt"
    )
    assert argv[:2] == ("podman", "build")
    assert "/x:/etc/ssl/certs:ro" in argv
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca.crt" in argv
    assert argv[argv.index("--security-opt") + 1] == "label=disable"
    assert argv[argv.index("--build-context") + 1] == "repo=/r"
    assert argv[-1] == "/c"


def test_an_ordinary_users_build_has_caches_of_its_own() -> None:
    """Podman 4.3 would look for them where another user has theirs."""
    argv = engine.build_argv(tag="t", context=Path("/c"), base="b", caches=Path("/var/tmp/mine"))
    assert argv[:4] == ("env", "TMPDIR=/var/tmp/mine", "podman", "build")
    assert "--security-opt" not in argv


@pytest.mark.parametrize(
    ("version", "rootless", "network"),
    [
        pytest.param((4, 3, 1), False, "bridge", id="Debian 12, root"),
        pytest.param((4, 3, 1), True, "slirp4netns", id="Debian 12"),
        pytest.param((4, 9, 3), False, "bridge", id="Ubuntu 24.04, root"),
        pytest.param((4, 9, 3), True, "slirp4netns", id="Ubuntu 24.04"),
        pytest.param((5, 4, 2), False, "bridge", id="Debian 13, root"),
        pytest.param((5, 4, 2), True, "pasta", id="Debian 13"),
        pytest.param((4, 9, 4), True, "slirp4netns", id="RHEL 9.4"),
        pytest.param((5, 6, 0), True, "pasta", id="RHEL 9.7, Fedora, macOS"),
    ],
)
def test_a_pod_goes_on_a_network_that_podman_has(version: tuple[int, ...], rootless: bool, network: str) -> None:
    """Left to itself `kube play` makes a network and keeps it."""
    argv = engine.play_argv(version, rootless)
    assert argv[argv.index("--network") + 1] == network


def test_volume_data_goes_through_the_machine_on_macos() -> None:
    """There the volumes are inside the podman machine, and only its own podman can import and export."""
    assert engine.volume_data_argv("import", "v", "Linux") == ("podman", "volume", "import", "v", "-")
    assert engine.volume_data_argv("export", "v", "Darwin") == (
        "podman",
        "machine",
        "ssh",
        "podman",
        "volume",
        "export",
        "v",
    )


def test_a_host_that_needs_nothing_gets_nothing() -> None:
    """No containers.conf is made where podman works as it is."""
    needed = engine.needed_conf(may_raise=True, cgroup_v1=False, hard={"nofile": 5, "nproc": 5}, has_runc=True)
    assert engine.merged_conf({"engine": {"runtime": "crun"}}, needed) is None


def test_a_host_that_may_not_raise_limits_gets_those_it_has() -> None:
    """Podman's defaults are cut to the hard limits, since it may not go past them."""
    needed = engine.needed_conf(may_raise=False, cgroup_v1=True, hard={"nofile": 20000, "nproc": -1}, has_runc=True)
    text = engine.merged_conf({"network": {"x": "y"}}, needed)
    assert text is not None
    assert tomllib.loads(text) == {
        "network": {"x": "y"},
        "containers": {"default_ulimits": ["nofile=20000:20000", "nproc=32768:32768"]},
        "engine": {"runtime": "runc"},
    }


def test_an_ordinary_user_needs_the_runtime_alone() -> None:
    """Without root podman keeps to the hard limits by itself, but it too would start crun on cgroup version 1."""
    needed = engine.needed_conf(may_raise=False, cgroup_v1=True, hard={}, has_runc=True)
    assert needed == {"engine": {"runtime": "runc"}}


def test_the_users_own_settings_win() -> None:
    """What they set in containers.conf is merged, not replaced."""
    assert engine.merged_conf({"engine": {"runtime": "kata"}}, {"engine": {"runtime": "runc"}}) is None


def test_only_labelled_things_are_ours() -> None:
    """Something without our label belongs to somebody else, whatever its name."""
    ours = {"Labels": {"app.kubernetes.io/part-of": "jupyterhub-slurm", "app.kubernetes.io/instance": "x"}}
    assert engine.instance_of(ours) == "x"
    assert engine.instance_of({"Labels": {"app.kubernetes.io/instance": "x"}}) is None
    assert engine.instance_of({"Labels": None}) is None
