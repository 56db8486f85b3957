"""The manifests of every environment, against the official Kubernetes schemas."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest

from hubenvs.definition.names import environment_names
from hubenvs.definition.read import read_environment
from hubenvs.deployment.site import create_key_pair, read_site_files
from hubenvs.deployment.sources import read_templates
from hubenvs.files import write
from hubenvs.plan.keys import ssh_key_pair
from hubenvs.plan.manifest import manifest

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = environment_names(ROOT)
# Kubernetes supports its three newest minors.
MAJOR, NEWEST, *_ = kubernetes_validate.latest_version().split(".")
VERSIONS = (f"{MAJOR}.{int(NEWEST) - 2}", f"{MAJOR}.{NEWEST}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_manifest_is_valid_kubernetes(root: Path, name: str, version: str) -> None:
    """Every document that podman plays is one that a cluster's API would take."""
    env = read_environment(root, name)
    images = dict.fromkeys(env.containers, "localhost/image:1")
    values = dict.fromkeys(env.secret_keys, "secret")
    for document in manifest(env, read_templates(root), images, values):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_examples_of_a_sites_files_can_be_used(root: Path, name: str) -> None:
    """With the examples copied and keys made nothing is missing: their known_hosts has the host's key."""
    env = read_environment(root, name)
    if env.slurm_elsewhere:
        create_key_pair(env)
    if "zenith_key" in env.site_files:
        key = env.site_files["zenith_key"]
        for path, content in zip(
            (key, key.with_name(f"{key.name}.pub")), ssh_key_pair("zenith"), strict=True
        ):
            write(path, content)
    assert read_site_files(env).keys() == env.site_files.keys()
