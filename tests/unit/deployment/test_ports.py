"""Which ports an instance gets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment import ports as ports_module
from hubenvs.deployment.ports import instance_ports, require_free
from hubenvs.errors import PortError
from hubenvs.session import declared_ports

from ..helpers import session


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


def test_a_port_is_held_at_its_address(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At another address the same port may be somebody else's, unless one of the two is every address."""
    monkeypatch.setattr(ports_module, "_holder", lambda *_: "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = read_environment(root, "dev_dummyauth", settings=[f"publish.jupyterhub=127.0.0.1:{port}"])
        for address in ("127.0.0.1", "0.0.0.0"):
            require_free(env, session(env).engine, {(address, port)})
        for held in (("127.0.0.2", port), ("127.0.0.1", port + 1)):
            with pytest.raises(PortError, match="is taken"):
                require_free(env, session(env).engine, {held})
