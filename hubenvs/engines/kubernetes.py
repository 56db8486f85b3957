"""Kubernetes: the command lines of kubectl, and the parsing of its output."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

from ..definition.containers import CONTAINERS, FRONT_ENDS, PROXY
from ..definition.names import (
    LABEL_CHECKOUT,
    LABEL_COMPONENT,
    LABEL_INSTANCE,
    LABEL_PART_OF,
    PART_OF,
    container_name,
    container_uid,
)
from ..errors import StateError
from .cluster import Cluster
from .engine import ContainerState, ListedContainer, Listing, Pod, PublishedPort, Removal, Resource
from .kubectl import Kubectl
from .process import ANSWER, Argv, Completed, Programs
from .rollout import Rollout

APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager=hubenvs", "--filename=-")
# The kinds that a deployment consists of; its volumes are removed only when asked for.
PRUNED = "deployments,services,networkpolicies,poddisruptionbudgets,ingresses"
KINDS = f"statefulsets,configmaps,secrets,{PRUNED}"
REVISIONS = ("ControllerRevision", "ReplicaSet")
# Most seconds until port-forward listens, and until a deleted pod is gone.
FORWARD, GONE = 15, 90


class Kubernetes(Kubectl):
    """The engine of ``cluster``.

    Every checkout can change a deployment there, so all are listed with the label of ours, ``checkout``.
    """

    name = "kubernetes"

    def __init__(self, folder: Path | None, programs: Programs, cluster: Cluster, checkout: str) -> None:
        super().__init__(folder, programs, cluster)
        self._checkout = checkout
        self._with_proxy: dict[str, bool] = {}

    def listing(self) -> Listing:
        """Return StatefulSets as pods, with the containers of each one's pod, claims and Secrets."""
        items, secrets = self.programs.at_once(
            (
                lambda: self._get("statefulsets,pods,persistentvolumeclaims"),
                lambda: self.kubectl("get", "secrets", "--output=name", timeout=ANSWER),
            )
        )
        pods: list[Pod] = []
        containers: list[ListedContainer] = []
        volumes: list[Resource] = []
        for item in items:
            metadata = item["metadata"]
            name, labels = metadata["name"], {**metadata.get("labels", {}), LABEL_CHECKOUT: self._checkout}
            if item["kind"] == "StatefulSet":
                running = item.get("status", {}).get("readyReplicas") == 1
                pods.append(Pod(name, labels, metadata["uid"], False, running))
            elif item["kind"] == "PersistentVolumeClaim":
                volumes.append(Resource(name, labels))
            elif labels.get(LABEL_PART_OF) == PART_OF:
                containers += _containers(item, labels)
        names = frozenset(line.rpartition("/")[2] for line in secrets.text.splitlines())
        return Listing(tuple(pods), tuple(containers), tuple(volumes), names)

    def states(self, containers: Sequence[str]) -> dict[str, ContainerState]:
        """Return the state of each of ``containers`` that exists."""
        result = {}
        for item in self._get("pods", f"--selector={LABEL_PART_OF}={PART_OF}"):
            stem = item["metadata"]["labels"].get(LABEL_INSTANCE, "")
            for status in item.get("status", {}).get("containerStatuses", ()):
                result[container_name(stem, status["name"])] = _state(status)
        return {name: state for name, state in result.items() if name in containers}

    def pod(self, name: str) -> Pod | None:
        """Return the StatefulSet ``name`` as a pod."""
        return next((pod for pod in self.listing().pods if pod.name == name), None)

    def remove(self, removal: Removal) -> None:
        """Remove everything with the deployment's label except claims, and the claims of ``removal``."""
        selector = _selector(removal.pod_name)
        wait = (f"--timeout={GONE}s", "--wait")
        self.kubectl("delete", KINDS, selector, "--cascade=foreground", *wait)
        self.kubectl("delete", "pods", selector, *wait)
        if existing := sorted(removal.volumes & removal.listing.volume_names):
            # A claim that was deleted earlier disappeared with the pod.
            self.kubectl("delete", "persistentvolumeclaims", *existing, "--ignore-not-found", *wait)

    def network_command(self, name: str, labels: Mapping[str, str]) -> Argv | None:
        """Return None: a cluster's pods have no network of their own."""
        return None

    def apply_command(self, network: str | None = None) -> Argv:
        """Return the command that applies the documents on standard input.

        Server-side: a client-side apply keeps a copy in an annotation, which is too small for seed files and
        would show Secrets.
        """
        return self.command(*APPLY)

    def apply(self, documents: str, dry_run: bool = False) -> None:
        """Apply ``documents``. Our values replace those that somebody else has set in the same fields.

        ``dry_run``: let the server check them, and change nothing.
        """
        arguments = (*APPLY, *(["--dry-run=server"] if dry_run else []))
        self.kubectl(*arguments, stdin=documents.encode(), finish_on_interrupt=not dry_run)

    def rollout(self, pod_name: str, component: str, timeout: float) -> Rollout:
        """Return the rollout of ``component``, a StatefulSet or Deployment of ``pod_name``, to wait for."""
        selector = f"{_selector(pod_name)},{LABEL_COMPONENT}={component}"

        def look() -> list[dict[str, Any]]:
            return self._get("statefulsets,deployments,pods", selector)

        def events(uid: str) -> list[str]:
            found = self._get("events", f"--field-selector=involvedObject.uid={uid},type=Warning")
            found.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime")))
            return [f"{item['reason']}: {item['message']}" for item in found]

        def delete(name: str) -> None:
            self.kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found")

        def retry() -> None:  # a controller looks at a changed object at once
            value = f"{PART_OF}/retried={time.time():.0f}"
            self.kubectl("annotate", "statefulsets,deployments", selector, "--overwrite", value)

        return Rollout(pod_name, timeout, look, events, delete, partial(self._log, lines=12), retry)

    def claims_being_deleted(self, pod_name: str) -> list[str]:
        """Return the claims of ``pod_name`` that Kubernetes removes, with their data, when its pod ends."""
        claims = [item["metadata"] for item in self._get("persistentvolumeclaims", _selector(pod_name))]
        return [claim["name"] for claim in claims if "deletionTimestamp" in claim]

    def foreign(self, pod_name: str, resources: Iterable[tuple[str, str]]) -> list[str]:
        """Return those of ``resources``, kinds and names, that exist without the labels of ``pod_name``."""
        items = self._get(*(f"{kind.lower()}/{name}" for kind, name in resources))
        labels = {LABEL_PART_OF: PART_OF, LABEL_INSTANCE: pod_name}.items()
        others = (item for item in items if not labels <= item["metadata"].get("labels", {}).items())
        return [f"{item['kind']} {item['metadata']['name']}" for item in others]

    def prune(self, pod_name: str, applied: Set[tuple[str, str]]) -> None:
        """Delete resources of ``pod_name`` from an earlier `up` that aren't in ``applied``: kinds and names.

        ConfigMaps stay as long as a revision refers to them: `kubectl rollout undo` needs them.
        """
        items = self._get(f"configmaps,controllerrevisions,replicasets,{PRUNED}", _selector(pod_name))
        revisions = json.dumps([item for item in items if item["kind"] in REVISIONS])
        unused = [
            f"{kind.lower()}/{name}"
            for kind, name in ((item["kind"], item["metadata"]["name"]) for item in items)
            if kind not in REVISIONS and (kind, name) not in applied and f'"{name}"' not in revisions
        ]
        if unused:
            self.kubectl("delete", *unused, "--ignore-not-found")

    # -- Secrets -----------------------------------------------------------------------------------

    def secret_values(self, secrets: Sequence[str]) -> dict[str, str]:
        """Return the values of those ``secrets`` that exist, by key."""
        values: dict[str, str] = {}
        for item in self._get("secrets", *secrets):
            for key, value in item.get("data", {}).items():
                values[key] = base64.b64decode(value).decode()
        values.pop("format", None)
        return values

    def secret_versions(self, secrets: Sequence[str]) -> str:
        """Return the versions of ``secrets`` as a text. A changed value changes it."""
        items = [item["metadata"] for item in self._get("secrets", *secrets)]
        return ",".join(f"{item['uid'][:8]}.{item['resourceVersion']}" for item in items)

    def create_volume_command(self, name: str, labels: Mapping[str, str]) -> Argv:
        """Return the command that creates the volume ``name``: its claim is one of the applied documents."""
        return self.apply_command()

    def import_volume_command(self, name: str) -> Argv:
        """Return the command that unpacks a tar, its standard input, into the volume ``name``."""
        container, path = _mounted(name)
        return self.exec_command(container, "tar", "-C", path, "-xf", "-", interactive=True)

    def export_volume_command(self, name: str) -> Argv:
        """Return the command that writes the volume ``name`` as a tar to standard output."""
        container, path = _mounted(name)
        return self.exec_command(container, "tar", "-C", path, "-cf", "-", ".")

    def containers_with(self, volume: str) -> list[str]:
        """Return the names of running containers that mount ``volume``."""
        container, _ = _mounted(volume)
        return [name for name, state in self.states([container]).items() if state.state == "running"]

    def exec(self, container: str, *command: str, **options: Any) -> Completed:
        """Run ``command`` in ``container``; ``options`` are those of `Programs.run`."""
        interactive = options.get("stdin") is not None
        return self.programs.run(self.exec_command(container, *command, interactive=interactive), **options)

    def exec_command(
        self,
        container: str,
        *command: str,
        user: str | None = None,
        interactive: bool = False,
        tty: bool = False,
    ) -> Argv:
        """Return a command line that runs ``command`` in ``container``, as `Podman`."""
        pod, name = self._place(container)
        options = [*(["--stdin"] if interactive else []), *(["--tty"] if tty else [])]
        if user:  # kubectl can't choose one
            command = ("runuser", "-s", "/bin/sh", "-c", 'exec "$0" "$@"', "--", user, *command)
        elif user := container_uid(container):
            command = ("/usr/local/lib/s6/as-user", user, *command)
        return self.command("exec", pod, "--container", name, *options, "--", *command)

    def logs(self, container: str, lines: int = 20) -> list[str]:
        """Return the last ``lines`` lines that ``container`` printed."""
        return self._log(*self._place(container), lines)

    def _log(self, pod: str, name: str, lines: int) -> list[str]:
        arguments = ("logs", pod, "--container", name, f"--tail={lines}")
        text = self.kubectl(*arguments, check=False, timeout=ANSWER).text
        if not text:  # it has just been started again
            text = self.kubectl(*arguments, "--previous", check=False, timeout=ANSWER).text
        return text.strip().splitlines()[-lines:]

    def print_logs(self, containers: Sequence[str], lines: int, follow: bool) -> None:
        """Print the last ``lines`` log lines of each container; ``follow``: and new ones until Ctrl-C."""
        place, name = self._place(containers[0])
        which: Argv = (place, "--container", name)
        if len(containers) > 1:
            selector = _selector(_split(containers[0])[0])
            which = (selector, "--all-containers", "--prefix", "--max-log-requests=20")
        options = (f"--tail={lines}", *(["--follow"] if follow else []))
        self.programs.show(self.command("logs", *which, *options))

    def _place(self, container: str) -> tuple[str, str]:
        """Return the pod or Deployment that runs ``container``, and the container's name in its pod."""
        stem, name = _split(container)
        if name in (PROXY, *FRONT_ENDS) and self._has_proxy(stem):
            return f"deployment/{container_name(stem, PROXY)}", name
        return f"{stem}-0", name

    def _has_proxy(self, pod_name: str) -> bool:
        """Return whether the proxy of ``pod_name`` is in a pod of its own."""
        if pod_name not in self._with_proxy:
            self._with_proxy[pod_name] = bool(self._get("deployment", container_name(pod_name, PROXY)))
        return self._with_proxy[pod_name]

    def forward_command(self, pod_name: str, ports: Sequence[PublishedPort]) -> Argv:
        """Return the command that leads ``ports`` of this host to the pod until it is ended."""
        addresses = ",".join(sorted({port.address for port in ports}))
        pairs = (f"{port.host_port}:{port.container_port}" for port in ports)
        part = (
            f"deployment/{container_name(pod_name, PROXY)}"
            if self._has_proxy(pod_name)
            else f"pod/{pod_name}-0"
        )
        return self.command("port-forward", part, f"--address={addresses}", *pairs)

    @contextlib.contextmanager
    def reachable(self, pod_name: str, ports: Sequence[PublishedPort]) -> Iterator[None]:
        """Lead ``ports`` of this host to the pod during the block."""
        listening = [(port.address, port.host_port) for port in ports]
        forward = self.programs.background(self.forward_command(pod_name, ports), listening, FORWARD)
        with forward if ports else contextlib.nullcontext():
            yield

    def address_problem(self, address: str) -> str | None:
        """Return None: nothing is published at addresses of this host."""
        return None

    def lost_ports_remedy(self) -> str:
        """Return what to do where a container answers in its pod and not through port-forward."""
        return "call the task again: the connection to the cluster was lost"

    def cluster_engine(self) -> Kubernetes:
        """Return this engine."""
        return self

    def remarks(self, pod_name: str, ports: Sequence[PublishedPort]) -> list[tuple[str, str]]:
        """Return headings and texts that `up` prints at its end: how a browser gets to the hub."""
        command = shlex.join(self.forward_command(pod_name, ports)) if ports else ""
        return [("", f"for a browser: {command}")] if ports else []


def _split(container: str) -> tuple[str, str]:
    """Split the `container_name` ``container`` into the pod's name and the container's own."""
    name = max((row for row in (*CONTAINERS, PROXY) if container.endswith(f"-{row}")), key=len)
    return container.removesuffix(f"-{name}"), name


def _selector(pod_name: str) -> str:
    """Return the option that selects the objects of a deployment."""
    return f"--selector={LABEL_PART_OF}={PART_OF},{LABEL_INSTANCE}={pod_name}"


def _mounted(volume: str) -> tuple[str, str]:
    """Return the container that mounts ``volume``, and where."""
    for row in CONTAINERS.values():
        for item in row.volumes:
            if volume.endswith(f"-{item.name}"):
                return container_name(volume.removesuffix(f"-{item.name}"), row.name), item.path
    raise StateError(f"no container mounts {volume}", "`invoke status` lists the volumes")


def _state(status: Mapping[str, Any]) -> ContainerState:
    (word, about), *_ = status.get("state", {"waiting": {}}).items()
    return ContainerState("exited" if word == "terminated" else word, str(about.get("exitCode", "")))


def _containers(pod: Mapping[str, Any], labels: Mapping[str, str]) -> list[ListedContainer]:
    stem = labels.get(LABEL_INSTANCE, "")
    states = {item["name"]: _state(item) for item in pod.get("status", {}).get("containerStatuses", ())}
    waiting = ContainerState("waiting", "")
    names = [item["name"] for item in pod["spec"]["containers"]]
    return [
        ListedContainer(container_name(stem, name), labels, states.get(name, waiting).state, stem)
        for name in names
    ]
