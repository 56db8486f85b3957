"""Secrets: whose count if the cluster has some, and that no crypt key is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment import folder
from hubenvs.errors import StateError
from hubenvs.stages.secrets import generate_secrets
from tests.unit.helpers import in_lab

FIRST, SECOND = "1" * 64, "2" * 64


@pytest.fixture
def env(root: Path) -> Environment:
    """dev_dummyauth in a cluster."""
    place = ["engine=kubernetes", "kubernetes.context=lab", "kubernetes.namespace=hub"]
    return read_environment(root, "dev_dummyauth", settings=place)


def test_crypt_keys_of_cluster_and_checkout_are_joined(env: Environment) -> None:
    """The cluster's come first; the checkout's may be those of an earlier database."""
    folder.write_secrets(env.deploy_folder, {"crypt_keys": FIRST, "cookie_secret": "here"})
    values = generate_secrets(in_lab(env, {"crypt_keys": SECOND, "cookie_secret": "there"}))
    assert (values["crypt_keys"], values["cookie_secret"]) == (f"{SECOND};{FIRST}", "there")
    assert folder.read_secrets(env.deploy_folder)["crypt_keys"] == f"{SECOND};{FIRST}"
    again = generate_secrets(in_lab(env, values))
    assert again == values


def test_a_database_without_its_key_is_not_given_another(env: Environment) -> None:
    """Only where there is no database yet a key is generated."""
    with pytest.raises(StateError, match="has a database, and its crypt key is neither") as error:
        generate_secrets(in_lab(env, {}, [f"{env.pod}-jupyterhub-data"]))
    assert ".deploy/dev_dummyauth/secrets/crypt_keys" in error.value.hint
    assert not folder.read_secrets(env.deploy_folder)
    assert generate_secrets(in_lab(env, {}, [f"{env.pod}-home"]))["crypt_keys"]
