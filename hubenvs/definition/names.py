"""Names of the resources that belong to a deployment, and the labels by which they are found."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..files import digest
from .containers import CONTAINERS, PROXY

PART_OF = "jupyterhub-slurm"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_ENVIRONMENT = "app.kubernetes.io/name"
LABEL_VERSION = "app.kubernetes.io/version"
LABEL_STAGE = "jupyterhub-slurm/stage"
LABEL_CHECKOUT = "jupyterhub-slurm/checkout"
LABEL_FINGERPRINT = "jupyterhub-slurm/fingerprint"
LABEL_MIRRORS = "jupyterhub-slurm/mirrors"  # of images: digest of the mirrors' packages at the last refresh
LABEL_COMPONENT = "app.kubernetes.io/component"  # of a cluster's pods
LABEL_SECRETS = "jupyterhub-slurm/secrets"  # an annotation of the pod: versions of its Secrets

SERVICE_ACCOUNT = "jupyterspawner"  # the hub logs in as this account where Slurm is
WORKING_COPIES = "_dev_build_data"  # folder of the working copies, beside the image's Containerfile
# Hosts of URLs that lead nowhere from another machine or a container.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The pod's name becomes the value of a label, a Service's name and a host name: 63 characters at most.
POD_NAME_LENGTH = 63
# podman<5: 4.3 accepts no longer name of a Secret, Kubernetes does.
SECRET_NAME_LENGTH = 64
# Folders of a container's root file system that get a volume where the rest is read-only.
SCRATCH = ("run", "tmp")

_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")


def environment_names(root: Path) -> tuple[str, ...]:
    """Return the names of the environments defined under ``root``/envs."""
    return tuple(sorted(path.parent.name for path in (root / "envs").glob("*/env.yaml")))


def pod_name(environment: str, instance: str | None) -> str:
    """Return the name of the pod, valid in Kubernetes."""
    stem = f"{PART_OF}-{environment.replace('_', '-')}"
    return f"{stem}-{instance}" if instance else stem


def container_name(pod: str, container: str) -> str:
    """Return the name under which the engine runs ``container`` of ``pod``; its Secret has the same name."""
    return f"{pod}-{container}"


def scratch_volume(pod: str, folder: str, container: str) -> str:
    """Return the name of the emptyDir volume at /``folder`` of ``container``."""
    # By number, since Kubernetes takes 63 characters, and the names of a pod and a container may have 64.
    return f"{pod}-{folder}-{list(CONTAINERS).index(container)}"


def scratch_volumes(pod: str) -> set[str]:
    """Return the names that the `scratch_volume` of each container of ``pod`` can have."""
    return {scratch_volume(pod, folder, container) for container in CONTAINERS for folder in SCRATCH}


def container_uid(name: str) -> str | None:
    """Return the numeric user of the container with the `container_name` ``name``; None for root."""
    uid = next((row.uid for row in CONTAINERS.values() if name.endswith(f"-{row.name}")), 0)
    return str(uid) if uid else None


def checkout_id(root: Path) -> str:
    """Return a digest of the path ``root``; the path itself isn't valid as a label's value."""
    return digest(os.fsencode(root.resolve()))  # a name on Linux need not be text


def deploy_folders(root: Path) -> Path:
    """Return the path of the folder with all deploy folders of the checkout ``root``."""
    return root / ".deploy"


def deploy_folder(root: Path, environment: str, instance: str | None) -> Path:
    """Return the path of a deployment's folder, which need not exist."""
    return deploy_folders(root) / (f"{environment}-{instance}" if instance else environment)


def check_environment(name: str) -> str:
    """Return ``name``; raise ValueError unless an environment can have it."""
    if not _ENVIRONMENT_NAME.match(name):
        raise ValueError("an environment's name has lower-case letters, digits and '_', a letter first")
    return name


def check_instance(name: str | None) -> str | None:
    """Return ``name`` (None: no instance); raise ValueError unless it can be part of Kubernetes names."""
    if name is not None and not _INSTANCE_NAME.match(name):
        raise ValueError("an instance's name has lower-case letters, digits and '-' inside")
    if name in (*CONTAINERS, PROXY):
        raise ValueError("this is a container's name")
    return name
