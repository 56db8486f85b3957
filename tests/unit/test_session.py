"""A session, and the definition that it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.names import LABEL_FINGERPRINT, checkout_id
from hubenvs.definition.read import read_environment
from hubenvs.deployment.desired import desired_pod
from hubenvs.deployment.existing import Existing
from hubenvs.deployment.sources import read_sources
from hubenvs.engines.engine import ListedContainer, Listing, Pod
from hubenvs.plan.images import plan_images
from hubenvs.session import open_session
from hubenvs.stages.play import play_pod

from .helpers import NoGit, session


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["slurm.accounting=true"],
        ["slurm.gpus_per_node=2", "publish.hub-api=127.0.0.1:8081", "auth.user=bob"],
        ["auth.kind=oidc", "auth.provider=external", "auth.oidc_server=https://keycloak.example/realms/x"],
    ],
)
def test_a_kept_definition_is_what_was_brought_up(root: Path, settings: list[str]) -> None:
    """Tasks after `up` look at the deployment that there is, not at what env.yaml says by itself."""
    env = read_environment(root, "dev_dummyauth", settings=settings)
    desired = desired_pod(
        env, plan_images(env, read_sources(env, NoGit()), True), dict.fromkeys(env.secret_keys, "secret")
    )
    pod = Pod(env.pod, {LABEL_FINGERPRINT: desired.fingerprint.label}, "1", True, True)
    containers = tuple(ListedContainer(env.container_name(name), state="running") for name in env.containers)
    existing = Existing(env.pod, env.name, checkout_id(root), Listing(), pod, containers)
    opened = session(env)
    with opened.locked():
        assert not play_pod(opened, desired, existing)  # it is up and unchanged: no program is started
    assert open_session(root, "dev_dummyauth", as_deployed=True, dry=True).env == env
