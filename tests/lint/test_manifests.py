"""The manifests of every environment, against the official Kubernetes schemas."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
from hubenvs.keys import ssh_key_pair
from hubenvs.names import environment_names

from hubenvs import load, render, site, state

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = environment_names(ROOT)
# Kubernetes supports its three newest minors.
MAJOR, NEWEST, *_ = kubernetes_validate.latest_version().split(".")
VERSIONS = (f"{MAJOR}.{int(NEWEST) - 2}", f"{MAJOR}.{NEWEST}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_manifest_is_valid_kubernetes(root: Path, name: str, version: str) -> None:
    """Every document that podman plays is one that a cluster's API would take."""
    env = load.load(root, name)
    images = dict.fromkeys(env.containers, "localhost/image:1")
    for document in render.manifest(env, images, dict.fromkeys(env.secret_keys, "secret"), {}):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_examples_of_a_sites_files_can_be_used(root: Path, name: str) -> None:
    """Who copies the examples and makes keys is refused nothing: the host that they name has its key beside it."""
    env = load.load(root, name)
    if env.slurm_elsewhere:
        site.init(env)
    if "zenith_key" in env.site_files:
        key = env.site_files["zenith_key"]
        for path, content in zip((key, key.with_name(f"{key.name}.pub")), ssh_key_pair("zenith"), strict=True):
            state.write(path, content)
    assert site.read(env).keys() == env.site_files.keys()
