"""Volumes that outlive their pod."""

from __future__ import annotations

import re
import shlex

import httpx
import pytest

from .helpers import (
    ACCOUNT,
    FURTHER,
    HOME,
    ROOT,
    STOP,
    Deployment,
    Engine,
    entry,
    free_port,
    invoke,
    settings,
    spawned,
    wait_until,
)

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


@pytest.mark.environments("dev_dummyauth")
@pytest.mark.skipif("hub.version=6.1" not in FURTHER, reason='its images are built by `nox -s "hub(6.1)"`')
def test_a_newer_jupyterhub_and_the_way_back(instance: str, engine: Engine) -> None:
    """A user, a token and a file are there after `hub.version: "6.1"`, and after docs/site.md's way back."""
    env, name = "dev_dummyauth", f"{instance}-u"
    named, port = ("--env", env, "--instance", name), settings(publish__jupyterhub=f"127.0.0.1:{free_port()}")
    try:
        invoke("up", *named, *port)
        deployment = Deployment(env, name, entry(name) or {}, engine)
        url = deployment.status["url"]
        write = ("runuser", "-u", ACCOUNT, "--", "sh", "-c", f"echo kept >{HOME}/kept")
        deployment.run_in("slurm", *write)
        with deployment.user() as user:
            token = user.api("POST", "/users/alice/tokens").json()["token"]

        def seen() -> tuple[str, str, str]:
            """Return the version of the hub, whose the token is, and what is in the file."""
            with httpx.Client(headers={"Authorization": f"token {token}"}, trust_env=False) as http:
                found, hub = (http.get(f"{url}/hub/api{path}").json() for path in ("/user", "/"))
            return hub["version"][:4], found["name"], deployment.run_in("slurm", "cat", f"{HOME}/kept")

        assert seen() == ("5.5.", "alice", "kept")
        invoke("up", *named, *port, *settings(hub__version="6.1"))
        assert seen() == ("6.1.", "alice", "kept")

        find = ("find", "/var/lib/jupyterhub", "-name", "jupyterhub.sqlite.*")
        (copy,) = deployment.run_in("jupyterhub", *find).split()
        page = (ROOT / "docs/site.md").read_text().replace("<time>", copy.rpartition(".sqlite.")[2])
        section = page.partition("**To go back**")[2].partition("\n**")[0].replace("\\\n", "")
        commands = [
            shlex.split(line, comments=True) for line in re.findall("^    invoke (.*)", section, re.M)
        ]
        assert [command[:3] for command in commands] == [
            [task, "--env", "prod"] for task in ("shell", "shell", "up")
        ]
        for task, _, _, *rest in commands:
            invoke(task, *named, *rest, *(port if task == "up" else ()))
        assert seen() == ("5.5.", "alice", "kept")
    finally:
        invoke("down", *named)
