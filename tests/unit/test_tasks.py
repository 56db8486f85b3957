"""What tasks.py makes of options and of Invoke's configuration."""

from __future__ import annotations

import contextlib
import io

import pytest
from invoke import Config, Exit

import tasks
from hubenvs.errors import DefinitionError


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, object]:
    """Return what is set by environment ``variables``, and by a file that says slurm.ssh_port: null."""
    for name, value in variables.items():
        monkeypatch.setenv(f"INVOKE_HUBENVS_{name}", value)
    config = Config(defaults=tasks.namespace.configuration(), overrides={"hubenvs": {"slurm": {"ssh_port": None}}})
    config.load_shell_env()
    return tasks._given(config.hubenvs)


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
    tasks._refuse_unknown(tasks.BASE, ["INVOKE_HUBENVS_SLURM_NODES", "INVOKE_RUN_ECHO", "HOME"])
    with pytest.raises(DefinitionError, match=f"^INVOKE_HUBENVS_{name}: no key .*: did you mean 'INVOKE_HUBENVS_"):
        tasks._refuse_unknown(tasks.BASE, [f"INVOKE_HUBENVS_{name}"])


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "\u0663", "65536", "9" * 5000])
def test_an_option_that_is_no_such_number_is_named(text: str) -> None:
    """Neither is a number of something else, or one that Python refuses to read."""
    with pytest.raises(DefinitionError, match=r"^--port .*not a whole number: one from 1 to 65535$"):
        tasks._whole("--port", text, range(1, 65536))


def test_prod_is_not_touched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes somebody has to say so at a terminal; other environments are never asked about."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    for what in ("up", "down"):
        with pytest.raises(Exit, match=f"{what} --env prod: there is nobody to ask: give --yes"):
            tasks._confirm(what, "prod", yes=False)
        tasks._confirm(what, "prod", yes=True)
        tasks._confirm(what, "dev_dummyauth", yes=False)


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("yn\n", False), ("", False)]
)
def test_who_is_asked_about_prod_has_to_say_yes(monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool) -> None:
    """Return and Ctrl-D are a no."""
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    with contextlib.nullcontext() if agreed else pytest.raises(Exit, match="nothing was done"):
        tasks._confirm("down", "prod", yes=False)
