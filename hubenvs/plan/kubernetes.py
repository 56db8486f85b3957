"""The folder for ``kubectl apply -k``, with the containers, variables, mounts and ports of the pod."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import jinja2

from ..definition.containers import CONTAINERS, TUNNEL, Resources
from ..definition.environment import Environment
from ..definition.names import LABEL_CHECKOUT, LABEL_FINGERPRINT, LABEL_INSTANCE, LABEL_PART_OF
from ..definition.settings import container_settings
from ..errors import DefinitionError
from ..files import Tree, digest
from .manifest import Document, check, dump, manifest, render

RESOURCES = ("configmaps.yaml", "volumes.yaml", "deployment.yaml", "service.yaml", "networkpolicy.yaml")
# Not one of the resources: applying the folder again must not replace a site's Secrets by placeholders.
SECRETS = "secrets.template.yaml"
# The most that a ConfigMap holds, in bytes: https://kubernetes.io/docs/concepts/configuration/configmap/
CONFIG_MAP_SIZE = 2**20
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")


def folder(
    env: Environment, templates: jinja2.Environment, images: Mapping[str, str], seeds: Mapping[str, Tree]
) -> dict[str, str]:
    """Return the folder's files by name.

    ``images`` has the image reference of each container, ``seeds`` the seed files by the volume's name. The
    Secrets' values are placeholders. Raises DefinitionError if a template can't be rendered, or if the result
    or a seed file isn't valid in Kubernetes.
    """
    played = manifest(env, templates, images, dict.fromkeys(env.secret_keys, ""))
    pod = next(document["spec"] for document in played if document["kind"] == "Pod")
    context: dict[str, Any] = {
        "env": env,
        "settings": container_settings(env),
        "images": images,
        "pod": pod,
        # The checkout is a path of one machine, without meaning in a cluster.
        "labels": {key: value for key, value in env.labels.items() if key != LABEL_CHECKOUT},
        "selector": {key: env.labels[key] for key in (LABEL_PART_OF, LABEL_INSTANCE)},
        "seeds": {name: _data(name, files) for name, files in seeds.items()},
        "paths": {name: sorted(files) for name, files in seeds.items()},
        "key": configmap_key,
        "rows": CONTAINERS,
        "seed_resources": Resources(),
        "probes": _probes(env),
        "served": _served(env),
        "provider_port": _provider_port(env),
    }
    files: dict[str, list[Document]] = {
        "volumes.yaml": [
            {**document, "metadata": {**document["metadata"], "labels": context["labels"]}}
            for document in played
            if document["kind"] == "PersistentVolumeClaim"
        ]
    }
    for name in (*RESOURCES, SECRETS):
        if name not in files:
            files[name] = render(templates, f"kubernetes/{name}.j2", context)
    resources = [name for name in RESOURCES if files[name]]  # without a served port there is no Service
    files = {name: content for name, content in files.items() if content}
    check([document for content in files.values() for document in content])
    # A change to settings or seed files has to replace the pod as well.
    content = digest(*(dump(files[name]) for name in resources))
    (deployment,) = files["deployment.yaml"]
    deployment["spec"]["template"]["metadata"]["annotations"] = {LABEL_FINGERPRINT: content}
    version = "kustomize.config.k8s.io/v1beta1"
    kustomization = {"apiVersion": version, "kind": "Kustomization", "resources": resources}
    return {name: dump(content) for name, content in {**files, "kustomization.yaml": [kustomization]}.items()}


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
    if sum(len(text) for field in fields.values() for text in field.values()) > CONFIG_MAP_SIZE:
        problem = f"the seed files of {volume}: more than a ConfigMap's 1 MiB"
        raise DefinitionError(problem, "put large ones in the image")
    return {name: field for name, field in fields.items() if field}


def _served(env: Environment) -> dict[str, int]:
    """Return the ports of the Service, by name."""
    ports = {port.name: port.number for port in env.ports}
    if "gateway" in ports or TUNNEL in env.containers:  # these reach the hub inside the pod
        ports.pop("jupyterhub", None)
    return ports


def _provider_port(env: Environment) -> int | None:
    """Return the port of a provider outside the pod, None if there is none."""
    if env.auth.kind == "dummy" or "oidc-provider" in env.containers:
        return None
    url = urlsplit(env.issuer)
    return url.port or (80 if url.scheme == "http" else 443)


def _probes(env: Environment) -> dict[str, dict[str, Any]]:
    """Return the probe of each container that Kubernetes can reach."""
    numbers = {port.name: port.number for port in env.ports} | {"ssh": env.slurm.ssh_port}
    result: dict[str, dict[str, Any]] = {}
    for row in env.rows:
        if row.probe is None or row.probe.port not in numbers:
            continue
        port = {"port": numbers[row.probe.port]}
        path = row.probe.path
        if row.probe.port == "jupyterhub" and env.proxy_address == "127.0.0.1":
            result[row.name] = {"exec": {"command": ["hub-health"]}}
            continue
        result[row.name] = (
            {"httpGet": {"path": env.base_url.rstrip("/") + path, **port}} if path else {"tcpSocket": port}
        )
    return result
