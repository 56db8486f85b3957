"""The names of everything that the suite makes, and the labels by which it finds them again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

PART_OF = "jupyterhub-slurm"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_ENVIRONMENT = "app.kubernetes.io/name"
LABEL_CHECKOUT = "jupyterhub-slurm/checkout"
LABEL_DIGEST = "jupyterhub-slurm/digest"
# The digest without what `reload` can bring into a running pod: working copies and seed files.
LABEL_RECIPE = "jupyterhub-slurm/recipe"

# Which image carries which development repository.
REPOSITORIES = {"bricsauthenticator": "jupyterhub", "slurmspawner_wrappers": "slurm"}
SERVICE_ACCOUNT = "jupyterspawner"  # as which the hub logs in where Slurm is
WORKING_COPIES = "_dev_build_data"  # the folder that their working copies are in, beside the image's Containerfile
# The containers that stand in for an identity provider elsewhere.
IDENTITY = ("oidc-provider", "gateway")
TUNNEL = "zenith-client"
ACCOUNTING = "accounting"  # there when slurm.accounting is set
CONTAINERS = ("jupyterhub", "slurm", *IDENTITY, ACCOUNTING, TUNNEL)
# The pod's name is the value of a label, a Service's name and a host's name: 63 characters at most.
POD_NAME_LENGTH = 63

_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")


def environment_names(root: Path) -> tuple[str, ...]:
    """Return the names of the environments defined under ``root``/envs."""
    return tuple(sorted(path.parent.name for path in (root / "envs").glob("*/env.yaml")))


def pod_name(environment: str, instance: str | None) -> str:
    """Return the pod's name of ``environment``, valid in Kubernetes."""
    stem = f"{PART_OF}-{environment.replace('_', '-')}"
    return f"{stem}-{instance}" if instance else stem


def part_name(pod: str, container: str) -> str:
    """Return what podman calls ``container`` of ``pod``, and we the Secret that it mounts."""
    return f"{pod}-{container}"


def checkout_id(root: Path) -> str:
    """Return a short name for the checkout at ``root``: a path isn't valid as a label's value, its digest is."""
    return digest(str(root.resolve()))


def deploy_folder(root: Path, environment: str, instance: str | None) -> Path:
    """Return the deploy folder's path of an environment (which need not exist)."""
    return root / ".deploy" / (f"{environment}-{instance}" if instance else environment)


def check_instance(name: str | None) -> None:
    """Raise ValueError unless ``name`` (None for none) can be part of Kubernetes names, and of no container's."""
    if name is not None and not _INSTANCE_NAME.match(name):
        raise ValueError("an instance's name has lower-case letters, digits and '-' inside")
    if name in CONTAINERS:
        raise ValueError("a container has that name, so the pod would be called like one")


def digest(*parts: str | bytes | Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of ``parts``; a mapping counts with its names, in order of name."""
    total = hashlib.sha256()
    for part in parts:
        chunks = [item for name in sorted(part) for item in (name, part[name])] if isinstance(part, Mapping) else [part]
        for chunk in chunks:
            data = chunk.encode() if isinstance(chunk, str) else chunk
            # The length first, so that ("ab", "c") and ("a", "bc") differ.
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]
