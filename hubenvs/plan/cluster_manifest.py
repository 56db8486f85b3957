"""The folder for ``kubectl apply -k``, with the containers, variables, mounts and ports of the pod."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import jinja2

from ..definition.container_settings import container_settings
from ..definition.containers import CONTAINERS, HUB_ID, PORTS, PROXY, TUNNEL, Container, Resources
from ..definition.environment import Environment
from ..definition.names import LABEL_SECRETS
from ..errors import DefinitionError
from ..files import Tree, digest, is_program
from .manifest import (
    Document,
    Documents,
    can_be_restricted,
    check_references,
    dump,
    find_pod,
    manifest,
    render_template,
)
from .workloads import PROXY_API, PROXY_SETTINGS, Workload, plan_workloads, selector

APPLIED = (
    "configmaps.yaml",
    "volumes.yaml",
    "service.yaml",  # before the pods that are told its address
    "statefulset.yaml",
    "deployment.yaml",
    "networkpolicy.yaml",
    "poddisruptionbudget.yaml",
    "ingress.yaml",
)
# Not one of the resources: applying the folder again must not replace a site's Secrets by placeholders.
SECRETS = "secrets.template.yaml"
# What is left out for servers before a version: a range of ports, and a sysctl that their kubelets refuse.
LEFT_OUT_BEFORE = {"endPort": (1, 22), "sysctls": (1, 22)}
# A server of this version lacks nothing.
NEWEST = (99,)
# The most that a ConfigMap holds, in bytes: https://kubernetes.io/docs/concepts/configuration/configmap/
CONFIG_MAP_SIZE = 2**20
# Stands for each value in the template of the Secrets; entrypoints refuse it.
PLACEHOLDER = "REPLACE"
PROXY_MEMORY = "512Mi"  # of the proxy in a pod of its own, at most
# A StatefulSet's pods have a label with its name and a digest, of 63 characters at most.
NAME_LENGTH = 52
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")


def kustomize_folder(files: Mapping[str, list[Document]]) -> dict[str, str]:
    """Return the folder for `kubectl apply -k`, by file; ``files``: from `cluster_manifest`."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [name for name in APPLIED if name in files],
    }
    return {name: dump(content) for name, content in {**files, "kustomization.yaml": [kustomization]}.items()}


def cluster_manifest(
    env: Environment,
    templates: jinja2.Environment,
    images: Mapping[str, str],
    seeds: Mapping[str, Tree],
    version: tuple[int, ...] = NEWEST,
    secrets: str = "",
) -> dict[str, list[Document]]:
    """Return the folder's documents by file name.

    ``images`` has the image reference of each container, ``seeds`` the seed files by the volume's name.
    ``version``: the server's; fields that it lacks are left out. ``secrets``: versions of the Secrets, a
    change of which replaces the pod. The Secrets' values are placeholders. Raises DefinitionError if a
    template can't be rendered, or if the result or a seed file isn't valid in Kubernetes.
    """
    if len(env.pod) > NAME_LENGTH:
        problem = f"{env.pod}: a StatefulSet's name has {NAME_LENGTH} characters at most"
        raise DefinitionError(problem, "choose a shorter environment or instance name")
    env = env.model_copy(update={"engine": "kubernetes"})  # for `render` it isn't set
    restricted = can_be_restricted(env)
    played = manifest(env, templates, images, dict.fromkeys(env.secret_keys, ""), restricted)
    pod = find_pod(played)["spec"]
    workloads = plan_workloads(env, pod)
    context: dict[str, Any] = {
        "env": env,
        "version": version,
        "images": images,
        "workloads": workloads,
        "labels": env.labels,
        "selector": selector(env),
        "annotations": {LABEL_SECRETS: secrets} if secrets else {},
        "placeholder": PLACEHOLDER,
        **_config_maps(env, workloads, seeds),
        **_containers(env, pod, restricted),
        "served": _served(env),
        "provider_port": _provider_port(env),
    }
    files = {"volumes.yaml": _claims(env, played)}
    of_kind = {"StatefulSet": "statefulset.yaml", "Deployment": "deployment.yaml"}
    for workload in workloads:  # one template: their pods are alike
        files[of_kind[workload.kind]] = render_template(
            templates, "kubernetes/statefulset.yaml.j2", {**context, "workload": workload}
        )
    for name in (*APPLIED, SECRETS):
        if name not in files and name != "deployment.yaml":
            files[name] = render_template(templates, f"kubernetes/{name}.j2", context)
    files = {name: content for name, content in files.items() if content}  # without a served port: no Service
    check_references([document for content in files.values() for document in content])
    return files


def _config_maps(
    env: Environment, workloads: Sequence[Workload], seeds: Mapping[str, Tree]
) -> dict[str, Any]:
    """Return the templates' variables about ConfigMaps: settings of each workload, seed files, names."""
    settings = container_settings(env)
    of_proxy_keys = [f"DEPLOY_CONFIG_{name}" for name in PROXY_SETTINGS]
    of_proxy = {key: settings[key] for key in of_proxy_keys}
    of_workloads = {item.settings: of_proxy if item.component == PROXY else settings for item in workloads}
    data = {name: _data(name, files) for name, files in seeds.items()}
    contents = {name: json.dumps(value) for name, value in (of_workloads | data).items()}
    return {
        "settings": of_workloads,
        "seeds": data,
        "modes": {name: _modes(files) for name, files in seeds.items()},
        "seeded": [volume.suffix for volume in env.volumes if volume.seeded],
        "config_maps": {name: f"{name}-{digest(content)}" for name, content in contents.items()},
        "key": configmap_key,
    }


def _containers(env: Environment, pod: Document, restricted: bool) -> dict[str, Any]:
    """Return the templates' variables about the containers of ``pod``, a pod's spec."""
    return {
        "rows": {**CONTAINERS, PROXY: Container(PROXY, resources=Resources("100m", "128Mi", "2"))},
        "memory": {name: limit.memory for name, limit in env.limits.items()} | {PROXY: PROXY_MEMORY},
        "api": {"proxy": PROXY_API, "hub": PORTS["hub-api"].number},
        "restricted": restricted,
        "group": HUB_ID,
        "security": {item["name"]: item["securityContext"] for item in pod["containers"]},
        "seed_resources": Resources(),
    }


def _claims(env: Environment, played: Documents) -> list[Document]:
    """Return the claims among ``played``; seed files are ConfigMaps instead of volumes."""
    seeded = {volume.name for volume in env.volumes if volume.seeded}
    return [
        document
        for document in played
        if document["kind"] == "PersistentVolumeClaim" and document["metadata"]["name"] not in seeded
    ]


def left_out(env: Environment, version: tuple[int, ...]) -> list[str]:
    """Return the features in `LEFT_OUT_BEFORE` that ``env`` needs and a server of ``version`` lacks."""
    needed = {"endPort": "slurm" not in env.containers, "sysctls": "slurm" in env.containers}
    return [name for name, since in LEFT_OUT_BEFORE.items() if version < since and needed[name]]


def components(env: Environment) -> tuple[str, ...]:
    """Return the component label of each pod of ``env``."""
    return ("hub", PROXY) if env.proxy_apart else ("hub",)


def configmap_key(path: str) -> str:
    """Return the ConfigMap key of the seed file ``path``; such keys have no ``/``."""
    return path.replace("/", "__")


def _data(volume: str, files: Tree) -> dict[str, dict[str, str]]:
    """Return ``files`` as the fields `data` and `binaryData` of a ConfigMap."""
    fields: dict[str, dict[str, str]] = {"data": {}, "binaryData": {}}
    for path, content in sorted(files.items()):
        key = configmap_key(path)
        if not _KEY.match(key) or any(key in field for field in fields.values()):
            problem = f"seed file {path} of {volume}: not a ConfigMap's key"
            raise DefinitionError(problem, "give it a plain name")
        try:
            fields["data"][key] = content.decode()
        except UnicodeDecodeError:
            fields["binaryData"][key] = base64.b64encode(content).decode()
    if sum(map(len, files.values())) > CONFIG_MAP_SIZE:
        problem = f"the seed files of {volume}: more than a ConfigMap's 1 MiB"
        raise DefinitionError(problem, "put large ones in the image")
    return {name: field for name, field in fields.items() if field}


def _modes(files: Tree) -> dict[str, int]:
    """Return the mode of each of ``files`` in a ConfigMap's volume."""
    return {name: 0o755 if is_program(files[name]) else 0o644 for name in sorted(files)}


def _served(env: Environment) -> dict[str, int]:
    """Return the ports of the Service for users, by name."""
    ports = {port.name: port.number for port in env.ports}
    if "gateway" in ports or TUNNEL in env.containers:  # these reach the hub inside the pod
        ports.pop("jupyterhub", None)
    if env.proxy_apart:
        ports.pop("hub-api", None)  # a Service of its own, beside the proxy's
    return ports


def _provider_port(env: Environment) -> int | None:
    """Return the port of a provider outside the pod, or of the web proxy to it; None if there is none."""
    if env.auth.kind == "dummy" or "oidc-provider" in env.containers:
        return None
    url = urlsplit(env.auth.proxy or env.issuer)
    return url.port or (80 if url.scheme == "http" else 443)
