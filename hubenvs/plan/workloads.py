"""The workloads in a cluster: a StatefulSet, and with Slurm elsewhere a Deployment for the proxy.

Users reach their servers through the proxy. In a Deployment of its own it outlives a rollout of the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..definition.containers import CONTAINERS, FRONT_ENDS, PORTS, PROXY, Probe
from ..definition.environment import Environment
from ..definition.names import LABEL_COMPONENT, LABEL_INSTANCE, LABEL_PART_OF
from .manifest import Document

PROXY_SERVICE = "configurable-http-proxy"  # of the hub's image
PROXY_API = 8001
HUB_SECRET = "credentials-jupyterhub"  # the volume in manifests/pod.yaml.j2
# The variables that the containers of the proxy's pod read: a changed one replaces it, others don't.
PROXY_SETTINGS = (
    "BASE_URL", "SUBDOMAIN_HOST", "PROXY_ADDRESS", "ZENITH_SERVER_ADDRESS", "ZENITH_SERVER_PORT",
)  # fmt: skip

# Each container's ports by name; each container's readiness and liveness probe.
Ports = Mapping[str, Mapping[str, int]]
Probes = Mapping[str, tuple[Document | None, Document | None]]


@dataclass(frozen=True)
class Workload:
    """A StatefulSet or a Deployment, of one pod. ``spec`` is the pod's, ``settings`` the ConfigMap's name."""

    kind: str
    name: str
    component: str
    settings: str
    spec: Document
    ports: Ports
    probes: Probes
    selector: Mapping[str, str]


def plan_workloads(env: Environment, pod: Document) -> tuple[Workload, ...]:
    """Return the workloads whose pods together have the containers of ``pod``, a pod's spec."""
    ports: Ports = {
        name: {port.name: port.number for port in env.ports if port.container == name}
        for name in env.containers
    }
    probes: Probes = {row.name: (_probe(env, row.ready), _probe(env, row.alive)) for row in env.rows}
    if env.proxy_apart:
        return _hub_and_proxy(env, pod, ports, probes)
    return (_hub(env, pod, ports, probes),)


def _hub(env: Environment, spec: Document, ports: Ports, probes: Probes) -> Workload:
    labels = {**selector(env), LABEL_COMPONENT: "hub"}
    return Workload("StatefulSet", env.pod, "hub", env.config_map, spec, ports, probes, labels)


def _hub_and_proxy(
    env: Environment, pod: Document, ports: Ports, probes: Probes
) -> tuple[Workload, Workload]:
    """Return two workloads: the hub's, and one for the proxy and the containers in front of it."""
    in_front = [item for item in pod["containers"] if item["name"] in FRONT_ENDS]
    behind = [item for item in pod["containers"] if item not in in_front]
    (combined,) = (item for item in behind if item["name"] == "jupyterhub")
    hub = {**combined, "args": ["jupyterhub"], "env": _services(env)}
    behind[behind.index(combined)] = hub
    hub_ports = dict(ports["jupyterhub"])
    proxy_ports = {"jupyterhub": hub_ports.pop("jupyterhub"), "proxy-api": PROXY_API}
    ports = {**ports, "jupyterhub": hub_ports, PROXY: proxy_ports}
    health = {"path": f"{env.base_path}/hub/health", "port": PORTS["hub-api"].number}
    alive = _probe(env, CONTAINERS["jupyterhub"].alive)
    probes = {
        **probes,
        # Nothing restarts a hub's container: s6 restarts a hub that ends, and a backup stops it.
        "jupyterhub": ({"httpGet": health}, None),
        PROXY: ({"exec": {"command": ["proxy-ready"]}}, alive),
    }
    name, labels = env.container_name(PROXY), {**selector(env), LABEL_COMPONENT: PROXY}
    spec = _pod_with(pod, [_proxy(env, combined), *in_front])
    spec["volumes"] = [_token_only(volume) for volume in spec["volumes"]]
    return (
        _hub(env, _pod_with(pod, behind), ports, probes),
        Workload("Deployment", name, PROXY, f"{name}-config", spec, ports, probes, labels),
    )


def _proxy(env: Environment, hub: Document) -> Document:
    """Return the container of the proxy, which runs the image of ``hub``."""
    mounts = [
        mount
        for mount in hub["volumeMounts"]
        if mount["name"] == HUB_SECRET or mount["mountPath"] in ("/run", "/tmp")
    ]
    return {**hub, "name": PROXY, "args": [PROXY_SERVICE], "env": _services(env), "volumeMounts": mounts}


def selector(env: Environment) -> dict[str, str]:
    """Return the labels that select the objects of ``env``."""
    return {key: env.labels[key] for key in (LABEL_PART_OF, LABEL_INSTANCE)}


def _pod_with(pod: Document, containers: Iterable[Document]) -> Document:
    """Return ``pod`` with these ``containers``, and the volumes that they mount."""
    containers = list(containers)
    mounted = {mount["name"] for item in containers for mount in item["volumeMounts"]}
    return {
        **pod,
        "containers": containers,
        "volumes": [volume for volume in pod["volumes"] if volume["name"] in mounted],
    }


def _token_only(volume: Document) -> Document:
    """Return ``volume``; if it is the hub's Secret, with only the token of the proxy's API."""
    if volume["name"] != HUB_SECRET:
        return volume
    items = [{"key": key, "path": key} for key in ("format", "proxy_token")]
    return {**volume, "secret": {**volume["secret"], "items": items}}


def _services(env: Environment) -> list[Document]:
    """Return the variables with the Services' addresses of hub and proxy, which need no DNS then."""
    return [
        {
            "name": f"DEPLOY_CONFIG_{name}_SERVICE",
            "value": f"$({service_variable(env.container_name(container))})",
        }
        for name, container in (("HUB", "jupyterhub"), ("PROXY", PROXY))
    ]


def service_variable(name: str) -> str:
    """Return the variable that the kubelet sets to the address of the Service ``name``."""
    return f"{name.upper().replace('-', '_')}_SERVICE_HOST"


def _probe(env: Environment, probe: Probe | None) -> dict[str, Any] | None:
    """Return ``probe`` as Kubernetes takes it."""
    numbers = {port.name: port.number for port in env.ports}
    if probe is None or not (probe.command or probe.port in numbers):
        return None
    on_loopback = probe.port == "jupyterhub" and env.proxy_address == "127.0.0.1"
    if probe.port is None or on_loopback:
        return {"exec": {"command": list(probe.command)}}
    port = {"port": numbers[probe.port]}
    if probe.path is None:
        return {"tcpSocket": port}
    base = env.base_path if probe.below_base_url else ""
    return {"httpGet": {"path": base + probe.path, **port}}
