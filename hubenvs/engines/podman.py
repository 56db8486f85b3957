"""Podman: its command lines, and the parsing of its output."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..definition.names import container_uid
from ..errors import StateError
from . import host
from .engine import ContainerState, ListedContainer, Listing, Pod, PublishedPort, Removal, Resource
from .podman_images import PodmanImages
from .process import Argv, Completed

# States of a pod in which its ports are bound.
_HOLDS_PORTS = ("Running", "Degraded", "Paused")


class Podman(PodmanImages):
    """The engine podman."""

    name = "podman"

    @property
    def images(self) -> PodmanImages:
        """Return this engine: it has the images too."""
        return self

    # -- resources ---------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Return all pods, containers, volumes, networks and Secrets."""
        pods, containers, volumes, networks, secrets = self.programs.at_once(
            (
                lambda: self._json(("podman", "pod", "ps", "--format=json")),
                lambda: self._json(("podman", "ps", "--all", "--pod", "--format=json")),
                lambda: self._json(("podman", "volume", "ls", "--format=json")),
                lambda: self._json(("podman", "network", "ls", "--format=json")),
                # podman<5: 4.3 can't label a Secret, so they are known by name.
                lambda: self.listed(("podman", "secret", "ls", "--format={{.Name}}")),
            )
        )
        return Listing(
            pods=tuple(map(_pod, pods)),
            containers=tuple(_container(item) for item in containers if not item.get("IsInfra")),
            volumes=tuple(Resource(item["Name"], item.get("Labels") or {}) for item in volumes),
            networks=tuple(Resource(item["name"], item.get("labels") or {}) for item in networks),
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
        return _pod(described[0] if isinstance(described, list) else described)

    def apply_command(self, network: str | None = None) -> Argv:
        """Return the command that plays the manifest on standard input, the pod in ``network``."""
        network = network or rootless_network(self.version(), shutil.which("pasta") is not None)
        return ("podman", "kube", "play", "--quiet", "--network", network, "-")

    def network_command(self, name: str, labels: Mapping[str, str]) -> Argv | None:
        """Return the command that creates the network ``name`` for one pod; None if it needs none.

        An ordinary user's needs none: slirp4netns and pasta connect each pod by itself.
        """
        if host.rootless():
            return None
        options = [f"--label={key}={value}" for key, value in labels.items()]
        return ("podman", "network", "create", "--disable-dns", "--opt=isolate=true", *options, name)

    def remove(self, removal: Removal) -> None:
        """Remove pods and networks of ``removal``, and its containers, Secrets and volumes that exist."""
        for pod in removal.pods:
            self._remove_pod(pod, removal.grace)
        listing, names = removal.listing, removal.container_names
        commands: list[Argv] = []
        if secrets := sorted(names & listing.secrets):
            commands.append(("podman", "secret", "rm", *secrets))
        # A container whose creation was killed may exist in podman's storage alone, where it blocks its name.
        # A container that podman lists under such a name isn't part of the pod: it is left alone.
        if storage_only := sorted(names - {container.name for container in listing.containers}):
            commands.append(("podman", "rm", "--force", "--ignore", *storage_only))
        # `kube play` creates a volume of the same name for each Secret.
        if existing := sorted((names | removal.volumes) & listing.volume_names):
            commands.append(("podman", "volume", "rm", "--force", *existing))
        if removal.networks:
            commands.append(("podman", "network", "rm", *removal.networks))
        self.programs.at_once([partial(self.run, argv) for argv in commands])

    def _remove_pod(self, pod: Pod, grace: int) -> None:
        if not pod.is_running:  # podman 5 can't stop a paused container
            self.run(("podman", "pod", "unpause", pod.id), check=False)
        # podman<5: `pod rm --force` of 4.3 waits its timeout for each container in turn. Without a timeout it
        # waits 3 s for the containers' clean-up, which waits for it.
        stop = ("podman", "pod", "stop", "--ignore", f"--time={grace}", pod.id)
        self.run(stop, check=False, finish_on_interrupt=True)
        remove = ("podman", "pod", "rm", "--force", "--ignore", f"--time={grace}", pod.id)
        removed = self.run(remove, check=False, finish_on_interrupt=True)
        if removed.returncode and self.run(("podman", "pod", "exists", pod.id), check=False).returncode == 0:
            hint = "mend what podman says above, and run the task again"
            raise StateError(f"pod {pod.name} can't be removed", hint, removed.stderr.splitlines())

    def secret_values(self, secrets: Sequence[str]) -> dict[str, str]:
        """Return nothing: Secrets are copies of the deploy folder's, and podman<5: 4.3 can't show them."""
        return {}

    def reachable(self, pod_name: str, ports: Sequence[PublishedPort]) -> AbstractContextManager[None]:
        """Do nothing: the pod has published its ports."""
        return contextlib.nullcontext()

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
        return self.listed(argv).text.split()

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
        """Return a command line, complete with its environment, that runs ``command`` in ``container``.

        ``user``: as whom; by default as the user that the container belongs to.
        """
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
        options = ["--tail", str(lines)]
        options += ["--follow"] if follow else []
        if len(containers) > 1:
            options += ["--names", "--color"] if sys.stdout.isatty() else ["--names"]
        self.programs.show(("podman", "logs", *options, *containers), self.variables)

    # -- this host ---------------------------------------------------------------------------------

    def address_problem(self, address: str) -> str | None:
        """Return why no port can be published at ``address``, an IP address of this host; or None."""
        if host.rootless() or ":" not in address:
            return None
        return "leads nowhere: as root podman gives pods IPv4 only"

    def lost_ports_remedy(self) -> str:
        """Return what to do where a container answers in its pod, and not where it is published."""
        if host.rootless():
            return "`invoke down` and `invoke up` publish its ports again"
        return "`podman network reload --all` brings back the firewall rules that something has removed"

    def cluster_engine(self) -> None:
        """Return None: this host runs the containers."""

    def remarks(self, pod_name: str, ports: Sequence[PublishedPort]) -> list[tuple[str, str]]:
        """Return headings and texts that `up` prints at its end: what this host doesn't support."""
        problems = {"limits": host.unenforced_limits(), "log-out": host.ends_at_logout()}
        return [(heading, problem) for heading, problem in problems.items() if problem]


def rootless_network(version: tuple[int, ...], has_pasta: bool) -> str:
    """Return the program that connects an ordinary user's pods to the network with podman ``version``.

    ``has_pasta``: that program is installed.
    """
    return "pasta" if version >= (6, 0) or (version >= (5, 0) and has_pasta) else "slirp4netns"


def _exec(
    container: str, *command: str, user: str | None = None, interactive: bool = False, tty: bool = False
) -> Argv:
    options = ["--interactive"] if interactive else []
    options += ["--tty"] if tty else []
    if user := user or container_uid(container):
        options += ["--user", user]
    return ("podman", "exec", *options, container, *command)


def _machine() -> Argv:
    """Return the prefix of commands about volumes: on macOS these are inside the podman machine."""
    return ("podman", "machine", "ssh") if platform.system() == "Darwin" else ()


def _pod(item: Mapping[str, Any]) -> Pod:
    state = item["State"] if "State" in item else item["Status"]  # of `pod inspect` and of `pod ps`
    flags = state in _HOLDS_PORTS, state == "Running", state == "Degraded"
    return Pod(item["Name"], item.get("Labels") or {}, item["Id"], *flags)


def _container(item: Mapping[str, Any]) -> ListedContainer:
    ports = []
    for port in item.get("Ports") or ():
        with contextlib.suppress(KeyError):
            address = port.get("host_ip") or "127.0.0.1"
            ports.append(PublishedPort(port["container_port"], address, port["host_port"]))
    labels = item.get("Labels") or {}
    return ListedContainer(item["Names"][0], labels, item["State"], item.get("PodName") or "", tuple(ports))
