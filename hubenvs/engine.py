"""The engine: argv builders (pure), and the one door through which every program is started."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from . import state
from .errors import CommandError, StateError
from .model import LABEL_INSTANCE, LABEL_PART_OF, PART_OF, Endpoint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Argv = tuple[str, ...]
OLDEST = (4, 3)
# Where distributions keep the certificates that this host trusts, Debian's first.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# podman's own default for files, and the kernel's for processes (pid_max), to which podman lowers its own hard limit
# before it starts a container; neither can be raised past the host's hard limit without CAP_SYS_RESOURCE.
ULIMITS = {"nofile": 1048576, "nproc": 32768}
# What Git sets for its hooks (githooks(5)): the working copies are other repositories than the one it runs them for.
GIT_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}
CAP_SYS_RESOURCE = 24  # linux/capability.h
# Seconds: what only asks podman something answers at once, unless it is stuck; what changes something takes longer; a
# program that is told to end has its own to tidy up.
ANSWER, LONGEST, GRACE = 30, 600, 5


# -- argv ----------------------------------------------------------------------------------------------------------


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


def play_argv(version: tuple[int, ...], rootless: bool) -> Argv:
    """Return the command that plays a manifest given on stdin.

    The network is named: left to itself podman makes `podman-default-kube-network`, and keeps it.
    """
    network = ("slirp4netns" if version < (5, 0) else "pasta") if rootless else "bridge"
    return ("podman", "kube", "play", "--quiet", "--network", network, "-")


def exec_argv(
    container: str, *command: str, user: str | None = None, interactive: bool = False, tty: bool = False
) -> Argv:
    """Return the command that runs ``command`` in ``container``."""
    options = [*(["--interactive"] if interactive else []), *(["--tty"] if tty else [])]
    if user:
        options += ["--user", user]
    return ("podman", "exec", *options, container, *command)


# -- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit status and what it wrote (``stdout`` as bytes, ``stderr`` as text)."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Return what it wrote to stdout, as text without the last newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")


@dataclass(frozen=True)
class Holdings:
    """All that the engine has: pods, containers and volumes as podman describes them, and the names of secrets."""

    pods: Sequence[Mapping[str, Any]]
    containers: Sequence[Mapping[str, Any]]
    volumes: Sequence[Mapping[str, Any]]
    secrets: frozenset[str]

    @property
    def volume_names(self) -> set[str]:
        """Return the names of all volumes, whoever made them."""
        return {volume["Name"] for volume in self.volumes}


class Engine:
    """Runs programs, podman above all, in the environment that this host needs.

    ``folder`` is where a containers.conf is put if the host needs one (None: nowhere, nothing will be started);
    ``echo`` gets each command, quoted.
    """

    def __init__(self, folder: Path | None, echo: Callable[[str], None] | None = None) -> None:
        self._echo = echo
        self._running: set[subprocess.Popen[bytes]] = set()
        self._version: tuple[int, ...] | None = None
        self._folder = folder

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The variables that a command of ours gets; a containers.conf is made first if this host needs one."""
        own = {name: value for name, value in os.environ.items() if name not in GIT_HOOK}
        if not (self._folder and (configuration := containers_conf())):
            return own
        path = self._folder / "containers.conf"
        if not path.exists() or path.read_text() != configuration:
            state.write(state.make(self._folder) / path.name, configuration)
        return {**own, "CONTAINERS_CONF": str(path)}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        check: bool = True,
        timeout: float | None = LONGEST,
        log: BinaryIO | None = None,
        terminal: bool = False,
        whole: bool = False,
    ) -> Completed:
        """Run ``argv`` to its end and return what came of it.

        ``stdin`` is what it reads (nothing if not given), ``timeout`` in seconds, ``log`` a file that takes its output
        instead, ``terminal`` lets it have ours. ``whole``: if we are interrupted it may end by itself first, out of
        reach of the terminal's Ctrl-C; what podman has half done to the network nobody can undo. Raises CommandError
        if it fails and ``check`` is set or if it takes too long, StateError if the program isn't there. However this
        ends, the program isn't left running.
        """
        if self._echo:
            self._echo(shlex.join(argv))
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL if stdin is None else subprocess.PIPE}
        if terminal:
            given = {}
        elif log:
            given |= {"stdout": log, "stderr": subprocess.STDOUT}
        else:
            given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given |= {"env": self.environment, "start_new_session": whole}
        try:
            process = subprocess.Popen(argv, **given)
        except (FileNotFoundError, PermissionError):
            raise StateError(f"{argv[0]} is not installed", "run scripts/bootstrap, it says what is missing") from None
        self._running.add(process)
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except KeyboardInterrupt:
            if whole:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=ANSWER)
            raise
        except subprocess.TimeoutExpired:
            raise CommandError(
                argv, None, "", f"ended after {timeout:g} s; `invoke doctor` looks at the host"
            ) from None
        finally:
            _end(process)
            self._running.discard(process)
        result = Completed(process.returncode, stdout or b"", (stderr or b"").decode(errors="replace"))
        if check and result.returncode != 0:
            raise CommandError(argv, result.returncode, result.stderr or result.text)
        return result

    def relay(self, endpoint: Endpoint, argv: Sequence[str]) -> None:
        """Listen on ``endpoint`` until interrupted; whoever comes talks to an ``argv`` of their own."""
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        open_ones: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []
        try:
            with socket.create_server((endpoint.address, endpoint.port), family=family) as server:
                while True:
                    connection, _ = server.accept()
                    process = subprocess.Popen(
                        argv, env=self.environment, stdin=connection.fileno(), stdout=connection.fileno()
                    )
                    open_ones.append((connection, process))
        finally:
            for connection, process in open_ones:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    connection.shutdown(socket.SHUT_RDWR)  # a program that reads its end of file tidies up
                    process.wait(GRACE)
                connection.close()
                _end(process)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run ``calls`` side by side and return what each returns, in their order, or raise the first one's error.

        All run to their end; if we are interrupted, the programs that they run are ended.
        """
        with ThreadPoolExecutor(max_workers=max(1, len(calls))) as pool:
            running = [pool.submit(call) for call in calls]
            try:
                wait(running)
            except BaseException:
                for process in tuple(self._running):
                    process.terminate()
                raise
        return [future.result() for future in running]

    def json(self, argv: Sequence[str]) -> Any:
        """Run ``argv`` and return the JSON it prints (an empty list if it prints nothing)."""
        printed = self.run(argv, timeout=ANSWER).stdout or b"[]"
        try:
            return json.loads(printed) or []
        except ValueError:
            self.version()  # says so if it is too old
            raise StateError(f"`{shlex.join(argv)}` printed no JSON", f"is this the real {argv[0]}?") from None

    def version(self) -> tuple[int, ...]:
        """Return podman's version, such as (4, 3, 1); raise StateError if there is none or it is too old."""
        if self._version:
            return self._version
        text = self.run(("podman", "--version"), timeout=ANSWER).text
        try:
            version = tuple(int(part) for part in text.split()[-1].split("-")[0].split(".")[:3])
        except ValueError:
            raise StateError(f"`podman --version` says {text!r}", "is this podman?") from None
        if version < OLDEST:
            raise StateError(f"podman {text.split()[-1]} is too old", "install podman 4.3 or newer")
        self._version = version
        return version

    # -- what there is ---------------------------------------------------------------------------------------------

    def has_image(self, name: str) -> bool:
        """Return whether there is an image ``name``; a listing of all would take longer with each there is."""
        argv = ("podman", "image", "exists", name)
        done = self.run(argv, check=False, timeout=ANSWER)
        if done.returncode not in (0, 1):
            raise CommandError(argv, done.returncode, done.stderr)
        return done.returncode == 0

    def holdings(self) -> Holdings:
        """Return what there is now."""
        pods, containers, volumes, secrets = self.at_once(
            (
                lambda: self.json(("podman", "pod", "ps", "--format=json")),
                lambda: self.json(("podman", "ps", "--all", "--format=json")),
                lambda: self.json(("podman", "volume", "ls", "--format=json")),
                # By name: podman 4.3 can't label one.
                lambda: self.run(("podman", "secret", "ls", "--format", "{{.Name}}"), timeout=ANSWER).text.split(),
            )
        )
        containers = [container for container in containers if not container.get("IsInfra")]
        return Holdings(pods, containers, volumes, frozenset(secrets))

    def volume_names(self) -> set[str]:
        """Return the names of all volumes, whoever made them."""
        return set(self.run(("podman", "volume", "ls", "--quiet"), timeout=ANSWER).text.split())

    def logs(self, container: str, lines: int = 20) -> list[str]:
        """Return the last ``lines`` lines that ``container`` wrote."""
        done = self.run(("podman", "logs", "--tail", str(lines), container), check=False)
        return (done.text + "\n" + done.stderr).strip().splitlines()[-lines:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make ``process`` end if it hasn't: politely, since it may have to tidy up, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def instance_of(described: Mapping[str, Any]) -> str | None:
    """Return which instance something that podman describes belongs to, or None if it isn't ours."""
    labels = described.get("Labels") or {}
    return labels.get(LABEL_INSTANCE) if labels.get(LABEL_PART_OF) == PART_OF else None


def ca_bundle() -> str | None:
    """Return the file of certificates that this host trusts, or None if it has none where we know to look."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *CA_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), None)


def rootless() -> bool:
    """Return whether podman runs as an ordinary user here."""
    return os.geteuid() != 0


def build_caches() -> Path | None:
    """Return the folder (made if need be) for the cache mounts of this user's builds, or None where podman has its own.

    podman 4.3 has one for all users, /var/tmp/buildah-cache: who builds first owns it, and nobody else can build.
    Raises StateError if somebody else has the folder.
    """
    if platform.system() != "Linux" or not rootless() or "TMPDIR" in os.environ:
        return None
    folder = Path(f"/var/tmp/hubenvs-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StateError(f"{folder} is not yours", "set TMPDIR to a folder of yours on a local disk")
    return folder


def containers_conf() -> str | None:
    """Return the containers.conf that this host needs, the user's own settings included, or None if it needs none."""
    return merged_conf(_user_conf(), needed_conf(*_probe()))


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


def merged_conf(own: Mapping[str, Any], needed: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return containers.conf text of the user's ``own`` settings and those ``needed`` that they don't make themselves.

    None if nothing needs adding.
    """
    import tomli_w

    result = {table: dict(values) if isinstance(values, Mapping) else values for table, values in own.items()}
    for table, values in needed.items():
        result[table] = {**values, **result.get(table, {})}
    return None if result == own else tomli_w.dumps(result)


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
