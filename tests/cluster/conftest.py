"""What the tests in a cluster share: the cluster that `nox -s kubernetes` names, and a deployment there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hubenvs.engines.cluster import Cluster as ClusterPlace
from tests.integration.helpers import (
    PERSONAL,
    ROOT,
    SETTINGS,
    Console,
    free_port,
    invoke,
    open_engine,
    settings,
)

# Everything that a deployment consists of.
KINDS = (
    "statefulsets,deployments,pods,services,configmaps,secrets,networkpolicies,ingresses,poddisruptionbudgets,"
    "controllerrevisions,replicasets"
)


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

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command line of kubectl with ``arguments``."""
        return ("kubectl", "--context", self.context, "--namespace", self.namespace, *arguments)

    def kubectl(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """Return what kubectl prints; a failure shows its message. ``options`` are those of `subprocess.run`."""
        command = self.command(*arguments)
        done = subprocess.run(command, **options, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects that kubectl finds."""
        text = self.kubectl("get", *arguments, "--output=json", "--ignore-not-found")
        document = json.loads(text or "{}")
        return list(document.get("items", [document] if document else []))

    def take(self, *images: str) -> None:
        """Have those of ``images`` that were built here, unless they come from a registry."""
        if self.load:
            place = ClusterPlace(self.context, self.namespace, self.load)
            engine = open_engine(ROOT, Console(quiet=True), cluster=place).cluster_engine()
            assert engine is not None
            engine.load(images)


@dataclass(frozen=True)
class Deployed:
    """A deployment: environment, instance, the name of its StatefulSet, the options of `up`, seed files."""

    cluster: Cluster
    env: str
    instance: str
    pod: str
    options: tuple[str, ...]
    seeds: Path | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)  # its Secrets before they were rotated

    def earlier_value(self, secret: str, key: str) -> str:
        """Return a value in ``earlier``."""
        return next(str(item["data"][key]) for item in self.earlier if item["metadata"]["name"] == secret)

    @property
    def named(self) -> tuple[str, ...]:
        """The options that name it."""
        return ("--env", self.env, "--instance", self.instance)

    @property
    def selector(self) -> str:
        """The option that selects its objects."""
        return f"--selector=app.kubernetes.io/instance={self.pod}"

    def up(self, *more: str, path: Path | None = None) -> str:
        """Bring it up, with ``more`` options, and return what that printed; ``path``: as for `invoke`."""
        done = invoke("up", *self.named, *self.cluster.options, *self.options, *more, path=path)
        return done.stdout

    def pod_uid(self) -> str:
        """Return the uid of its pod."""
        (pod,) = self.cluster.get("pods", self.selector)
        return str(pod["metadata"]["uid"])

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the content of its Secrets."""
        return {item["metadata"]["name"]: item["data"] for item in self.cluster.get("secrets", self.selector)}

    def left(self) -> set[str]:
        """Return the names of its objects, except claims."""
        return {
            f"{item['kind']}/{item['metadata']['name']}" for item in self.cluster.get(KINDS, self.selector)
        }


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker of the integration tests, whose site is brought up here too."""
    config.addinivalue_line("markers", "environments(name, ...): the only ones that the test is about")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of other environments than those that their marker names."""
    others = [item for item in items if isinstance(item, pytest.Function) and _is_of_another(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """With HUBENVS_MUST_RUN count a skipped test as failed: CI's cluster has all that the tests need."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("HUBENVS_MUST_RUN"):
        report.outcome = "failed"


def _is_of_another(item: pytest.Function) -> bool:
    marker, call = item.get_closest_marker("environments"), getattr(item, "callspec", None)
    return bool(marker and call and call.params.get("deployed") not in marker.args)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a namespace of our own."""
    context = os.environ["HUBENVS_CONTEXT"]
    place = Cluster(context, f"hubenvs-{os.getpid()}", os.environ.get("HUBENVS_LOAD", ""))
    place.kubectl("create", "namespace", place.namespace)
    yield place
    place.kubectl("delete", "namespace", place.namespace, "--wait=false")  # it is empty by now


def acting_as(user: str, folder: Path) -> Path:
    """Return ``folder``, with a kubectl that acts as ``user``."""
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("kubectl")} --as={user} "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def stranger(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a kubectl that acts as somebody without any right."""
    return acting_as("stranger", tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same for somebody with the rights of docs/kubernetes.md and no others."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    (role,) = (block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Role" in block)
    cluster.kubectl("apply", "--filename=-", input=textwrap.dedent(role))
    cluster.kubectl("create", "rolebinding", "operator", "--role=hubenvs", "--user=operator")
    yield acting_as("operator", tmp_path_factory.mktemp("operator"))
    cluster.kubectl("delete", "rolebinding/operator", "role/hubenvs")


@pytest.fixture(scope="module", params=["dev_dummyauth", "dev_realauth"])
def deployed(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """Each environment that has all it needs in the pod, up in the cluster; down with its claims at the end."""
    env = request.param
    load: tuple[str, ...] = settings(kubernetes__load=cluster.load) if cluster.load else ()
    port: tuple[str, ...] = ()
    if env == "dev_dummyauth":
        ingress = "{host: hub.example.org, class: none, tls_secret: tls}"
        port = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}", kubernetes__ingress=ingress)
    name = f"jupyterhub-slurm-{env.replace('_', '-')}-k8s"
    seeds = tmp_path_factory.mktemp("seeds")
    (seeds / "jupyterhub-config").mkdir()
    # The second is too large for the annotation of a client-side apply, the third a program.
    for file, content in {"site": "before\n", "large": "x" * 300_000, "tool": "#!/bin/sh\n"}.items():
        (seeds / f"jupyterhub-config/{file}.txt").write_text(content)
    load += settings(overlays=f"[{seeds}]")
    options = (*SETTINGS, *PERSONAL.get(env, ()), *port, *load)
    deployment = Deployed(cluster, env, "k8s", name, options, seeds)
    try:
        deployment.up()
        yield deployment
    finally:
        invoke("down", *deployment.named, *cluster.options, "--volumes")
    assert deployment.left() == set()
    assert cluster.get("persistentvolumeclaims", deployment.selector) == []
