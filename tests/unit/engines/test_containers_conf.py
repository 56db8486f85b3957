"""What a host needs in its containers.conf."""

from __future__ import annotations

import sys

from hubenvs.engines import containers_conf

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


def test_podmans_copy_of_a_log_has_a_limit() -> None:
    """A pod that runs for months doesn't fill the disk, unless the user's own setting allows it."""
    text = containers_conf.containers_conf()
    assert text is not None
    assert tomllib.loads(text)["containers"]["log_size_max"] == containers_conf.LOG_SIZE_MAX
