"""The images of `stage: prod`: what is in them, and that they do what those of `stage: dev` do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubenvs.engine import Engine

from .conftest import Deployment, entry, invoke

pytestmark = pytest.mark.environments("dev_dummyauth")

# In each container: the Python that has the package, and the package.
INSTALLED = {
    "jupyterhub": ("/opt/jupyterhub/bin/python", "bricsauthenticator"),
    "slurm": ("/opt/slurmspawner_wrappers/bin/python", "slurmspawner_wrappers"),
}


@pytest.fixture(scope="module")
def prod(env_name: str, instance: str, engine: Engine) -> Iterator[Deployment]:
    """The environment with its packages installed, beside the one that has working copies."""
    name = f"{instance}-prod"
    try:
        invoke("up", "--env", env_name, "--instance", name, "--set", "stage=prod")
        status = entry(name)
        assert status is not None
        yield Deployment(env_name, name, status, engine)
    finally:
        invoke("down", "--env", env_name, "--instance", name)


def test_everything_works_as_in_development(prod: Deployment) -> None:
    """`up` has checked SSH; a user's whole way works too."""
    assert "12 hops, all well" in invoke("verify", *prod.options).stdout


@pytest.mark.parametrize("container", INSTALLED)
def test_no_working_copy_and_no_tools_are_in_it(prod: Deployment, container: str) -> None:
    """The package is a plain one, built of sources that no layer has; nothing builds, tests or fetches there."""
    python, package = INSTALLED[container]
    where = prod.run_in(container, python, "-c", f"import {package}; print({package}.__file__)")
    assert "/site-packages/" in where
    for program in ("git", "gcc", "uv", "pip", "npm", "pytest", "mypy"):
        assert prod.run_in(container, "sh", "-c", f"command -v {program} || echo none") == "none"
    for module in ("pytest", "debugpy") if container == "jupyterhub" else ("pytest",):
        probe = f"import importlib.util; print(importlib.util.find_spec({module!r}))"
        assert prod.run_in(container, python, "-c", probe) == "None"
    image = prod.engine.run(("podman", "inspect", "--format={{.ImageName}}", f"{prod.status['pod']}-{container}")).text
    assert f"{container}:prod-" in image
    assert f"/usr/src/{package}" not in prod.engine.run(("podman", "history", "--no-trunc", image)).text


def test_the_hub_runs_without_what_reloads_it(prod: Deployment) -> None:
    """It is JupyterHub's own program; what is for development says what it wants."""
    commands = prod.run_in("jupyterhub", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "/opt/jupyterhub/bin/jupyterhub --config" in commands
    assert "warm.py" not in commands
    assert prod.run_in("jupyterhub", "find", "/usr/local", "-name", "warm.py") == ""
    for task in ("reload", "debug"):
        refused = invoke(task, *prod.options, check=False)
        assert refused.returncode == 1
        assert "stage: prod" in refused.stderr


def test_no_dev_user_is_in_an_image(prod: Deployment) -> None:
    """Accounts and homes are a deployment's."""
    image = prod.engine.run(("podman", "inspect", "--format={{.ImageName}}", f"{prod.status['pod']}-slurm")).text
    look = ("podman", "run", "--rm", "--entrypoint=", image, "sh", "-c", "ls /home; getent passwd | cut -d : -f 1")
    names = prod.engine.run(look).text.split()
    assert "jupyterspawner" in names
    assert not [name for name in names if "." in name or "alice" in name]
