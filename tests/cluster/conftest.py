"""What the tests in a cluster share: the cluster that `nox -s kubernetes` names, and a deployment there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.helpers import PERSONAL, SETTINGS, free_port, invoke, settings

# Everything that a deployment consists of.
KINDS = "statefulsets,pods,services,configmaps,secrets,networkpolicies,ingresses,controllerrevisions"


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster that is there for the tests, and how images get there."""

    context: str
    namespace: str
    load: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options that name it on a task's command line."""
        return ("--engine", "kubernetes", "--context", self.context, "--namespace", self.namespace)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Return what kubectl prints; a failure shows its message."""
        done = subprocess.run(
            ("kubectl", "--context", self.context, "--namespace", self.namespace, *arguments),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects that kubectl finds."""
        text = self.kubectl("get", *arguments, "--output=json", "--ignore-not-found")
        document = json.loads(text or "{}")
        return list(document.get("items", [document] if document else []))


@dataclass(frozen=True)
class Deployed:
    """A deployment: environment, instance, the name of its StatefulSet, and the options of `up`."""

    cluster: Cluster
    env: str
    instance: str
    pod: str
    options: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """The options that name it."""
        return ("--env", self.env, "--instance", self.instance)

    @property
    def selector(self) -> str:
        """The option that selects its objects."""
        return f"--selector=app.kubernetes.io/instance={self.pod}"

    def up(self, *more: str) -> str:
        """Bring it up, with ``more`` options, and return what that printed."""
        done = invoke("up", *self.named, *self.cluster.options, *self.options, *more)
        return done.stdout

    def pod_uid(self) -> str:
        """Return the uid of its pod."""
        (pod,) = self.cluster.get("pods", self.selector)
        return str(pod["metadata"]["uid"])

    def left(self) -> set[str]:
        """Return the names of its objects, except claims."""
        return {
            f"{item['kind']}/{item['metadata']['name']}" for item in self.cluster.get(KINDS, self.selector)
        }


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a namespace of our own."""
    context = os.environ["HUBENVS_CONTEXT"]
    place = Cluster(context, f"hubenvs-{os.getpid()}", os.environ.get("HUBENVS_LOAD", ""))
    place.kubectl("create", "namespace", place.namespace)
    yield place
    place.kubectl("delete", "namespace", place.namespace)


@pytest.fixture(scope="module", params=["dev_dummyauth", "dev_realauth"])
def deployed(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Deployed]:
    """Each environment that has all it needs in the pod, up in the cluster; down with its claims at the end."""
    env = request.param
    load = settings(kubernetes__load=cluster.load) if cluster.load else ()
    port = ()
    if env == "dev_dummyauth":
        ingress = "{host: hub.example.org, class: none, tls_secret: tls}"
        port = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}", kubernetes__ingress=ingress)
    name = f"jupyterhub-slurm-{env.replace('_', '-')}-k8s"
    options = (*SETTINGS, *PERSONAL.get(env, ()), *port, *load)
    deployment = Deployed(cluster, env, "k8s", name, options)
    try:
        deployment.up()
        yield deployment
    finally:
        invoke("down", *deployment.named, *cluster.options, "--volumes")
    assert deployment.left() == set()
    assert cluster.get("persistentvolumeclaims", deployment.selector) == []
