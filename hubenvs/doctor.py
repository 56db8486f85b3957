"""`doctor`: what this host has and lacks, before anything is up; each finding with its remedy."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import load
from .engine import ANSWER, Engine, instance_of
from .errors import HubEnvsError
from .host import ca_bundle, containers_conf, rootless
from .ports import port_problem
from .ready import http_status

# Both images with their build caches take about 3 GB.
NEEDED_DISK_GB = 5
# What a check returns: whether it is well, what was found, and what to do if not.
Finding = tuple[bool, str, str]


def examine(root: Path, engine: Engine) -> list[dict[str, Any]]:
    """Return one ``{check, ok, found, remedy}`` for each thing that bringing an environment up depends on."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("podman", lambda: _podman(engine)),
        ("podman answers", lambda: _answers(engine)),
        ("cgroups", _cgroups),
        ("runtime", lambda: _runtime(engine)),
        ("storage", lambda: _storage(engine)),
        ("resource limits", _limits),
        ("user namespaces", _user_namespaces),
        ("git", lambda: _program("git")),
        ("base image", _base_image),
        ("ports", lambda: _ports(root, engine)),
        ("disk", lambda: _disk(engine)),
        ("certificates", _certificates),
        (
            "Debian mirror",
            lambda: _mirrors(root),
        ),
        (
            "PyPI",
            lambda: _reachable(
                "https://pypi.org/simple/uv/", "images can't be built: is a proxy needed (https_proxy)?"
            ),
        ),
        ("checkout", lambda: _checkout(root)),
    ]
    rows = []
    for name, look in checks:
        try:
            ok, found, remedy = look()
        except HubEnvsError as error:
            ok, found, remedy = False, error.message, error.hint
        rows.append({"check": name, "ok": ok, "found": found, "remedy": None if ok else remedy})
    return rows


def _podman(engine: Engine) -> Finding:
    version = engine.version()
    lacks = [
        text
        for least, text in (((4, 4), "subPath of volumes"), ((4, 8), "modes of mounted secrets"))
        if version < least
    ]
    text = f"podman {'.'.join(map(str, version))}"
    return True, f"{text} (without {', '.join(lacks)}, not needed)" if lacks else text, ""


def _answers(engine: Engine) -> Finding:
    engine.run(("podman", "info"), timeout=ANSWER)
    return True, "rootless" if rootless() else "as root", ""


def _cgroups() -> Finding:
    if platform.system() != "Linux":
        return True, "in the podman machine", ""
    return True, "version 2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "version 1 (runc is used)", ""


def _runtime(engine: Engine) -> Finding:
    name = engine.run(("podman", "info", "--format", "{{.Host.OCIRuntime.Name}}"), timeout=ANSWER).text
    v1 = platform.system() == "Linux" and not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return not (v1 and name == "crun"), name, "crun refuses cgroup version 1: install runc"


def _storage(engine: Engine) -> Finding:
    driver = engine.run(("podman", "info", "--format", "{{.Store.GraphDriverName}}"), timeout=ANSWER).text
    # Debian leaves it to storage.conf; what podman was first started with stays.
    remedy = (
        "builds take four times as long: have a storage.conf with overlay (as root: apt-get install"
        " containers-storage), then `podman system reset`, which removes all containers, volumes and images you have"
    )
    return driver != "vfs", driver, remedy


def _limits() -> Finding:
    text = "the defaults work" if containers_conf() is None else "adapted in .deploy/containers.conf"
    return True, text, ""


def _user_namespaces() -> Finding:
    if platform.system() != "Linux" or not rootless():
        return True, "not needed", ""
    name = pwd.getpwuid(os.geteuid()).pw_name
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = path.read_text().splitlines() if path.exists() else []
        if not any(line.split(":")[0] in (name, str(os.geteuid())) for line in lines):
            return (
                False,
                f"no range for {name} in {path}",
                f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
            )
    devices = [path for path in ("/dev/net/tun", "/dev/fuse") if not os.access(path, os.R_OK | os.W_OK)]
    if devices:
        return False, f"{' and '.join(devices)} can't be used", f"as root: chmod 0666 {' '.join(devices)}"
    if "XDG_RUNTIME_DIR" not in os.environ:
        return False, "XDG_RUNTIME_DIR is not set", "log in properly (not by su), or set it to a folder of yours"
    return True, "a range in /etc/subuid", ""


def _program(name: str) -> Finding:
    path = shutil.which(name)
    return path is not None, path or "not installed", "run scripts/bootstrap"


def _base_image() -> Finding:
    return (
        (True, "made here with mmdebstrap", "") if shutil.which("mmdebstrap") else (True, "pulled from docker.io", "")
    )


def _ports(root: Path, engine: Engine) -> Finding:
    containers = [item for item in engine.holdings().containers if instance_of(item)]
    ours = {port.get("host_port") for item in containers for port in item.get("Ports") or ()}
    found = []
    for name, env in load.definitions(root).items():
        for published, endpoint in env.published.items():
            problem = None if endpoint.port in ours else port_problem(endpoint)
            if problem:
                what = f"{endpoint} of {name} {problem}"
                return False, what, f"end what has it, or --set publish.{published}=127.0.0.1:PORT"
            found.append(f"{endpoint} ({name})")
    return True, f"free, or a pod's of ours: {', '.join(found)}", ""


def _disk(engine: Engine) -> Finding:
    folder = Path(engine.run(("podman", "info", "--format", "{{.Store.GraphRoot}}"), timeout=ANSWER).text)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    return (
        free > NEEDED_DISK_GB,
        f"{free:.0f} GB free at {folder}",
        f"make room: {NEEDED_DISK_GB} GB are needed (podman image prune)",
    )


def _certificates() -> Finding:
    path = ca_bundle()
    return path is not None, path or "no trust store found", "install ca-certificates, or set SSL_CERT_FILE"


def _reachable(url: str, remedy: str) -> Finding:
    status = http_status(url, timeout=10, proxied=True)
    return status == 200, f"{url} {'answers' if status == 200 else f'does not answer ({status})'}", remedy


def _mirrors(root: Path) -> Finding:
    """Look for the Debian release of each environment that can be brought up, where its definition says."""
    defined = {(env.debian.mirror, env.debian.release) for env in load.definitions(root).values()}
    finding = (True, "no environment is defined", "")
    for mirror, release in sorted(defined):
        finding = _reachable(
            f"{mirror}/dists/{release}/InRelease", "images can't be built: set debian.mirror to one you reach"
        )
        if not finding[0]:
            break
    return finding


def _checkout(root: Path) -> Finding:
    return os.access(root, os.W_OK), str(root), "give the checkout to the user who works in it"
