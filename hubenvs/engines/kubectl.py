"""kubectl: running it, and what its messages mean.

kubectl is run as a program, as the user runs it: it knows the user's kubeconfig and log-in plugins, `exec`
and `port-forward`, and it is no dependency of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CommandError, StateError
from .cluster import Cluster
from .podman_images import PodmanImages
from .process import ANSWER, Argv, Completed, Programs

OLDEST = (1, 20)


class Kubectl:
    """kubectl for ``cluster``. ``images`` are podman's, whose configuration is written to ``folder``."""

    def __init__(self, folder: Path | None, programs: Programs, cluster: Cluster) -> None:
        self.programs = programs
        self.images = PodmanImages(folder, programs)
        self.cluster = cluster

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Run a command line of kubectl; ``options`` are those of `Programs.run`."""
        return self.programs.run(argv, **options)

    def command(self, *arguments: str) -> Argv:
        """Return the command line of kubectl with ``arguments``, context and namespace named."""
        place = ("--context", self.cluster.context, "--namespace", self.cluster.namespace)
        return ("kubectl", *place, *arguments)

    def kubectl(self, *arguments: str, check: bool = True, **options: Any) -> Completed:
        """Run kubectl; StateError for what a user can mend, else CommandError."""
        argv = self.command(*arguments)
        done = self.programs.run(argv, check=False, **options)
        if check and done.returncode != 0:
            self._explain(done.stderr)
            raise CommandError(argv, done.returncode, done.stderr)
        return done

    def _explain(self, message: str) -> None:
        """Raise StateError if ``message`` is one of those that need an explanation."""
        context, namespace = self.cluster[:2]
        where, last = f"{context}/{namespace}", message.strip().splitlines()[-1:]
        if "does not exist" in message and "context" in message:
            raise StateError(f"there is no context {context}", "`kubectl config get-contexts` lists them")
        if "Forbidden" in message or "forbidden: User" in message:
            hint = f"`kubectl --context {context} auth can-i --list -n {namespace}` shows your rights"
            raise StateError(f"{where}: a right is missing", hint, last)
        if f'namespaces "{namespace}" not found' in message:
            hint = f"kubectl --context {context} create namespace {namespace}"
            raise StateError(f"{where}: there is no such namespace", hint)
        if "Unable to connect" in message or "connection to the server" in message:
            raise StateError(f"{where}: the cluster does not answer", "see `kubectl config view`", last)

    def _get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects that ``kubectl get`` finds."""
        text = self.kubectl("get", *arguments, "--output=json", "--ignore-not-found", timeout=ANSWER).text
        document = json.loads(text or "{}")
        return list(document.get("items", [document] if document else []))

    @cached_property
    def server_version(self) -> tuple[int, ...]:
        """The cluster's version, such as (1, 34); StateError if it is too old."""
        info = json.loads(self.kubectl("version", "--output=json", timeout=ANSWER).text)["serverVersion"]
        if (version := (int(info["major"]), int(info["minor"].rstrip("+")))) < OLDEST:
            raise StateError(f"Kubernetes {info['gitVersion']} is too old", "1.20 or newer is needed")
        return version

    def version(self) -> tuple[int, ...]:
        """Return podman's version; StateError if that or the cluster is missing or too old."""
        _ = self.server_version
        return self.images.version()
