"""kubectl's command lines, and what its messages mean. What a cluster makes of them, `nox -s kubernetes` tries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from hubenvs import cli
from hubenvs.engines.cluster import Cluster, load_command
from hubenvs.engines.engine import PublishedPort
from hubenvs.engines.kubernetes import Kubernetes
from hubenvs.engines.process import Completed, Programs
from hubenvs.errors import DefinitionError, StateError

Document = dict[str, Any]
POD = "jupyterhub-slurm-dev-dummyauth"
KUBECTL = ("kubectl", "--context", "lab", "--namespace", "hub")


class Answer(Programs):
    """Answers every command with ``stderr`` and exit status 1."""

    def __init__(self, stderr: str = "") -> None:
        super().__init__()
        self.stderr = stderr

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return the answer."""
        return Completed(1, b"", self.stderr)


def engine(stderr: str = "") -> Kubernetes:
    return Kubernetes(None, Answer(stderr), Cluster("lab", "hub"), "1234")


class Alone(Programs):
    """Answers every command with nothing."""

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return an empty answer."""
        return Completed(0, b"", "")


def test_context_and_namespace_are_always_named() -> None:
    """Every command line has both."""
    ports = [PublishedPort(8000, "127.0.0.1", 8123)]
    lab = Kubernetes(None, Alone(), Cluster("lab", "hub"), "1234")
    lines = [
        lab.exec_command(f"{POD}-slurm", "sinfo"),
        lab.forward_command(POD, ports),
        lab.apply_command(),
        lab.export_volume_command(f"{POD}-home"),
    ]
    assert all(line[:5] == KUBECTL for line in lines)
    assert lines[0][5:] == ("exec", f"{POD}-0", "--container", "slurm", "--", "sinfo")
    assert lines[1][5:] == ("port-forward", f"pod/{POD}-0", "--address=127.0.0.1", "8123:8000")
    assert lines[3][5:] == (*lines[0][5:10], "tar", "-C", "/home", "-cf", "-", ".")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("kubernetes", None, "hub"), "the cluster has to be named"),
        (("kubernetes", "lab", None), "the cluster has to be named"),
        ((None, "lab", "hub"), "--context, --namespace: only for a cluster"),
        (("docker", "lab", "hub"), "--engine docker"),
    ],
)
def test_a_cluster_that_is_not_named_is_refused(
    options: tuple[str | None, str | None, str | None], problem: str
) -> None:
    """The kubeconfig's current context and namespace are never taken."""
    with pytest.raises(DefinitionError, match=problem):
        cli.cluster_settings(*options)


@pytest.mark.parametrize(
    ("message", "problem", "hint"),
    [
        ('error: context "lab" does not exist', "there is no context lab", "get-contexts"),
        (
            'Error from server (Forbidden): pods is forbidden: User "u" cannot list resource "pods"',
            "lab/hub: a right is missing",
            "auth can-i --list",
        ),
        (
            'Error from server (NotFound): namespaces "hub" not found',
            "lab/hub: there is no such namespace",
            "create",
        ),
        (
            "The connection to the server 192.0.2.1 was refused",
            "lab/hub: the cluster does not answer",
            "kubectl config view",
        ),
        (
            "Unable to connect to the server: getting credentials: exec: sh failed\n\nIt looks like …",
            "lab/hub: the cluster does not know you",
            "log in",
        ),
        ("error: You must be logged in to the server", "lab/hub: the cluster does not know you", "log in"),
        (
            'Error from server (Forbidden): secrets "x" is forbidden: unable to create new content in '
            "namespace hub because it is being terminated",
            "lab/hub: the namespace is being deleted",
            "create namespace hub",
        ),
        (
            'Error from server (Forbidden): secrets "x" is forbidden: exceeded quota: small, requested: …',
            "lab/hub: more than the namespace's quota or limits allow",
            "describe quota,limits",
        ),
        ('error: error loading config file "x": yaml: …', "kubectl can't read its configuration", "mend"),
    ],
)
def test_what_a_user_can_mend_is_explained(message: str, problem: str, hint: str) -> None:
    """In two lines, and not as kubectl's exit status."""
    with pytest.raises(StateError) as error:
        engine(message).listing()
    assert (error.value.message, hint in error.value.hint) == (problem, True)


class Lab(Programs):
    """Has ``items``, and keeps the command lines."""

    def __init__(self, *items: Document) -> None:
        super().__init__()
        self.items = items
        self.lines: list[Sequence[str]] = []

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return the items as `kubectl get` prints them."""
        self.lines.append(argv)
        return Completed(0, json.dumps({"items": self.items}).encode(), "")


def item(kind: str, name: str, **fields: Any) -> Document:
    return {"kind": kind, "metadata": {"name": name, **fields.pop("metadata", {})}, **fields}


def test_pruning_keeps_what_is_applied_or_may_be_rolled_back_to() -> None:
    """Of ConfigMaps those stay that a revision refers to; of other resources those that were applied."""
    revision = item("ControllerRevision", "r", data={"configMapRef": {"name": "earlier"}})
    maps = [item("ConfigMap", name) for name in ("now", "earlier", "earl", "unused")]
    services = [item("Service", name) for name in ("now", "gone")]
    lab = Lab(*maps, revision, *services)
    applied = {("ConfigMap", "now"), ("Service", "now")}
    Kubernetes(None, lab, Cluster("lab", "hub"), "1234").prune(POD, applied)
    (deleted,) = (line[5:] for line in lab.lines if "delete" in line)
    assert deleted == ("delete", "configmap/earl", "configmap/unused", "service/gone", "--ignore-not-found")


def test_a_secrets_version_changes_with_it_and_tells_nothing_of_it() -> None:
    """Also where a Secret is made anew; a hash of its content would help to guess it."""

    def version(**metadata: str) -> str:
        about = {"uid": "12345678-9", "resourceVersion": "7", **metadata}
        lab = Lab(item("Secret", "hub", metadata=about, data={"key": "aGlkZGVu"}))
        return Kubernetes(None, lab, Cluster("lab", "hub"), "1234").secret_versions(["hub"])

    assert version() == version() == "12345678.7"
    assert len({version(), version(resourceVersion="8"), version(uid="22345678-9")}) == 3


def test_how_images_get_there() -> None:
    """By the command that is set; else kind's or minikube's, by the context's name; else not at all."""
    assert load_command(Cluster("x", "n", "ssh node 'ctr import -'"), "a.tar") == (
        "ssh",
        "node",
        "ctr import -",
    )
    assert load_command(Cluster("kind-ci", "n"), "a.tar") == (
        "kind",
        "load",
        "image-archive",
        "a.tar",
        "--name",
        "ci",
    )
    assert load_command(Cluster("minikube", "n"), "a.tar")[-3:] == ("image", "load", "a.tar")
    with pytest.raises(StateError, match="can't get images"):
        load_command(Cluster("x", "n"), "a.tar")
