"""kubectl: running it, what its messages mean, and which images the nodes have.

kubectl is run as a program, as the user runs it: it knows the user's kubeconfig and log-in plugins, `exec`
and `port-forward`, and it is no dependency of ours.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CommandError, StateError
from .cluster import Cluster, load_command
from .host import large_files
from .podman_images import PodmanImages
from .process import ANSWER, Argv, Completed, Programs

OLDEST = (1, 20)
_CREATE = "kubectl --context {context} create namespace {namespace}"
_LOG_IN = "log in to the cluster again, until `kubectl --context {context} get --raw /version` answers"
# Pattern in kubectl's message, our error, our hint. The first match counts.
EXPLAINED = (
    (
        r"context .*does not exist",
        "there is no context {context}",
        "`kubectl config get-contexts` lists them",
    ),
    (r"error loading config file", "kubectl can't read its configuration", "mend or remove that file"),
    (
        r"getting credentials|Unauthorized|You must be logged in",
        "{context}/{namespace}: the cluster does not know you",
        _LOG_IN,
    ),
    (
        r"because it is being terminated",
        "{context}/{namespace}: the namespace is being deleted",
        f"when it is gone: {_CREATE}",
    ),
    (
        r"exceeded quota|is forbidden: (maximum|minimum|max|min) |failed quota",
        "{context}/{namespace}: more than the namespace's quota or limits allow",
        "`kubectl --context {context} -n {namespace} describe quota,limits` shows them",
    ),
    (
        r"Forbidden|forbidden: User",
        "{context}/{namespace}: a right is missing",
        "`kubectl --context {context} auth can-i --list -n {namespace}` shows your rights",
    ),
    (r'namespaces ".*" not found', "{context}/{namespace}: there is no such namespace", _CREATE),
    (
        r"Unable to connect|connection to the server|could not find the requested resource",
        "{context}/{namespace}: the cluster does not answer",
        "see `kubectl config view`",
    ),
)


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
        """Run kubectl; StateError for an error in `EXPLAINED`, else CommandError (with ``check``)."""
        argv = self.command(*arguments)
        done = self.programs.run(argv, check=False, **options)
        if check and done.returncode != 0:
            self._explain(done.stderr)
            raise CommandError(argv, done.returncode, done.stderr)
        return done

    def _explain(self, message: str) -> None:
        """Raise StateError if ``message`` matches a pattern in `EXPLAINED`."""
        context, namespace = self.cluster[:2]
        for pattern, problem, hint in EXPLAINED:
            if found := re.search(pattern, message):
                start = message.rfind("\n", 0, found.start()) + 1
                line = message[start:].partition("\n")[0].strip()
                place = {"context": context, "namespace": namespace}
                raise StateError(problem.format(**place), hint.format(**place), [line])

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

    def load(self, tags: Sequence[str]) -> list[str]:
        """Load the images ``tags`` that some node lacks into the cluster, and return these.

        Raises StateError as `load_command`.
        """
        missing = sorted(set(tags) - self._on_every_node())
        if not missing:
            return []
        with tempfile.TemporaryDirectory(prefix="hubenvs-", dir=large_files()) as scratch:
            if self.cluster.load:  # side by side, without an archive on the disk
                # Podman writes a layer there before it sends it, and leaves it if the reader ends early.
                variables = {**self.images.variables, "TMPDIR": scratch}
                self.programs.pipe(
                    self.images.save_command(missing), load_command(self.cluster, "-"), variables
                )
            else:
                tar = Path(scratch) / "images.tar"
                command = load_command(self.cluster, str(tar))
                self.images.save_images(missing, tar)
                self.programs.run(command)
        return missing

    def _on_every_node(self) -> set[str]:
        """Return the names of images that every node has; none without the right to read nodes."""
        done = self.kubectl("get", "nodes", "--output=json", check=False, timeout=ANSWER)
        nodes = json.loads(done.text)["items"] if done.returncode == 0 else []
        names = [
            {name for image in node["status"].get("images", ()) for name in image.get("names") or ()}
            for node in nodes
        ]
        return set.intersection(*names) if names else set()
