"""From an Environment to a folder that ``kubectl apply -k`` takes; data in, text out.

What containers, variables, mounts and ports there are comes from the pod that podman plays.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from . import render
from .errors import DefinitionError
from .model import Environment
from .names import LABEL_CHECKOUT, LABEL_DIGEST, LABEL_INSTANCE, LABEL_PART_OF, TUNNEL, digest

RESOURCES = ("configmaps.yaml", "volumes.yaml", "deployment.yaml", "service.yaml", "networkpolicy.yaml")
# Not among the resources: applying the folder again must not put its placeholders over a site's Secrets.
SECRETS = "secrets.template.yaml"
# The most that a ConfigMap holds, in bytes: https://kubernetes.io/docs/concepts/configuration/configmap/
CONFIG_MAP_SIZE = 2**20
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")


def folder(env: Environment, images: Mapping[str, str], seeds: Mapping[str, Mapping[str, bytes]]) -> dict[str, str]:
    """Return the folder's files by name.

    ``images`` has each container's image reference, ``seeds`` each seeded volume's files by the volume's name. Secrets
    are named, and none has a value here. Raises DefinitionError if a template can't be rendered or its result, or a
    seed file, isn't what Kubernetes takes.
    """
    played = render.manifest(env, images, dict.fromkeys(env.secret_keys, ""), {})
    pod = next(document["spec"] for document in played if document["kind"] == "Pod")
    context: dict[str, Any] = {
        "env": env,
        "images": images,
        "pod": pod,
        # A checkout is a folder of one machine, and says nothing in a cluster.
        "labels": {key: value for key, value in env.labels.items() if key != LABEL_CHECKOUT},
        "selector": {key: env.labels[key] for key in (LABEL_PART_OF, LABEL_INSTANCE)},
        "seeds": {name: _data(name, files) for name, files in seeds.items()},
        "paths": {name: sorted(files) for name, files in seeds.items()},
        "key": configmap_key,
        "ports": {port.name: port.number for port in env.ports},
        "served": _served(env),
        "provider_port": _provider_port(env),
    }
    files = {
        "volumes.yaml": [
            {**document, "metadata": {**document["metadata"], "labels": context["labels"]}}
            for document in played
            if document["kind"] == "PersistentVolumeClaim"
        ]
    }
    for name in (*RESOURCES, SECRETS):
        if name not in files:
            files[name] = render.documents(env, f"kubernetes/{name}.j2", context)
    files = {name: content for name, content in files.items() if content}  # where nobody comes in there is no Service
    resources = [name for name in RESOURCES if name in files]
    render.check([document for content in files.values() for document in content])
    # The pod is replaced when its settings or seeds are, not only when it itself is.
    made_of = digest(*(render.dump(files[name]) for name in resources))
    (deployment,) = files["deployment.yaml"]
    deployment["spec"]["template"]["metadata"]["annotations"] = {LABEL_DIGEST: made_of}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    return {name: render.dump(content) for name, content in {**files, "kustomization.yaml": [kustomization]}.items()}


def configmap_key(path: str) -> str:
    """Return the key that a seed file at ``path`` has in its ConfigMap, where keys have no ``/``."""
    return path.replace("/", "__")


def _data(volume: str, files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Return ``files`` as the fields of a ConfigMap."""
    fields: dict[str, dict[str, str]] = {"data": {}, "binaryData": {}}
    for path, content in sorted(files.items()):
        key = configmap_key(path)
        if not _KEY.match(key) or any(key in field for field in fields.values()):
            raise DefinitionError(f"seed file {path} of {volume}: not a ConfigMap's key", "give it a plain name")
        try:
            fields["data"][key] = content.decode()
        except UnicodeDecodeError:
            fields["binaryData"][key] = base64.b64encode(content).decode()
    if sum(len(text) for field in fields.values() for text in field.values()) > CONFIG_MAP_SIZE:
        raise DefinitionError(
            f"the seed files of {volume}: more than a ConfigMap's 1 MiB", "put large ones in the image"
        )
    return {name: field for name, field in fields.items() if field}


def _served(env: Environment) -> dict[str, int]:
    """Return the ports that others than the pod itself come to, by name."""
    ports = {port.name: port.number for port in env.ports}
    if "gateway" in ports or TUNNEL in env.containers:  # the way to the hub is in the pod
        ports.pop("jupyterhub", None)
    return ports


def _provider_port(env: Environment) -> int | None:
    """Return the port of an OpenID Connect provider that isn't in the pod."""
    if env.auth.kind == "dummy" or "oidc-provider" in env.containers:
        return None
    url = urlsplit(env.settings["DEPLOY_CONFIG_OIDC_SERVER"])
    return url.port or (80 if url.scheme == "http" else 443)
