"""`prod` in a cluster, with the site of tests/integration/site.py: Slurm, a provider and a tunnel's far end.

The tests build on one another, in this order.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

from tests.integration.conftest import engine, here  # noqa: F401
from tests.integration.helpers import Engine, HubUser, http_status, invoke, wait_until
from tests.integration.registry import PASSWORD, credentials, fetched, serving
from tests.integration.site import (  # noqa: F401
    HOST,
    PORT,
    TUNNEL,
    FarEnd,
    Hub,
    Site,
    address,
    far_end_fixture,
    options,
    site_fixture,
    tunnel_fixture,
)

from .conftest import Cluster, Deployed

# Ports of every node: the hub's API for the site's compute nodes, and its proxy for the measurements.
HUB_API, PROXY = 30881, 30800
REPLACED = 240
NO_REGISTRY = "needs the package docker-registry, and its address for the nodes in $HUBENVS_REGISTRY"
PASS = (200, 302, 403)  # statuses that a user's server answers with to whoever isn't logged in


@pytest.fixture(scope="session")
def env_name() -> str:
    """The environment whose site is brought up."""
    return "prod"


@pytest.fixture(scope="session")
def instance() -> str:
    """A name that no other deployment has."""
    return f"k{os.getpid()}"


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[str]:
    """A node's address, at which the site's compute nodes reach the hub: what a site has to set up itself."""
    addresses = cluster.get("nodes")[0]["status"]["addresses"]
    for name, component, number, port in (("api", "hub", 8081, HUB_API), ("users", "proxy", 8000, PROXY)):
        selector = f"--tcp={number}"
        cluster.kubectl("create", "service", "nodeport", name, selector, f"--node-port={port}")
        selected = (
            f'{{"spec": {{"selector": {{"app": null, "app.kubernetes.io/component": "{component}"}}}}}}'
        )
        cluster.kubectl("patch", "service", name, "--patch", selected)
    yield next(item["address"] for item in addresses if item["type"] == "InternalIP")
    cluster.kubectl("delete", "service", "api", "users")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The address of a registry that asks for a password; None if there is none, and images are loaded."""
    folder, address = tmp_path_factory.mktemp("registry"), os.environ.get("HUBENVS_REGISTRY")
    if not address or not fetched(folder):
        yield None
        return
    with serving(folder, address):
        yield address
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(
    cluster: Cluster,
    registry: str | None,
    instance: str,
    node: str,
    site: Site,
    far_end: FarEnd,
    engine: Engine,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hub]:
    """`prod`, defined but not up yet. The tunnel client's image is in the cluster."""
    folder = tmp_path_factory.mktemp("site")
    cluster.take(TUNNEL)
    aliases = f"[{{ip: {address(engine, site.slurm)}, hostnames: [{HOST}, node1]}}]"
    settings = options(
        "engine=kubernetes",
        f"kubernetes.context={cluster.context}",
        f"kubernetes.namespace={cluster.namespace}",
        f"site_folder={folder}",
        "hub.poll_interval=2",
        "hub.proxy_address=0.0.0.0",  # not for the tunnel: for the measurements below
        f"slurm.ssh_hostname={HOST}",
        f"slurm.ssh_port={PORT}",
        f"slurm.host_aliases={aliases}",
        f"slurm.hub_connect_url=http://{node}:{HUB_API}",
        "slurm.wrappers_bin=/opt/slurmspawner_wrappers/bin",
        "slurm.env_prefix=/opt/jupyter",
        "slurm.jupyter_data_dir=/opt/jupyter/share/jupyter",
        f"auth.oidc_server={site.issuer}",
        "auth.platform=dev.platform",
        "auth.audience=jupyterhub",
        f"zenith.server_address={address(engine, far_end.container)}",
        f"zenith.image={TUNNEL}",
        *([f"kubernetes.load={cluster.load}"] if cluster.load else []),
    )
    if registry:  # under a name that no node knows
        printed = invoke("push", "--env", "prod", f"{registry}/{instance}", *settings).stdout
        images = yaml.safe_load(printed[printed.index("images:") :])["images"]
        settings += options(f"images.jupyterhub.image={images['jupyterhub']['image']}")
    hub = Hub(("--env", "prod", "--instance", instance), settings, folder)
    try:
        invoke("secrets", *hub.named, *settings, "--init")
        site.let_in(f"restrict {(folder / 'ssh_client_key.pub').read_text()}")
        (folder / "ssh_known_hosts").write_text(site.known_hosts)
        yield hub
    finally:
        invoke("down", *hub.named, *cluster.options, "--volumes", "--yes")
    deployed = Deployed(cluster, "prod", instance, f"jupyterhub-slurm-prod-{instance}", ())
    assert deployed.left() == set()
    assert cluster.get("persistentvolumeclaims", deployed.selector) == []


@dataclass
class Outage:
    """Looks at ``url`` ten times a second: how long it didn't answer with one of ``statuses``, in seconds."""

    url: str
    statuses: tuple[int, ...]
    seconds: float = 0
    seen: list[str] = field(default_factory=list)

    def look(self, ended: threading.Event) -> None:
        """Look until ``ended``."""
        failed_at: float | None = None
        while not ended.wait(0.1):
            now = time.monotonic()
            try:
                answer = str(httpx.get(self.url, timeout=5, trust_env=False).status_code)
            except httpx.HTTPError as error:
                answer = type(error).__name__
            if answer in map(str, self.statuses):
                if failed_at is not None:
                    self.seconds = max(self.seconds, time.monotonic() - failed_at)
                failed_at = None
            else:
                self.seen.append(answer)
                failed_at = failed_at or now
        if failed_at is not None:
            self.seconds = max(self.seconds, time.monotonic() - failed_at)


@contextlib.contextmanager
def watching(*outages: Outage) -> Iterator[None]:
    """Look at all ``outages`` during the block."""
    ended = threading.Event()
    threads = [threading.Thread(target=outage.look, args=(ended,)) for outage in outages]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def report(request: pytest.FixtureRequest, what: str, hub: Outage, server: Outage) -> None:
    """Print a measurement."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{what}: away for at most: hub {hub.seconds:.1f} s, servers {server.seconds:.1f} s")


@pytest.fixture(scope="module")
def user(hub: Hub, node: str, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubUser]:
    """A user with a server that runs on the site's node."""
    with HubUser(f"http://{node}:{PROXY}/jupyter") as user:
        user.log_in_with(invoke("token", *site.named, "--user", "alice").stdout.strip())
        user.spawn({})
        user.wait_ready(180)
        yield user
        user.api("DELETE", f"/users/{user.name}/server")


def outages(user: HubUser) -> tuple[Outage, Outage]:
    """Return what looks at the hub, and at the user's server."""
    return Outage(f"{user.url}/hub/health", (200,)), Outage(f"{user.url}/user/{user.name}/api", PASS)


@pytest.fixture(scope="module")
def pull_secret(cluster: Cluster, registry: str | None) -> Iterator[Callable[[str], None]]:
    """Has pods pull with a password, as docs/kubernetes.md says it."""
    if not registry:
        pytest.skip(NO_REGISTRY)

    def use(password: str) -> None:
        create = ("create", "secret", "generic", "registry", "--type=kubernetes.io/dockerconfigjson")
        source = ("--from-file=.dockerconfigjson=/dev/stdin", "--dry-run=client", "--output=json")
        made = cluster.kubectl(*create, *source, input=credentials(registry, password))
        cluster.kubectl("apply", "--server-side", "--filename=-", input=made)
        pulls = '{"imagePullSecrets": [{"name": "registry"}]}'
        cluster.kubectl("patch", "serviceaccount", "default", f"--patch={pulls}")

    yield use
    cluster.kubectl("patch", "serviceaccount", "default", '--patch={"imagePullSecrets": []}')
    cluster.kubectl("delete", "secret", "registry")


@pytest.mark.usefixtures("tunnel")
def test_a_wrong_password_for_the_registry_is_named(hub: Hub, pull_secret: Callable[[str], None]) -> None:
    """At once, and with the registry's answer. The next test's `up`, with the right one, mends it."""
    pull_secret("wrong")
    refused = invoke(*hub.up, check=False)
    assert refused.returncode == 1
    assert "401 Unauthorized" in refused.stderr.splitlines()[-2]
    pull_secret(PASSWORD)


@pytest.mark.usefixtures("tunnel")
def test_a_user_computes_through_the_tunnel(hub: Hub, site: Site, far_end: FarEnd, tmp_path: Path) -> None:
    """With a token of the site's provider, on the site's node, and by no other way than the tunnel."""
    said = invoke(*hub.up).stdout
    assert "proofs hold" in said
    token = tmp_path / "token"
    token.write_text(invoke("token", *site.named, "--user", "alice").stdout)
    url = f"{far_end.url()}/jupyter"
    walked = invoke("verify", *hub.named, "--url", url, "--token-file", str(token)).stdout
    assert "42 alice.project1" in walked
    assert "all well" in walked


def test_images_are_pulled_by_digest(hub: Hub, cluster: Cluster, registry: str | None) -> None:
    """In both pods, and not by the tag that this host knows."""
    if not registry:
        pytest.skip(NO_REGISTRY)
    pods = cluster.get("pods", f"--selector=app.kubernetes.io/instance=jupyterhub-slurm-prod-{hub.named[-1]}")
    images = {item["name"]: item["image"] for pod in pods for item in pod["spec"]["containers"]}
    assert images["jupyterhub"].startswith(f"{registry}/{hub.named[-1]}/jupyterhub@sha256:")
    assert images["proxy"] == images["jupyterhub"]


def test_tasks_find_both_pods(hub: Hub, cluster: Cluster) -> None:
    """`logs` has those of both pods, `shell` finds the tunnel's, and `status` that all is up."""
    lines = invoke("logs", *hub.named, "--lines", "5").stdout
    for name in ("jupyterhub", "zenith-client"):  # a proxy that is well says nothing
        assert f"/{name}]" in lines
    shell = ("shell", *hub.named, "--container", "zenith-client", "--command")
    assert "zenith_key" in invoke(*shell, "ls /run/credentials/zenith-client").stdout
    shell = ("shell", *hub.named, "--container", "proxy", "--command")
    assert "configurable-http-proxy" in invoke(*shell, "ls /run/service").stdout
    invoke("logs", *hub.named, "--container", "proxy")
    listing = json.loads(invoke("status", *cluster.options, "--json").stdout)["environments"]
    (entry,) = (item for item in listing if item["instance"] == hub.named[-1])
    assert entry["state"] == "up"


def test_a_rollout_of_the_hub_leaves_servers_alone(
    hub: Hub, user: HubUser, request: pytest.FixtureRequest
) -> None:
    """A changed setting replaces the hub's pod only; users' servers answer all the while."""
    health, server = outages(user)
    with watching(health, server):
        invoke(*hub.up, "--set", "log_level=DEBUG")
    report(request, "a setting", health, server)
    assert (server.seconds, server.seen) == (0, [])
    assert user.server() is not None


def test_a_rollout_of_the_proxy_takes_over_its_routes(
    hub: Hub, cluster: Cluster, user: HubUser, request: pytest.FixtureRequest
) -> None:
    """No request for a server is lost when the proxy's pod is replaced."""
    deployment = f"deployment/jupyterhub-slurm-prod-{hub.named[-1]}-proxy"
    health, server = outages(user)
    with watching(health, server):
        cluster.kubectl("rollout", "restart", deployment)
        cluster.kubectl("rollout", "status", deployment, f"--timeout={REPLACED}s")
        time.sleep(5)  # the pod of before is still ending
    report(request, "the proxy", health, server)
    assert (server.seconds, server.seen) == (0, [])


def test_new_secrets_leave_servers_alone(hub: Hub, user: HubUser, request: pytest.FixtureRequest) -> None:
    """Both pods are replaced; the next proxy takes over the routes of one that has the earlier token."""
    health, server = outages(user)
    with watching(health, server):
        invoke("secrets", *hub.named, "--rotate")
        time.sleep(5)  # the proxy's pod of before is still ending
    report(request, "new secrets", health, server)
    assert (server.seconds, server.seen) == (0, [])


def test_a_killed_proxy_comes_back(hub: Hub, cluster: Cluster, user: HubUser) -> None:
    """In the same pod, and the hub gives it its routes again."""
    pod = f"jupyterhub-slurm-prod-{hub.named[-1]}"
    selector = f"--selector=app.kubernetes.io/component=proxy,app.kubernetes.io/instance={pod}"
    before = [pod["metadata"]["uid"] for pod in cluster.get("pods", selector)]
    kill = ("shell", *hub.named, "--container", "proxy", "--command", "sh -c 'kill 1'")
    invoke(*kill, check=False)  # it may end before it can say so

    def is_back() -> bool:
        (pod,) = cluster.get("pods", selector)
        restarts = {item["name"]: item["restartCount"] for item in pod["status"]["containerStatuses"]}
        return restarts == {"proxy": 1, "zenith-client": 0} and [pod["metadata"]["uid"]] == before

    wait_until(is_back, REPLACED, "it isn't started again")
    wait_until(lambda: http_status(outages(user)[1].url) in PASS, REPLACED, "there is no route")


def test_the_node_is_drained(
    hub: Hub, cluster: Cluster, user: HubUser, request: pytest.FixtureRequest
) -> None:
    """No disruption budget keeps it; afterwards hub and servers are there again without a hand."""
    pod = f"jupyterhub-slurm-prod-{hub.named[-1]}"
    name = cluster.get("pod", f"{pod}-0")[0]["spec"]["nodeName"]
    chosen = (f"--pod-selector=app.kubernetes.io/instance={pod}", "--delete-emptydir-data", "--timeout=90s")
    health, server = outages(user)
    with watching(health, server):
        try:
            cluster.kubectl("drain", name, *chosen)
        finally:
            cluster.kubectl("uncordon", name)
        for part in (f"statefulset/{pod}", f"deployment/{pod}-proxy"):
            cluster.kubectl("rollout", "status", part, f"--timeout={REPLACED}s")
        wait_until(lambda: httpx.get(server.url, trust_env=False).status_code in PASS, REPLACED, "no route")
    report(request, "a drained node", health, server)
    assert user.server() is not None
