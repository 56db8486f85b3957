"""How Fabric reaches Slurm's sshd."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from hubenvs.definition.read import read_environment
from hubenvs.stages.proofs import Server
from hubenvs.stages.secrets import generate_secrets

from ..helpers import session


def test_the_relay_is_run_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric reads a gateway as ssh_config: ~ would be the home in it, and %h the host."""
    opened = session(read_environment(root, "dev_dummyauth"))
    generate_secrets(opened)
    relay, started = ("/srv/a~b/%h/relay", "slurm"), list[tuple[str, ...]]()

    def connected(argv: tuple[str, ...]) -> AbstractContextManager[None]:
        started.append(argv)
        return nullcontext()

    monkeypatch.setattr(opened.engine, "exec_command", lambda *_, **__: relay)
    monkeypatch.setattr(opened.programs, "connected", connected)
    connection = Server(opened).connect("jupyterspawner")
    assert connection.gateway is None
    assert started == [relay]
