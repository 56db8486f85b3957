"""Podman: every command line of it, and every reading of its output."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence, Set
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from .. import files
from ..errors import CommandError, StateError, quoted
from . import host
from .engine import STOP_TIMEOUT, Container, ContainerState, Finding, Listing, Pod, PublishedPort, Resource
from .process import ANSWER, Argv, Completed, Programs

OLDEST = (4, 3)
# States of a pod in which its ports are bound.
_HOLDS_PORTS = ("Running", "Degraded", "Paused")
# The PATH of an imported image, which would have none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Podman:
    """The engine podman. ``folder``: where a containers.conf is written if this host needs one (None: never).

    ``label`` is put on every image that is built, as ``name=value``.
    """

    name = "podman"

    def __init__(self, folder: Path | None, programs: Programs, label: str) -> None:
        self.programs = programs
        self._folder = folder
        self._label = label

    # -- running -----------------------------------------------------------------------------------

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that podman needs here; writes a containers.conf if it needs one."""
        if not (self._folder and (configuration := host.containers_conf())):
            return {}
        path = self._folder / "containers.conf"
        if not path.exists() or path.read_text() != configuration:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(path, configuration)
        return {"CONTAINERS_CONF": str(path)}

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Run a command line of podman; ``options`` are those of `Programs.run`."""
        return self.programs.run(argv, variables=self.variables, **options)

    def _json(self, argv: Sequence[str]) -> Any:
        """Return the JSON that ``argv`` prints, an empty list if it prints nothing."""
        output = self.run(argv, timeout=ANSWER).stdout or b"[]"
        try:
            return json.loads(output) or []
        except ValueError:
            self.version()  # raises if podman is too old
            raise StateError(f"`{quoted(argv)}` printed no JSON", f"is this the real {argv[0]}?") from None

    def version(self) -> tuple[int, ...]:
        """Return podman's version, such as (4, 3, 1); StateError if it is missing or too old."""
        return self._version

    @cached_property
    def _version(self) -> tuple[int, ...]:
        text = self.run(("podman", "--version"), timeout=ANSWER).text
        try:
            version = tuple(int(part) for part in text.split()[-1].split("-")[0].split(".")[:3])
        except (ValueError, IndexError):
            raise StateError(f"`podman --version` says {text!r}", "is this podman?") from None
        if version < OLDEST:
            raise StateError(f"podman {text.split()[-1]} is too old", "install podman 4.3 or newer")
        return version

    # -- resources ---------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Return all pods, containers, volumes and Secrets."""
        pods, containers, volumes, secrets = self.programs.at_once(
            (
                lambda: self._json(("podman", "pod", "ps", "--format=json")),
                lambda: self._json(("podman", "ps", "--all", "--pod", "--format=json")),
                lambda: self._json(("podman", "volume", "ls", "--format=json")),
                # podman<5: 4.3 can't label a Secret, so they are known by name.
                lambda: self.run(("podman", "secret", "ls", "--format={{.Name}}"), timeout=ANSWER),
            )
        )
        return Listing(
            pods=tuple(map(_pod, pods)),
            containers=tuple(_container(item) for item in containers if not item.get("IsInfra")),
            volumes=tuple(Resource(item["Name"], item.get("Labels") or {}) for item in volumes),
            secrets=frozenset(secrets.text.split()),
        )

    def states(self, containers: Sequence[str]) -> dict[str, ContainerState]:
        """Return the state of each of ``containers`` that exists."""
        described = "--format={{.Name}} {{.State.Status}} {{.State.ExitCode}}"
        done = self.run(("podman", "container", "inspect", described, *containers), check=False)
        rows = (line.split() for line in done.text.splitlines())
        return {name: ContainerState(state, status) for name, state, status in rows}

    def pod(self, name: str) -> Pod | None:
        """Return the pod ``name``."""
        done = self.run(("podman", "pod", "inspect", name), check=False)
        if done.returncode != 0:
            return None
        described = json.loads(done.stdout)
        # podman<5: a mapping; from 5 on a list of them.
        item = described[0] if isinstance(described, list) else described
        return Pod(item["Name"], item.get("Labels") or {}, item["Id"])

    def apply_command(self) -> Argv:
        """Return the command that plays the manifest on standard input."""
        # The network is named: left to itself podman creates `podman-default-kube-network` and keeps it.
        network = pod_network(self.version(), host.rootless(), shutil.which("pasta") is not None)
        return ("podman", "kube", "play", "--quiet", "--network", network, "-")

    def remove(
        self, pods: Sequence[Pod], names: set[str], volumes: Set[str], listing: Listing, grace: int
    ) -> None:
        """Remove ``pods``, containers and Secrets among ``names``, and ``volumes``, where they exist.

        ``grace``: seconds that a container has to end by itself.
        """
        for pod in pods:
            self._remove_pod(pod, grace)
        commands: list[Argv] = []
        if secrets := sorted(names & listing.secrets):
            commands.append(("podman", "secret", "rm", *secrets))
        # A container whose creation was killed may exist in podman's storage alone, where it blocks its name.
        # A container that podman lists under such a name isn't part of the pod: it is left alone.
        if storage_only := sorted(names - {container.name for container in listing.containers}):
            commands.append(("podman", "rm", "--force", "--ignore", *storage_only))
        # `kube play` creates a volume of the same name for each Secret.
        if existing := sorted(names.union(volumes) & listing.volume_names):
            commands.append(("podman", "volume", "rm", "--force", *existing))
        self.programs.at_once([partial(self.run, argv) for argv in commands])

    def _remove_pod(self, pod: Pod, grace: int) -> None:
        if not pod.is_running:  # podman 5 can't stop a paused container
            self.run(("podman", "pod", "unpause", pod.id), check=False)
        # podman<5: `pod rm --force` of 4.3 waits its timeout for each container in turn. Stop the pod first.
        stop = ("podman", "pod", "stop", "--ignore", f"--time={grace}", pod.id)
        self.run(stop, check=False, finish_on_interrupt=True)
        remove = ("podman", "pod", "rm", "--force", "--ignore", f"--time={STOP_TIMEOUT}", pod.id)
        removed = self.run(remove, check=False, finish_on_interrupt=True)
        if removed.returncode and self.run(("podman", "pod", "exists", pod.id), check=False).returncode == 0:
            hint = "podman's message is above"
            raise StateError(f"pod {pod.name} can't be removed", hint, removed.stderr.splitlines())

    def create_volume_command(self, name: str, labels: Mapping[str, str]) -> Argv:
        """Return the command that creates the volume ``name``."""
        options = [f"--label={key}={value}" for key, value in labels.items()]
        return ("podman", "volume", "create", *options, name)

    def import_volume_command(self, name: str) -> Argv:
        """Return the command that unpacks a tar, its standard input, into the volume ``name``."""
        return (*_machine(), "podman", "volume", "import", name, "-")

    def containers_with(self, volume: str) -> list[str]:
        """Return the names of running containers that mount ``volume``."""
        argv = ("podman", "ps", f"--filter=volume={volume}", "--format={{.Names}}")
        return self.run(argv, timeout=ANSWER).text.split()

    def export_volume_command(self, name: str) -> Argv:
        """Return the command that writes the volume ``name`` as a tar to standard output."""
        return (*_machine(), "podman", "volume", "export", name)

    # -- containers --------------------------------------------------------------------------------

    def exec(self, container: str, *command: str, **options: Any) -> Completed:
        """Run ``command`` in ``container``; ``options`` are those of `Programs.run`."""
        interactive = options.get("stdin") is not None
        return self.run(_exec(container, *command, interactive=interactive), **options)

    def exec_command(
        self,
        container: str,
        *command: str,
        user: str | None = None,
        interactive: bool = False,
        tty: bool = False,
    ) -> Argv:
        """Return a command line, complete with its environment, that runs ``command`` in ``container``."""
        variables = tuple(f"{name}={value}" for name, value in self.variables.items())
        argv = _exec(container, *command, user=user, interactive=interactive, tty=tty)
        return ("env", *variables, *argv) if variables else argv

    def logs(self, container: str, lines: int = 20) -> list[str]:
        """Return the last ``lines`` lines that ``container`` printed."""
        done = self.run(("podman", "logs", "--tail", str(lines), container), check=False)
        return (done.text + "\n" + done.stderr).strip().splitlines()[-lines:]

    def print_logs(self, containers: Sequence[str], lines: int, follow: bool) -> None:
        """Print the last ``lines`` log lines of each container; ``follow``: and new ones until interrupted.

        Lines of several containers start with the container's name, in colour at a terminal.
        """
        options = ["--tail", str(lines), *(["--follow"] if follow else [])]
        if len(containers) > 1:
            options += ["--names", *(["--color"] if sys.stdout.isatty() else [])]
        self.run(("podman", "logs", *options, *containers), terminal=True, timeout=None)

    # -- images ------------------------------------------------------------------------------------

    def has_image(self, name: str) -> bool:
        """Return whether the image ``name`` is here."""
        argv = ("podman", "image", "exists", name)  # a listing would take longer with every image on the host
        done = self.run(argv, check=False, timeout=ANSWER)
        if done.returncode not in (0, 1):
            raise CommandError(argv, done.returncode, done.stderr)
        return done.returncode == 0

    def build_command(
        self,
        *,
        tag: str,
        context: Path,
        base: str,
        target: str | None = None,
        contexts: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
    ) -> Argv:
        """Return the command that builds the image ``tag`` from ``context``/Containerfile on top of ``base``.

        ``target`` is the stage, ``contexts`` further folders and images (``container-image://…``) by name,
        ``ca_bundle`` a certificate file that downloads during the build trust and the image doesn't keep.
        """
        caches = host.build_caches()
        argv = [*(("env", f"TMPDIR={caches}") if caches else ()), "podman", "build", "--tag", tag]
        argv += ["--file", str(context / "Containerfile"), "--build-arg", f"BASE_IMAGE={base}"]
        argv += ["--label", self._label]
        if target:
            argv += ["--target", target]
        for name, source in sorted((contexts or {}).items()):
            argv += ["--build-context", f"{name}={source}"]
        if ca_bundle:
            argv += ["--volume", f"{Path(ca_bundle).parent}:/etc/ssl/certs:ro"]
            # SELinux would keep the build from reading it, and `:z` would relabel the host's own trust store.
            argv += ["--security-opt", "label=disable"]
            argv += ["--build-arg", f"SSL_CERT_FILE=/etc/ssl/certs/{Path(ca_bundle).name}"]
        return (*argv, str(context))

    def prepare_builds(self) -> None:
        """Create the folder for build caches if this host needs one; StateError if another user owns it."""
        self.version()
        host.make_build_caches()

    def import_image_command(self, tar: str, tag: str) -> Argv:
        """Return the command that turns the root file system ``tar`` into the image ``tag``."""
        return ("podman", "import", "--quiet", "--change", f"ENV PATH={_PATH}", tar, tag)

    def pull_command(self, tag: str) -> Argv:
        """Return the command that pulls the image ``tag``."""
        return ("podman", "pull", "--quiet", tag)

    def push(self, tag: str, target: str) -> str:
        """Push the image ``tag`` as ``target`` and return its digest."""
        with tempfile.NamedTemporaryFile(prefix="hubenvs-") as digest:
            self.run(("podman", "push", "--quiet", "--digestfile", digest.name, tag, target), timeout=None)
            return digest.read().decode()

    def save_images(self, tags: Sequence[str], tar: Path) -> None:
        """Write the images ``tags`` to the file ``tar``; layers that they share are written once."""
        options = ("--quiet", "--multi-image-archive", "--format=docker-archive", f"--output={tar}")
        self.run(("podman", "save", *options, *tags), timeout=None)

    def load_images(self, tar: Path) -> None:
        """Load the images in the file ``tar``."""
        self.run(("podman", "load", "--quiet", f"--input={tar}"), timeout=None)

    def run_image_command(self, tag: str, *command: str, workdir: str) -> Argv:
        """Return the command that runs ``command`` in a new container of ``tag`` without a network."""
        options = ("--rm", "--init", "--network=none", f"--workdir={workdir}", "--entrypoint=")
        return ("podman", "run", *options, tag, *command)

    # -- this host ---------------------------------------------------------------------------------

    def diagnose(self) -> list[Finding]:
        """Examine this host for `doctor`."""
        described = "--format={{.Host.OCIRuntime.Name}} {{.Store.GraphDriverName}} {{.Store.GraphRoot}}"

        def info() -> host.Info:
            return host.Info(*self.run(("podman", "info", described), timeout=ANSWER).text.split(" ", 2))

        return host.diagnose(self.version, info)


def pod_network(version: tuple[int, ...], rootless: bool, has_pasta: bool) -> str:
    """Return the network of a pod that podman ``version`` plays; ``has_pasta``: that program is installed."""
    if not rootless:
        return "bridge"
    return "pasta" if version >= (6, 0) or (version >= (5, 0) and has_pasta) else "slirp4netns"


def _exec(
    container: str, *command: str, user: str | None = None, interactive: bool = False, tty: bool = False
) -> Argv:
    options = [*(["--interactive"] if interactive else []), *(["--tty"] if tty else [])]
    if user:
        options += ["--user", user]
    return ("podman", "exec", *options, container, *command)


def _machine() -> Argv:
    """Return what precedes a command about volumes: on macOS these are inside the podman machine."""
    return ("podman", "machine", "ssh") if platform.system() == "Darwin" else ()


def _pod(item: Mapping[str, Any]) -> Pod:
    state = item["Status"]
    return Pod(item["Name"], item.get("Labels") or {}, item["Id"], state in _HOLDS_PORTS, state == "Running")


def _container(item: Mapping[str, Any]) -> Container:
    ports = []
    for port in item.get("Ports") or ():
        with contextlib.suppress(KeyError):
            address = port.get("host_ip") or "127.0.0.1"
            ports.append(PublishedPort(port["container_port"], address, port["host_port"]))
    labels = item.get("Labels") or {}
    return Container(item["Names"][0], labels, item["State"], item.get("PodName") or "", tuple(ports))
