"""This host: its certificates and package index, its build caches, and limits of its podman."""

from __future__ import annotations

import configparser
import json
import os
import platform
import pwd
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..definition.names import LOOPBACK
from ..errors import StateError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Where distributions keep the certificates that this host trusts, Debian's first.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# The settings of all users.
ETC = Path("/etc")
# A folder that exists where systemd runs, and one with a file for each user whose programs survive log-out.
SYSTEMD, LINGER = Path("/run/systemd/system"), Path("/var/lib/systemd/linger")
# Where the kernel lists what runs programs of other machines, and QEMU's names in it.
HANDLERS = Path("/proc/sys/fs/binfmt_misc")
QEMU = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}


def rootless() -> bool:
    """Return whether podman runs as an ordinary user here."""
    return os.geteuid() != 0


def ca_bundle() -> str | None:
    """Return the path of this host's trusted certificates, None if it isn't a known one."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *CA_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), None)


def user_configuration() -> Path:
    """Return the folder of the user's configuration files."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def read_toml(path: Path, program: str) -> dict[str, Any]:
    """Return the tables in the file ``path``, none without it; StateError if ``program`` can't read it."""
    try:
        return tomllib.loads(path.read_text()) if path.is_file() else {}
    except (ValueError, OSError) as error:
        raise StateError(f"{path}: {error}", f"{program} refuses it too: correct it") from None


def python_index() -> str | None:
    """Return the URL of the package index that uv, else pip, is configured with; None for their default."""
    home = user_configuration()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if url := os.environ.get(name):
            return url
    for file in (home / "uv/uv.toml", ETC / "uv/uv.toml"):
        table = read_toml(file, "uv")
        defaults = [index["url"] for index in table.get("index", ()) if index.get("default")]
        if url := next(iter(defaults), table.get("index-url")):
            return str(url)
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    pip = configparser.RawConfigParser()
    # pip's service order: later files win.
    try:
        pip.read([ETC / "pip.conf", Path.home() / ".pip/pip.conf", home / "pip/pip.conf"])
    except (configparser.Error, ValueError) as error:
        raise StateError(f"pip.conf: {error}", "pip refuses it too: correct it") from None
    return pip.get("global", "index-url", fallback=None)


def index_files() -> dict[str, str]:
    """Return configuration files, by name, that lead uv and pip to this host's index in a build.

    None where no index is set, or one that a build couldn't reach: a local folder, or a server on this host's
    loopback. They may contain a password.
    """
    parts = urlsplit(url := python_index() or "")
    if parts.scheme not in ("http", "https") or parts.hostname in LOOPBACK:
        return {}
    # Packages' hashes are locked, so pip need not insist on TLS where the site doesn't.
    trust = f"trusted-host = {parts.hostname}\n" if parts.scheme == "http" else ""
    return {
        "uv.toml": f"[[index]]\nurl = {json.dumps(url)}\ndefault = true\n",
        "pip.conf": f"[global]\nindex-url = {url}\n{trust}",
    }


def build_caches() -> Path | None:
    """Return the folder for the cache mounts of this user's builds; None: podman's own.

    Podman would take a folder of a fixed name there, whoever owns it: root's images could get another user's
    files. podman<5: 4.3 has one for all users, and only the first who builds can use it.
    """
    if platform.system() != "Linux":
        return None
    return large_files() / f"hubenvs-{os.geteuid()}"


def large_files() -> Path:
    """Return podman's folder for large temporary files. From Debian 13 on /tmp is in memory."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")


def make_build_caches() -> None:
    """Create the folder of `build_caches` if it is needed; StateError if another user owns it."""
    folder = build_caches()
    if folder is None:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StateError(f"{folder}: another user owns it", "set TMPDIR to a folder of yours on a local disk")


def cgroup_v1() -> bool:
    """Return whether this host has version 1 of cgroups."""
    return platform.system() == "Linux" and not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def emulation_problem(architecture: str) -> str:
    """Return why QEMU can't run containers of ``architecture`` here; empty if nothing is known."""
    handler = HANDLERS / QEMU[architecture]
    if not handler.is_file():
        return ""
    lacking = {"F": "its containers don't have QEMU", "C": "sudo doesn't work in its containers"}
    found = re.search(r"^flags: *(\w*)$", handler.read_text(), re.MULTILINE)
    flags = found[1] if found else ""
    problems = (
        f"{handler} lacks the flag {flag}: {what}" for flag, what in lacking.items() if flag not in flags
    )
    return next(problems, "")


def unenforced_limits() -> str:
    """Return why the memory limits of containers aren't enforced here; empty if they are."""
    if platform.system() != "Linux":
        return ""
    if cgroup_v1():
        if rootless():
            return "the containers' memory is not limited: rootless podman can't on cgroup version 1"
        enforced = Path("/sys/fs/cgroup/memory").is_dir()
    else:
        service = f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service" if rootless() else ""
        controllers = Path("/sys/fs/cgroup") / service / "cgroup.controllers"
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
