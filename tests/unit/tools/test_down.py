"""What `down` keeps, and what it says of jobs that it can't end."""

from __future__ import annotations

from pathlib import Path

from hubenvs.definition.environment import Environment
from hubenvs.definition.names import checkout_id
from hubenvs.definition.read import read_environment
from hubenvs.deployment import folder
from hubenvs.deployment.existing import Existing
from hubenvs.engines.engine import Listing
from hubenvs.tools.down import _take_down, forgotten_jobs
from tests.unit.helpers import in_lab


def test_jobs_at_a_site_outlive_the_hub_that_knew_them(root: Path) -> None:
    """With its volumes a hub forgets its servers; those in the pod's own Slurm are gone with it."""
    (root / "envs/dev_dummyauth_extslurm/dev_users").write_text("alice.project1\n")
    addresses = ["publish.hub-api=192.0.2.1:8081", "slurm.hub_connect_url=http://192.0.2.1:8081"]
    site = ["slurm.ssh_hostname=login.example.org", *addresses]
    env = read_environment(root, "dev_dummyauth_extslurm", settings=site)
    assert "To end them at login.example.org, as root: scancel --name=jupyterhub" in forgotten_jobs(
        env.model_dump(mode="json")
    )
    assert forgotten_jobs(read_environment(root, "dev_dummyauth").model_dump(mode="json")) == ""
    assert forgotten_jobs({}) == ""


def test_no_crypt_key_is_lost(root: Path, env: Environment) -> None:
    """The cluster's is kept with the volumes, and so is one that only this checkout has."""
    folder.write_secrets(env.deploy_folder, {"crypt_keys": "here", "cookie_secret": "here"})
    listing = Listing(secrets=frozenset({env.container_name("jupyterhub")}))
    existing = Existing(env.pod, env.name, checkout_id(root), listing)
    _take_down(existing, root, in_lab(env, {"crypt_keys": "there"}).engine, keep_volumes=True)
    assert folder.read_secrets(env.deploy_folder) == {"crypt_keys": "there;here"}
