"""Moving in from isambard-sc/brics_jupyterhub_envs: its ConfigMap and the files beside it, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import ROOT, START, Deployment, HubUser, Podman, entry, free_port, invoke, once, settings

pytestmark = once
PASSWORD = "a password of before"
CONFIG_MAP = f"""\
# Settings of the development environment
apiVersion: core/v1
kind: ConfigMap
metadata:
  name: deploy-config
immutable: true
data:
  logLevel: "DEBUG"  # DEBUG, INFO, ...
  baseUrl: "/before"
  devUsers: "dave.project1 dave.project2 erin.project1"
  dummyAuthPassword: "{PASSWORD}"
  sshHostname: "localhost"
  slurmSpawnerWrappersBin: "/opt/jupyter/slurmspawner_wrappers/bin"
  condaPrefixDir: "/opt/jupyter/miniforge3"
  jupyterDataDir: "/opt/jupyter/jupyter_data"
  hubConnectUrl: "http://127.0.0.1:8081"
  oidcServer: "https://idp.example.org/realms/before"
  bricsPlatform: "before.platform"
  jwtAudience: "before"
"""


@pytest.fixture(scope="module")
def config_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a ConfigMap of such a deployment."""
    path = tmp_path_factory.mktemp("deploy") / "deploy_config.yaml"
    path.write_text(CONFIG_MAP)
    return path


@pytest.fixture(scope="module")
def moved(instance: str, engine: Podman, config_map: Path) -> Iterator[Deployment]:
    """The environment, brought up with that ConfigMap and nothing else but a port."""
    name = f"{instance}-moved"
    named = ("--env", "dev_dummyauth", "--instance", name)
    try:
        port = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}")
        invoke("up", *named, "--configmap", str(config_map), *port)
        status = entry(name)
        assert status is not None
        yield Deployment("dev_dummyauth", name, status, engine)
    finally:
        invoke("down", *named)


def test_a_config_map_as_it_is_ends_in_a_working_notebook(moved: Deployment) -> None:
    """Its password logs its first user in, and a server runs with the paths that it has."""
    assert moved.status["url"].endswith("/before")
    with HubUser(moved.status["url"]) as user:
        user.log_in(PASSWORD)
        assert user.name == "dave"
        _, options = user.spawn_form()
        assert sorted(options["brics_project"]) == ["project1.brics", "project2.brics"]
        user.spawn({"brics_project": "project2.brics"})
        user.wait_ready(START)
        code = "import os; print(os.environ['USER'], os.environ['JUPYTER_PATH'], os.environ['VIRTUAL_ENV'])"
        with user.kernel() as run:
            output = run(code)
        assert output.split() == [
            *("dave.project2", "/opt/jupyter/jupyter_data", "/opt/jupyter/envs/jupyter-user-env")
        ]
        user.stop(START)


def test_the_next_up_has_the_same_settings_and_offers_to_write_them(moved: Deployment) -> None:
    """Without the option they are not lost; `--save` is what writes them to local.yaml."""
    again = invoke("up", *moved.options).stdout
    assert "is up and unchanged" in again
    assert f"invoke up {' '.join(moved.options)} --save" in again
    assert not (ROOT / "envs/dev_dummyauth/local.yaml").exists()


def test_saved_settings_outlive_the_deployment(moved: Deployment) -> None:
    """`--save` moves them to local.yaml, where any `up` finds them; the password is not among them."""
    local = ROOT / "envs/dev_dummyauth/local.yaml"
    try:
        assert "is up and unchanged" in invoke("up", *moved.options, "--save").stdout
        assert PASSWORD not in local.read_text()
        assert not (moved.secrets["ssh_key"].parents[1] / "settings.yaml").exists()
        assert "is up and unchanged" in invoke("up", *moved.options).stdout
    finally:
        local.unlink(missing_ok=True)
