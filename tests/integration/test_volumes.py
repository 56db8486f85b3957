"""Volumes that outlive their pod."""

from __future__ import annotations

import pytest

from .helpers import ROOT, STOP, Deployment, entry, invoke, spawned, wait_until

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


def test_kept_volumes_are_found_again(deployment: Deployment) -> None:
    """`down --keep-volumes`, then `up`: the hub's users and the key to their data are there still.

    A server that ran has failed with its job, and another can be started.
    """
    with deployment.user() as user:
        job = spawned(deployment, user)
    invoke("down", *deployment.options, "--keep-volumes")
    status = entry(deployment.instance)
    assert status is not None
    assert status["state"] == "partial"
    assert len(status["volumes"]) == 5
    kept = ROOT / ".deploy" / f"{deployment.env}-{deployment.instance}" / "secrets"
    assert [path.name for path in kept.iterdir()] == ["crypt_keys"]
    invoke("up", *deployment.options, *deployment.settings)
    query = "sqlite3.connect('/var/lib/jupyterhub/jupyterhub.sqlite').execute('select name from users').fetchall()"
    database = deployment.run_in("jupyterhub", "python3", "-c", f"import sqlite3; print({query})")
    assert "alice" in database
    assert "JobState=NODE_FAIL" in deployment.run_in("slurm", "scontrol", "show", "job", job)
    with deployment.user() as user:
        wait_until(lambda: user.server() is None, STOP, "the hub has not noticed")
        assert int(spawned(deployment, user)) > int(job)
        user.stop(STOP)
    wait_until(lambda: not deployment.jobs(), STOP, "its job is still there")
