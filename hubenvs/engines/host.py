"""This host: its certificates, what podman needs to start containers here, and the findings of `doctor`."""

from __future__ import annotations

import configparser
import os
import platform
import pwd
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import HubEnvsError, StateError
from ..files import file_system
from .debian import has_mmdebstrap
from .engine import Finding

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Where distributions keep the certificates that this host trusts, Debian's first.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# Podman's default for open files, and the kernel's for processes (pid_max), to which podman lowers its own
# hard limit. Neither can exceed the host's hard limit without CAP_SYS_RESOURCE.
ULIMITS = {"nofile": 1048576, "nproc": 32768}
# Podman's own default, and what manifests/pod.yaml.j2 asks for. podman<5: 4.3 doesn't read it there.
SYSCTLS = ("net.ipv4.ping_group_range=0 0", "net.ipv4.ip_unprivileged_port_start=32768")
# Bytes. The services keep their last 5 MB each themselves.
LOG_SIZE_MAX = 100_000_000
# Where systemd says that it runs, and whose programs it keeps when they log out.
SYSTEMD, LINGER = Path("/run/systemd/system"), Path("/var/lib/systemd/linger")
CAP_SYS_RESOURCE = 24  # linux/capability.h
# Types of file systems whose server knows nothing of an ordinary user's further ids (/etc/subuid).
NETWORKED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs")
# All images with their build caches take about 3 GB.
NEEDED_DISK_GB = 5


def rootless() -> bool:
    """Return whether podman runs as an ordinary user here."""
    return os.geteuid() != 0


def ca_bundle() -> str | None:
    """Return the path of this host's trusted certificates, None if it isn't a known one."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *CA_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), None)


def python_index() -> str | None:
    """Return the URL of the package index that uv, else pip, is configured with; None for their default."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if url := os.environ.get(name):
            return url
    for file in (home / "uv/uv.toml", Path("/etc/uv/uv.toml")):
        try:
            table = tomllib.loads(file.read_text()) if file.is_file() else {}
        except ValueError as error:
            raise StateError(f"{file}: {error}", "uv refuses it too: correct it") from None
        defaults = [index["url"] for index in table.get("index", ()) if index.get("default")]
        if url := next(iter(defaults), table.get("index-url")):
            return str(url)
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    pip = configparser.RawConfigParser()
    # pip's own order: later files win.
    try:
        pip.read([Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", home / "pip/pip.conf"])
    except (configparser.Error, ValueError) as error:
        raise StateError(f"pip.conf: {error}", "pip refuses it too: correct it") from None
    return pip.get("global", "index-url", fallback=None)


def build_caches() -> Path | None:
    """Return the folder for the cache mounts of this user's builds; None: podman's own.

    podman<5: 4.3 shares /var/tmp/buildah-cache between users. Only the first who builds can use it.
    """
    if platform.system() != "Linux" or not rootless() or "TMPDIR" in os.environ:
        return None
    return Path(f"/var/tmp/hubenvs-{os.geteuid()}")


def make_build_caches() -> None:
    """Create the folder of `build_caches` if it is needed; StateError if another user owns it."""
    folder = build_caches()
    if folder is None:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StateError(f"{folder}: another user owns it", "set TMPDIR to a folder of yours on a local disk")


def _cgroup_v1() -> bool:
    return platform.system() == "Linux" and not Path("/sys/fs/cgroup/cgroup.controllers").exists()


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
    kinds = {} if rootless() else {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    may_raise = bool(effective >> CAP_SYS_RESOURCE & 1)
    return may_raise, _cgroup_v1(), hard, shutil.which("runc") is not None


def _user_conf() -> dict[str, Any]:
    """Return the user's containers.conf, merged as podman does: CONTAINERS_CONF replaces all other files."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/usr/share/containers/containers.conf")]
    for folder in (Path("/etc/containers"), home / "containers"):
        files += [folder / "containers.conf", *sorted((folder / "containers.conf.d").glob("*.conf"))]
    if only := os.environ.get("CONTAINERS_CONF"):
        files = [Path(only)]
    merged: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            continue
        try:
            tables = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, OSError) as error:
            raise StateError(f"{path}: {error}", "podman refuses it too: correct it") from None
        for table, values in tables.items():
            merged[table] = {**merged.get(table, {}), **values} if isinstance(values, dict) else values
    return merged


# Whether it is in order, what was found, and a remedy if it isn't.
Result = tuple[bool, str, str]


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
            _cgroup_v1(),
            rootless() and platform.system() == "Linux",
            shutil.which("pasta") is not None,
        ),
        "podman answers": lambda: (bool(info()), "rootless" if rootless() else "as root", ""),
        "cgroups": _cgroups,
        "runtime": lambda: _runtime(info()),
        "storage": lambda: _storage(info()),
        "resource limits": _limits,
        "memory of containers": lambda: (True, unenforced() or "limited as `limits` says", ""),
        "user namespaces": _user_namespaces,
        "after log-out": lambda: (True, ends_at_logout() or "pods stay", ""),
        "base image": _base_image,
        "disk": lambda: _disk(info()),
        "certificates": _certificates,
    }
    return [finding(name, check) for name, check in checks.items()]


def finding(name: str, check: Callable[[], Result]) -> Finding:
    """Return the finding of ``check``; an error becomes one too."""
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
    return True, "version 1 (runc is used)" if _cgroup_v1() else "version 2", ""


def _runtime(info: Info) -> Result:
    refuses = _cgroup_v1() and info.runtime == "crun"
    return not refuses, info.runtime, "crun refuses cgroup version 1: install runc"


def _storage(info: Info) -> Result:
    kind = file_system(info.root, Path("/proc/mounts").read_text()) if platform.system() == "Linux" else ""
    if rootless() and kind in NETWORKED:
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


def unenforced() -> str:
    """Return why the memory limits of containers aren't enforced here; empty if they are."""
    if platform.system() != "Linux":
        return ""
    if _cgroup_v1():
        if rootless():
            return "the containers' memory is not limited: rootless podman can't on cgroup version 1"
        enforced = Path("/sys/fs/cgroup/memory").is_dir()
    else:
        own = f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service" if rootless() else ""
        controllers = Path("/sys/fs/cgroup") / own / "cgroup.controllers"
        enforced = controllers.exists() and "memory" in controllers.read_text().split()
    return (
        "" if enforced else "the containers' memory is not limited: podman's cgroup has no memory controller"
    )


def ends_at_logout() -> str:
    """Return why an ordinary user's pods end when that user logs out; empty if they stay."""
    name = pwd.getpwuid(os.geteuid()).pw_name
    if platform.system() != "Linux" or not rootless() or not SYSTEMD.is_dir() or (LINGER / name).exists():
        return ""
    return f"pods end when {name} logs out; to keep them: loginctl enable-linger"


def _user_namespaces() -> Result:
    if platform.system() != "Linux" or not rootless():
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
    path = ca_bundle()
    return path is not None, path or "no trust store found", "install ca-certificates, or set SSL_CERT_FILE"
