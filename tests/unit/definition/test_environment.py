"""Names and settings that follow from an environment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from hubenvs.definition.container_settings import container_settings
from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment


def test_every_name_is_valid_in_kubernetes(root: Path) -> None:
    """Underscores of an environment's name don't reach a resource's name."""
    env = read_environment(root, "dev_dummyauth", instance="two")
    names = [env.pod, env.config_map, *(item.name for item in (*env.volumes, *env.secrets))]
    assert env.pod == "jupyterhub-slurm-dev-dummyauth-two"
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in names)


def test_an_environment_is_frozen(env: Environment) -> None:
    """Nothing changes an environment once it is loaded."""
    with pytest.raises(ValidationError):
        env.name = "other"


def test_containers_find_their_settings(env: Environment) -> None:
    """The ConfigMap has the names that a jupyterhub_config.py looks for."""
    settings = container_settings(env)
    expected = (
        "LOG_LEVEL BASE_URL DEV_USERS SSH_HOSTNAME SLURMSPAWNER_WRAPPERS_BIN CONDA_PREFIX_DIR "
        "JUPYTER_DATA_DIR HUB_CONNECT_URL OIDC_SERVER BRICS_PLATFORM JWT_AUDIENCE"
    )
    assert {f"DEPLOY_CONFIG_{name}" for name in expected.split()} <= set(settings)
    assert settings["DEPLOY_CONFIG_DEV_USERS"].split("\n") == [
        "alice.project1",
        "alice.project2",
        "bob.project1",
    ]
    assert all(isinstance(value, str) for value in settings.values())


def test_containers_find_what_keeps_users_apart(root: Path) -> None:
    """Tokens of any party, accounts of one's own name and a password, unless the three keys say something else."""
    names = ("JWT_AZP", "MATCH_USERNAME", "PROVIDER_ASKS")
    for keys, expected in (
        ([], ["", "true", "true"]),
        (
            ["auth.azp=portal", "auth.match_username=false", "auth.provider_password=false"],
            ["portal", "false", "false"],
        ),
    ):
        values = container_settings(read_environment(root, "dev_realauth", settings=keys))
        assert [values[f"DEPLOY_CONFIG_{name}"] for name in names] == expected


@pytest.mark.parametrize(("settings", "commands"), [([], "8"), (["hub.commands_at_once=3"], "3")])
def test_the_hub_finds_how_many_commands_may_run(root: Path, settings: list[str], commands: str) -> None:
    """The hub's settings have `hub.commands_at_once`."""
    values = container_settings(read_environment(root, "dev_dummyauth", settings=settings))
    assert values["DEPLOY_CONFIG_COMMANDS_AT_ONCE"] == commands


@pytest.mark.parametrize(
    ("settings", "gpus", "script"),
    [
        ([], "false", "false"),
        (["slurm.gpus_per_node=2"], "true", "false"),
        (["slurm.gpus_per_node=2", "hub.request_gpus=false"], "false", "false"),
        (["hub.request_gpus=true", "slurm.environment_in_script=true"], "true", "true"),
    ],
)
def test_null_leaves_a_choice_to_the_rest(root: Path, settings: list[str], gpus: str, script: str) -> None:
    """GPUs are requested if nodes have some, variables sent to the pod's Slurm, unless a key says more."""
    values = container_settings(read_environment(root, "dev_dummyauth", settings=settings))
    assert (values["DEPLOY_CONFIG_REQUEST_GPUS"], values["DEPLOY_CONFIG_ENVIRONMENT_IN_SCRIPT"]) == (
        gpus,
        script,
    )


def test_a_slurm_elsewhere_need_not_let_variables_pass(root: Path) -> None:
    """Where Slurm isn't in the pod the batch script has the server's variables, unless the key says no."""
    site = ["slurm.ssh_hostname=login", "slurm.hub_connect_url=http://hub:8081", "publish.hub-api=8081"]
    for more, script in ([], "true"), (["slurm.environment_in_script=false"], "false"):
        env = read_environment(root, "dev_dummyauth_extslurm", settings=[*site, *more, "dev_users=[a.one]"])
        assert container_settings(env)["DEPLOY_CONFIG_ENVIRONMENT_IN_SCRIPT"] == script


def test_hubs_on_one_host_have_cookies_of_their_own(root: Path) -> None:
    """Cookies know no ports: logging in at one hub would end the log-in at the other."""
    others = (("dev_dummyauth", None), ("dev_dummyauth", "two"), ("dev_realauth", None))
    hubs = [read_environment(root, name, instance=instance) for name, instance in others]
    assert len({container_settings(hub)["DEPLOY_CONFIG_HUB_COOKIE"] for hub in hubs}) == len(hubs)


def test_a_hub_that_is_not_published_listens_on_loopback(root: Path) -> None:
    """Else everybody on the host reaches it at the pod's address. In a cluster a Service leads to it."""

    def address(*options: str) -> str:
        env = read_environment(root, "dev_dummyauth", settings=[*options])
        return container_settings(env)["DEPLOY_CONFIG_PROXY_ADDRESS"]

    hidden = "publish.jupyterhub=null"
    cluster = ("engine=kubernetes", "kubernetes.context=c", "kubernetes.namespace=n")
    assert (address(), address(hidden), address(hidden, *cluster)) == ("", "127.0.0.1", "")


def test_no_secret_is_among_the_settings(env: Environment) -> None:
    """A ConfigMap can be read by anyone who can read the manifest."""
    assert not any(word in key for key in container_settings(env) for word in ("PASSWORD", "KEY", "SECRET"))


def test_production_is_strict_unless_the_site_says_otherwise(root: Path) -> None:
    """A log-in of 12 h, log-out at the tunnel's other end, no named servers, a proxy on loopback alone."""
    site = [
        "auth.oidc_server=https://idp.example.org",
        "zenith.server_address=zenith.example.org",
        "dev_users=[alice.p1]",
    ]
    strict = container_settings(read_environment(root, "dev_realauth_zenithclient", settings=site))
    expected = {
        "COOKIE_MAX_AGE_DAYS": "0.5",
        "LOGOUT_REDIRECT_URL": "/jupyter/_oidc/sign_out?rd=%2Fjupyter",
        "INVALID_JWT_LOGOUT": "true",
        "NAMED_SERVERS": "false",
        "PROXY_ADDRESS": "127.0.0.1",
        "JOB_NODES": "1",
    }
    assert {name: strict[f"DEPLOY_CONFIG_{name}"] for name in expected} == expected
    slurm = ["slurm.ssh_hostname=login", "slurm.hub_connect_url=http://hub:8081", "publish.hub-api=8081"]
    provider = ["auth.platform=site", "auth.audience=hub", "slurm.wrappers_bin=/x"]
    provider += ["slurm.env_prefix=/x", "slurm.jupyter_data_dir=/x"]
    prod = container_settings(read_environment(root, "prod", settings=[*site[:2], *slurm, *provider]))
    # A busy slurmctld isn't asked too often, and a job may wait in the queue for a day.
    patient = {
        "START_POLL_INTERVAL": "2",
        "POLL_INTERVAL": "60",
        "START_TIMEOUT": "86400",
        "COMMANDS_AT_ONCE": "8",
    }
    for name, value in (expected | patient).items():
        assert prod[f"DEPLOY_CONFIG_{name}"] == value, name
    other = ["publish.jupyterhub=8000", "auth.logout_redirect_url=/bye", "hub.job_nodes=null"]
    lenient = container_settings(
        read_environment(root, "dev_realauth_zenithclient", settings=[*site, *other])
    )
    assert lenient["DEPLOY_CONFIG_PROXY_ADDRESS"] == ""
    assert lenient["DEPLOY_CONFIG_LOGOUT_REDIRECT_URL"] == "/bye"
    assert lenient["DEPLOY_CONFIG_JOB_NODES"] == ""
    assert container_settings(read_environment(root, "dev_dummyauth"))["DEPLOY_CONFIG_PROXY_ADDRESS"] == ""


def test_the_form_offers_what_slurm_has(root: Path) -> None:
    """Partitions and reservations that are declared appear by themselves, unless the form lists others."""
    course = "{name: course, nodes: all, users: [alice.project1]}"
    declared = [f"slurm.reservations=[{course}]", "hub.form.gpus=[{count: 1, label: GH200}]"]

    def form(name: str, *settings: str) -> dict[str, object]:
        values = container_settings(read_environment(root, name, settings=settings))
        return dict(json.loads(values["DEPLOY_CONFIG_FORM"]))

    offered = form("dev_dummyauth", *declared)
    assert (offered["partitions"], offered["reservations"]) == (["main"], ["course"])
    assert offered["gpus"] == [{"count": 1, "label": "GH200"}]
    assert form("dev_dummyauth", "hub.form.partitions=[gpu]")["partitions"] == ["gpu"]
