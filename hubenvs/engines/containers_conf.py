"""The containers.conf that podman needs to start containers on this host."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import host

# Podman's default for open files, and the kernel's for processes (pid_max), to which podman lowers its own
# hard limit. Neither can exceed the host's hard limit without CAP_SYS_RESOURCE.
ULIMITS = {"nofile": 1048576, "nproc": 32768}
# Podman's own default, and what manifests/pod.yaml.j2 asks for. podman<5: 4.3 doesn't read it there.
SYSCTLS = ("net.ipv4.ping_group_range=0 0", "net.ipv4.ip_unprivileged_port_start=32768")
# Bytes. The services keep their last 5 MB each themselves.
LOG_SIZE_MAX = 100_000_000
CAP_SYS_RESOURCE = 24  # linux/capability.h


def containers_conf() -> str | None:
    """Return the containers.conf that this host needs, the user's settings included; None if none."""
    needed = needed_conf(*_probe())
    if platform.system() != "Linux":  # the podman machine has its own
        return merged_conf(_user_conf(), needed)
    containers = needed.setdefault("containers", {})
    # All users' jobs share /dev/shm. Podman's own limit is 64 MB, a Linux host's half its memory.
    shm = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    containers["shm_size"] = f"{shm >> 20}m"
    # Podman's copy of a container's log has no limit otherwise; past it, it begins anew.
    containers["log_size_max"] = LOG_SIZE_MAX
    return merged_conf(_user_conf(), needed, SYSCTLS)


def needed_conf(
    may_raise: bool, cgroup_v1: bool, hard: Mapping[str, int], has_runc: bool
) -> dict[str, dict[str, Any]]:
    """Return the containers.conf settings without which podman can't start a container on such a host.

    ``may_raise``: resource limits may be raised (CAP_SYS_RESOURCE). ``hard``: the hard limits, -1 for none.
    ``has_runc``: runc is installed, which works on cgroup version 1 where crun refuses.
    """
    needed: dict[str, dict[str, Any]] = {}
    if hard and not may_raise:
        limits = {name: want if hard[name] < 0 else min(want, hard[name]) for name, want in ULIMITS.items()}
        ulimits = [f"{name}={limit}:{limit}" for name, limit in limits.items()]
        needed["containers"] = {"default_ulimits": ulimits}
    if cgroup_v1 and has_runc:
        needed["engine"] = {"runtime": "runc"}
    return needed


def merged_conf(
    users: Mapping[str, Any], needed: Mapping[str, Mapping[str, Any]], sysctls: Sequence[str] = ()
) -> str | None:
    """Return a containers.conf with the settings of the ``users`` file, and those ``needed`` that it lacks.

    ``sysctls`` (``name=value``) are added to default_sysctls unless the user sets them. None if nothing needs
    adding.
    """
    import tomli_w

    result = {**users, **{table: {**values, **users.get(table, {})} for table, values in needed.items()}}
    if sysctls:
        containers = result["containers"] = {**result.get("containers", {})}
        existing = containers.get("default_sysctls", [])
        names = {setting.partition("=")[0] for setting in existing}
        added = [setting for setting in sysctls if setting.partition("=")[0] not in names]
        containers["default_sysctls"] = [*existing, *added]
    return None if result == users else tomli_w.dumps(result)


def _probe() -> tuple[bool, bool, Mapping[str, int], bool]:
    """Return the arguments of `needed_conf` for this host."""
    if platform.system() != "Linux":
        return False, False, {}, False
    import resource

    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    # Without root podman keeps to the hard limits by itself.
    kinds = {} if host.rootless() else {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    may_raise = bool(effective >> CAP_SYS_RESOURCE & 1)
    return may_raise, host.cgroup_v1(), hard, shutil.which("runc") is not None


def _user_conf() -> dict[str, Any]:
    """Return the user's containers.conf, merged as podman does: CONTAINERS_CONF replaces all other files."""
    files = [Path("/usr/share/containers/containers.conf")]
    for folder in (Path("/etc/containers"), host.user_configuration() / "containers"):
        files += [folder / "containers.conf", *sorted((folder / "containers.conf.d").glob("*.conf"))]
    if only := os.environ.get("CONTAINERS_CONF"):
        files = [Path(only)]
    merged: dict[str, Any] = {}
    for path in files:
        for table, values in host.read_toml(path, "podman").items():
            merged[table] = {**merged.get(table, {}), **values} if isinstance(values, dict) else values
    return merged
