"""The findings of `doctor` about this host."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import HubEnvsError
from ..files import file_system
from . import host
from .containers_conf import containers_conf
from .debian import has_mmdebstrap

# Types of file systems whose servers don't know a user's subordinate ids (/etc/subuid).
NETWORKED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs")
# All images with their build caches take about 3 GB.
NEEDED_DISK_GB = 5

# Whether it is in order, what was found, and a remedy if it isn't.
Result = tuple[bool, str, str]


class Finding(NamedTuple):
    """A result of `doctor`. ``remedy``: what to do if ``check`` isn't ``ok``, else empty."""

    check: str
    ok: bool
    found: str
    remedy: str


class Info(NamedTuple):
    """What `podman info` says of its runtime, its storage driver and the folder of its images."""

    runtime: str
    driver: str
    root: str


def diagnose(version: Callable[[], tuple[int, ...]], info: Callable[[], Info]) -> list[Finding]:
    """Return the findings about this host; ``version`` and ``info`` ask podman, and raise if that fails."""
    info = cache(info)
    checks: dict[str, Callable[[], Result]] = {
        "podman": lambda: podman_result(
            version(),
            host.cgroup_v1(),
            host.rootless() and platform.system() == "Linux",
            shutil.which("pasta") is not None,
        ),
        "podman answers": lambda: (bool(info()), "rootless" if host.rootless() else "as root", ""),
        "cgroups": _cgroups,
        "runtime": lambda: _runtime(info()),
        "storage": lambda: _storage(info()),
        "resource limits": _limits,
        "memory of containers": _memory,
        "processes of containers": lambda: (
            True,
            "not limited; those of jobs are, by slurm.max_processes",
            "",
        ),
        "user namespaces": _user_namespaces,
        "after log-out": lambda: (True, host.ends_at_logout() or "pods stay", ""),
        "base image": _base_image,
        "disk": lambda: _disk(info()),
        "certificates": _certificates,
    }
    return [finding(name, check) for name, check in checks.items()]


def finding(name: str, check: Callable[[], Result]) -> Finding:
    """Run ``check`` and return its finding; an error becomes a finding that isn't ok."""
    try:
        ok, found, remedy = check()
        return Finding(name, ok, found, "" if ok else remedy)
    except HubEnvsError as error:
        return Finding(name, False, error.message, error.hint)
    except OSError as error:
        return Finding(name, False, str(error), "make it readable for this user")


def podman_result(version: tuple[int, ...], cgroup_v1: bool, rootless: bool, has_pasta: bool) -> Result:
    """Return what podman ``version`` lacks on a host; ``has_pasta``: that program is installed.

    Podman 6 dropped cgroup version 1, and slirp4netns, which older ones use where there is no pasta.
    """
    text = f"podman {'.'.join(map(str, version))}"
    if version >= (6, 0) and cgroup_v1:
        remedy = (
            "boot the host with cgroup version 2 (systemd.unified_cgroup_hierarchy=1), or install podman 5"
        )
        return False, f"{text} can't run on cgroup version 1", remedy
    if version >= (6, 0) and rootless and not has_pasta:
        return False, f"{text} needs pasta for an ordinary user's pods", "as root: apt-get install passt"
    added = (((4, 4), "subPath of volumes"), ((4, 8), "modes of mounted secrets"))
    lacking = [name for since, name in added if version < since]
    return True, f"{text} (without {', '.join(lacking)}, not needed)" if lacking else text, ""


def _cgroups() -> Result:
    if platform.system() != "Linux":
        return True, "in the podman machine", ""
    return True, "version 1 (runc is used)" if host.cgroup_v1() else "version 2", ""


def _runtime(info: Info) -> Result:
    refuses = host.cgroup_v1() and info.runtime == "crun"
    return not refuses, info.runtime, "crun refuses cgroup version 1: install runc"


def _storage(info: Info) -> Result:
    kind = file_system(info.root, Path("/proc/mounts").read_text()) if platform.system() == "Linux" else ""
    if host.rootless() and kind in NETWORKED:
        remedy = "set rootless_storage_path in ~/.config/containers/storage.conf to a folder on a local disk"
        return False, f"{info.root} is on {kind}: an ordinary user's images may not unpack there", remedy
    # Debian leaves the driver to storage.conf. Podman keeps the one that it was first started with.
    remedy = (
        "builds take four times as long: have a storage.conf with overlay (as root: apt-get install"
        " containers-storage), then `podman system reset`, which removes all containers, volumes and images"
        " you have"
    )
    return info.driver != "vfs", info.driver, remedy


def _limits() -> Result:
    adapted = containers_conf() is not None
    return True, "adapted in .deploy/containers.conf" if adapted else "the defaults work", ""


def _memory() -> Result:
    return True, host.unenforced_limits() or "limited as `limits` says, with what is in /dev/shm", ""


def _user_namespaces() -> Result:
    if platform.system() != "Linux" or not host.rootless():
        return True, "not needed", ""
    name = pwd.getpwuid(os.geteuid()).pw_name
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = path.read_text().splitlines() if path.exists() else []
        if not any(line.split(":")[0] in (name, str(os.geteuid())) for line in lines):
            remedy = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            return False, f"no range for {name} in {path}", remedy
    devices = [path for path in ("/dev/net/tun", "/dev/fuse") if not os.access(path, os.R_OK | os.W_OK)]
    if devices:
        return False, f"{' and '.join(devices)} can't be used", f"as root: chmod 0666 {' '.join(devices)}"
    if "XDG_RUNTIME_DIR" not in os.environ:
        remedy = "log in properly (not by su), or set it to a folder of yours"
        return False, "XDG_RUNTIME_DIR is not set", remedy
    return True, "a range in /etc/subuid", ""


def _base_image() -> Result:
    return True, "made here with mmdebstrap" if has_mmdebstrap() else "pulled from docker.io", ""


def _disk(info: Info) -> Result:
    folder = Path(info.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    remedy = f"make room: {NEEDED_DISK_GB} GB are needed (podman image prune)"
    return free > NEEDED_DISK_GB, f"{free:.0f} GB free at {folder}", remedy


def _certificates() -> Result:
    path = host.ca_bundle()
    return path is not None, path or "no trust store found", "install ca-certificates, or set SSL_CERT_FILE"
