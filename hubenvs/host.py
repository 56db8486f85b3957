"""This host: who we are on it, which certificates it trusts, and what podman needs here to start a container."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import StateError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Where distributions keep the certificates that this host trusts, Debian's first.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# podman's own default for files, and the kernel's for processes (pid_max), to which podman lowers its own hard limit
# before it starts a container; neither can be raised past the host's hard limit without CAP_SYS_RESOURCE.
ULIMITS = {"nofile": 1048576, "nproc": 32768}
CAP_SYS_RESOURCE = 24  # linux/capability.h
# podman's own default, and what manifests/pod.yaml.j2 asks for, which podman 4 doesn't take from there.
SYSCTLS = ("net.ipv4.ping_group_range=0 0", "net.ipv4.ip_unprivileged_port_start=32768")


def rootless() -> bool:
    """Return whether podman runs as an ordinary user here."""
    return os.geteuid() != 0


def ca_bundle() -> str | None:
    """Return the file of certificates that this host trusts, or None if it has none where we know to look."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *CA_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), None)


def build_caches() -> Path | None:
    """Return the folder for the cache mounts of this user's builds, or None where podman has its own.

    podman 4.3 has one for all users, /var/tmp/buildah-cache: who builds first owns it, and nobody else can build.
    """
    if platform.system() != "Linux" or not rootless() or "TMPDIR" in os.environ:
        return None
    return Path(f"/var/tmp/hubenvs-{os.geteuid()}")


def make_build_caches() -> None:
    """Make the folder of `build_caches` if it is needed; raise StateError if somebody else has it."""
    folder = build_caches()
    if folder is None:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StateError(f"{folder} is not yours", "set TMPDIR to a folder of yours on a local disk")


def containers_conf() -> str | None:
    """Return the containers.conf that this host needs, the user's own settings included, or None if it needs none."""
    own = _user_conf()
    needed = needed_conf(*_probe())
    if platform.system() != "Linux":  # podman's machine has its own
        return merged_conf(own, needed)
    return merged_conf(own, needed, sysctls=SYSCTLS)


def needed_conf(may_raise: bool, cgroup_v1: bool, hard: Mapping[str, int], has_runc: bool) -> dict[str, dict[str, Any]]:
    """Return the containers.conf settings without which podman can't start a container on a host with these facts.

    ``may_raise``: it may raise resource limits (CAP_SYS_RESOURCE). ``hard``: the hard limits, -1 for none.
    ``has_runc``: runc is installed, which works on cgroup version 1 where crun refuses.
    """
    needed: dict[str, dict[str, Any]] = {}
    if hard and not may_raise:
        limits = {name: want if hard[name] < 0 else min(want, hard[name]) for name, want in ULIMITS.items()}
        needed["containers"] = {"default_ulimits": [f"{name}={limit}:{limit}" for name, limit in limits.items()]}
    if cgroup_v1 and has_runc:
        needed["engine"] = {"runtime": "runc"}
    return needed


def merged_conf(
    own: Mapping[str, Any], needed: Mapping[str, Mapping[str, Any]], sysctls: Sequence[str] = ()
) -> str | None:
    """Return containers.conf text of the user's ``own`` settings and those ``needed`` that they don't make themselves.

    Of ``sysctls`` those are added that the user doesn't set. None if nothing needs adding.
    """
    import tomli_w

    result = {table: dict(values) if isinstance(values, Mapping) else values for table, values in own.items()}
    for table, values in needed.items():
        result[table] = {**values, **result.get(table, {})}
    if sysctls:
        containers = result.setdefault("containers", {})
        theirs = containers.get("default_sysctls", [])
        names = {setting.partition("=")[0] for setting in theirs}
        added = [setting for setting in sysctls if setting.partition("=")[0] not in names]
        containers["default_sysctls"] = [*theirs, *added]
    return None if result == own else tomli_w.dumps(result)


def _probe() -> tuple[bool, bool, Mapping[str, int], bool]:
    """Return the facts of this host that `needed_conf` takes."""
    if platform.system() != "Linux":
        return False, False, {}, False
    import resource

    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    # Without root podman itself keeps to the hard limits.
    kinds = {} if rootless() else {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    may_raise = bool(effective >> CAP_SYS_RESOURCE & 1)
    cgroup_v1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return may_raise, cgroup_v1, hard, shutil.which("runc") is not None


def _user_conf() -> dict[str, Any]:
    """Return the containers.conf in force, merged as podman merges it: CONTAINERS_CONF replaces all other files."""
    given = os.environ.get("CONTAINERS_CONF")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folders = (Path("/usr/share"), Path("/etc"), home)
    files = [Path(given)] if given else [folder / "containers/containers.conf" for folder in folders]
    if not given:
        files[2:2] = sorted(Path("/etc/containers/containers.conf.d").glob("*.conf"))
        files += sorted((home / "containers/containers.conf.d").glob("*.conf"))
    merged: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            continue
        try:
            tables = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, OSError) as error:
            raise StateError(f"{path}: {error}", "podman would not take it either: correct it") from None
        for table, values in tables.items():
            merged[table] = {**merged.get(table, {}), **values} if isinstance(values, dict) else values
    return merged
