"""How Fabric reaches Slurm's sshd."""

from __future__ import annotations

import shlex
from pathlib import Path

import paramiko
import pytest

from hubenvs.definition.read import read_environment
from hubenvs.stages.proofs import Server
from hubenvs.stages.secrets import generate_secrets

from ..helpers import session


def test_the_relay_is_run_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric reads a gateway as ssh_config: ~ would be the home in it, and %h the host."""
    opened = session(read_environment(root, "dev_dummyauth"))
    generate_secrets(opened)
    relay, started = ("/srv/a~b/%h/relay", "slurm"), list[str]()
    monkeypatch.setattr(opened.engine, "exec_command", lambda *_, **__: relay)
    monkeypatch.setattr(paramiko, "ProxyCommand", started.append)
    connection = Server(opened).connect("jupyterspawner")
    assert connection.gateway is None
    assert [tuple(shlex.split(command)) for command in started] == [relay]
