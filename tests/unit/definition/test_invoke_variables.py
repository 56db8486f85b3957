"""Keys that are set by environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubenvs.definition import invoke_variables
from hubenvs.definition.layers import Layer, merge, parse_yaml
from hubenvs.errors import DefinitionError

BASE = parse_yaml((Path(__file__).parents[3] / "envs/base.yaml").read_text(), "base.yaml").data


def merged(**environ: str) -> dict[str, Any]:
    """Return what is set by environment variables, and by a file that says slurm.ssh_port: null."""
    file = Layer("invoke.yaml", {"slurm": {"ssh_port": None}}, {})
    named = {f"INVOKE_HUBENVS_{name}": value for name, value in environ.items()}
    return merge([file, *invoke_variables.layers(BASE, named)])[0]


def test_variables_are_read_as_yaml() -> None:
    """A number, a list and a word arrive as they would from --set, for the definition to judge."""
    assert merged(SLURM_NODES="4", SLURM_CPUS_PER_NODE="x", OVERLAYS="[a, b]") == {
        "slurm": {"nodes": 4, "cpus_per_node": "x", "ssh_port": None},
        "overlays": ["a", "b"],
    }


def test_a_variable_that_is_no_yaml_is_named() -> None:
    """Invoke itself would end in a traceback."""
    with pytest.raises(DefinitionError, match="INVOKE_HUBENVS_SLURM_NODES:1: "):
        merged(SLURM_NODES="[")


@pytest.mark.parametrize("name", ["SLURM", "SLURM_NODS", "NODES"])
def test_a_variable_of_no_key_is_named(name: str) -> None:
    """Invoke itself passes it over."""
    invoke_variables.layers(BASE, {"INVOKE_HUBENVS_SLURM_NODES": "1", "INVOKE_RUN_ECHO": "1", "HOME": "/"})
    with pytest.raises(
        DefinitionError, match=f"^INVOKE_HUBENVS_{name}: no key .*: did you mean 'INVOKE_HUBENVS_"
    ):
        invoke_variables.layers(BASE, {f"INVOKE_HUBENVS_{name}": "1"})


def test_a_key_with_a_hyphen_has_a_variable_that_a_shell_can_set() -> None:
    """Bash exports no name with "-" in it."""
    assert merged(PUBLISH_HUB_API="127.0.0.1:9")["publish"] == {"hub-api": "127.0.0.1:9"}
