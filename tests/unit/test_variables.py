"""What is made of Invoke's own configuration."""

from __future__ import annotations

import pytest
from invoke import Config

import tasks
from hubenvs import cli
from hubenvs import variables as of_invoke
from hubenvs.errors import DefinitionError


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, object]:
    """Return what is set by environment ``variables``, and by a file that says slurm.ssh_port: null."""
    for name, value in variables.items():
        monkeypatch.setenv(f"INVOKE_HUBENVS_{name}", value)
    config = Config(defaults=tasks.namespace.configuration(), overrides={"hubenvs": {"slurm": {"ssh_port": None}}})
    config.load_shell_env()
    return of_invoke.given(config.hubenvs)


def test_variables_are_read_as_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number, a list and a word that is no number arrive as they would from --set, for the definition to judge."""
    assert given(monkeypatch, SLURM_NODES="4", SLURM_CPUS_PER_NODE="x", OVERLAYS="[a, b]") == {
        "slurm": {"nodes": 4, "cpus_per_node": "x", "ssh_port": None},
        "overlays": ["a", "b"],
    }


def test_a_variable_that_is_no_yaml_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoke itself would end in a traceback."""
    with pytest.raises(DefinitionError, match="INVOKE_HUBENVS_SLURM_NODES:1: "):
        given(monkeypatch, SLURM_NODES="[")


@pytest.mark.parametrize("name", ["SLURM", "SLURM_NODS", "NODES"])
def test_a_variable_of_no_key_is_named(name: str) -> None:
    """Invoke itself passes it over."""
    of_invoke.refuse_unknown(cli.BASE, ["INVOKE_HUBENVS_SLURM_NODES", "INVOKE_RUN_ECHO", "HOME"])
    with pytest.raises(DefinitionError, match=f"^INVOKE_HUBENVS_{name}: no key .*: did you mean 'INVOKE_HUBENVS_"):
        of_invoke.refuse_unknown(cli.BASE, [f"INVOKE_HUBENVS_{name}"])
