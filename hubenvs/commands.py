"""The command lines of podman and mmdebstrap, from what they are to do; pure."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from .names import LABEL_PART_OF, PART_OF

Argv = tuple[str, ...]


def build_argv(
    *,
    tag: str,
    context: Path,
    base: str,
    target: str | None = None,
    contexts: Mapping[str, str] | None = None,
    ca_bundle: str | None = None,
    caches: Path | None = None,
) -> Argv:
    """Return the command that builds the image ``tag`` from ``context``/Containerfile on top of ``base``.

    ``target`` is the stage, ``contexts`` further folders and images by the name that the Containerfile gives them,
    ``ca_bundle`` the host's trust store: mounted for the build's own downloads, and no part of the image. ``caches``
    is where cache mounts and working files go (None: where podman puts them).
    """
    argv = [
        *(("env", f"TMPDIR={caches}") if caches else ()),
        "podman",
        "build",
        "--tag",
        tag,
        "--file",
        str(context / "Containerfile"),
        "--build-arg",
        f"BASE_IMAGE={base}",
    ]
    argv += ["--label", f"{LABEL_PART_OF}={PART_OF}"]
    if target:
        argv += ["--target", target]
    for name, source in sorted((contexts or {}).items()):
        argv += ["--build-context", f"{name}={source}"]
    if ca_bundle:
        argv += ["--volume", f"{Path(ca_bundle).parent}:/etc/ssl/certs:ro"]
        # SELinux would keep the build from reading it, and `:z` would give the host's own trust store another label.
        argv += ["--security-opt", "label=disable"]
        argv += ["--build-arg", f"SSL_CERT_FILE=/etc/ssl/certs/{Path(ca_bundle).name}"]
    return (*argv, str(context))


def bootstrap_argv(release: str, target: str, sources: Sequence[str]) -> Argv:
    """Return the command that writes a minimal Debian root file system, made of ``sources``, to the tar ``target``."""
    # Manual pages, translations and most of /usr/share/doc are for people at a terminal; copyright files stay.
    excluded = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    return ("mmdebstrap", "--variant=minbase", "--quiet", *options, release, target, *sources)


def import_argv(tar: str, tag: str) -> Argv:
    """Return the command that makes the root file system ``tar`` the image ``tag``, with the PATH it would lack."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return ("podman", "import", "--quiet", "--change", f"ENV PATH={path}", tar, tag)


def save_argv(tar: str, tags: Sequence[str]) -> Argv:
    """Return the command that writes the images ``tags`` to the file ``tar``, the layers that they share once."""
    return ("podman", "save", "--quiet", "--multi-image-archive", "--format=docker-archive", f"--output={tar}", *tags)


def load_argv(tar: str) -> Argv:
    """Return the command that takes the images in the file ``tar``."""
    return ("podman", "load", "--quiet", f"--input={tar}")


def push_argv(tag: str, target: str, digest_file: str) -> Argv:
    """Return the command that pushes the image ``tag`` as ``target`` and writes its digest to ``digest_file``."""
    return ("podman", "push", "--quiet", "--digestfile", digest_file, tag, target)


def volume_argv(name: str, labels: Mapping[str, str]) -> Argv:
    """Return the command that makes the volume ``name``."""
    return ("podman", "volume", "create", *(f"--label={key}={value}" for key, value in labels.items()), name)


def volume_data_argv(action: str, name: str, system: str = platform.system()) -> Argv:
    """Return the command that imports a tar (stdin) into the volume ``name`` or exports one (stdout).

    On macOS the volume is inside the podman machine, whose own podman can do it.
    """
    through = ("podman", "machine", "ssh") if system == "Darwin" else ()
    target = ("-",) if action == "import" else ()
    return (*through, "podman", "volume", action, name, *target)


def pod_network(version: tuple[int, ...], rootless: bool, has_pasta: bool) -> str:
    """Return the network that podman ``version`` gives a pod; ``has_pasta``: that program is installed."""
    if not rootless:
        return "bridge"
    return "pasta" if version >= (5, 0) and has_pasta else "slirp4netns"


def play_argv(network: str) -> Argv:
    """Return the command that plays a manifest given on stdin.

    The network is named: left to itself podman makes `podman-default-kube-network`, and keeps it.
    """
    return ("podman", "kube", "play", "--quiet", "--network", network, "-")


def exec_argv(
    container: str, *command: str, user: str | None = None, interactive: bool = False, tty: bool = False
) -> Argv:
    """Return the command that runs ``command`` in ``container``."""
    options = [*(["--interactive"] if interactive else []), *(["--tty"] if tty else [])]
    if user:
        options += ["--user", user]
    return ("podman", "exec", *options, container, *command)
