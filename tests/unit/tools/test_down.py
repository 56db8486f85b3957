"""What `down` says of jobs that it can't end."""

from __future__ import annotations

from pathlib import Path

from hubenvs.definition.read import read_environment
from hubenvs.tools.down import forgotten_jobs


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
