"""Which ports an instance gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.definition.schema import Endpoint
from hubenvs.deployment.ports import instance_ports, is_held
from hubenvs.session import declared_ports


@pytest.fixture
def instance(root: Path) -> Environment:
    """An instance of dev_realauth, whose hub somebody has put where its gateway was."""
    return read_environment(
        root,
        "dev_realauth",
        instance="a",
        settings=["publish.jupyterhub=127.0.0.1:28001", "dev_users=[alice.project1]"],
    )


def ports(env: Environment) -> dict[str, int]:
    return {name: endpoint.port for name, endpoint in env.published.items()}


def test_two_names_get_two_ports(instance: Environment) -> None:
    """The port that the gateway had stays the gateway's; the hub gets another."""
    result = ports(instance.with_ports(instance_ports(instance, (), {"gateway": 28001})))
    assert result["gateway"] == 28001
    assert len(set(result.values())) == len(result)


def test_a_declared_port_wins_over_a_recorded_one(instance: Environment) -> None:
    """What --set gives is used; whoever had that port gets another."""
    previous = {"gateway": 28001, "jupyterhub": 28003}
    result = ports(instance.with_ports(instance_ports(instance, {"jupyterhub"}, previous)))
    assert result["jupyterhub"] == 28001
    assert result["gateway"] != 28001


@pytest.mark.parametrize(
    "setting", ["publish.jupyterhub=127.0.0.1:9123", "publish={jupyterhub: 127.0.0.1:9123}"]
)
def test_set_declares_a_port_however_it_is_written(setting: str) -> None:
    """Key by key or as a mapping; other keys declare none."""
    assert declared_ports([setting, "slurm.nodes=2"]) == {"jupyterhub"}
    assert declared_ports(["slurm.nodes=2"]) == frozenset()


@pytest.mark.parametrize(
    ("address", "own", "held"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.2", "127.0.0.1", False),
    ],
)
def test_a_port_is_held_at_its_address(address: str, own: str, held: bool) -> None:
    """At another address the same port may be somebody else's, unless one of the two is every address."""
    assert is_held(Endpoint(address=address, port=8000), {(own, 8000)}) == held
    assert not is_held(Endpoint(address=address, port=8001), {(own, 8000)})
