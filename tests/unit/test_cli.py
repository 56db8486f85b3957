"""What the tasks share: options, and the question before prod."""

from __future__ import annotations

import contextlib
import io

import pytest
from invoke import Exit

from hubenvs import cli
from hubenvs.errors import DefinitionError


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "\u0663", "65536", "9" * 5000])
def test_an_option_that_is_no_such_number_is_named(text: str) -> None:
    """Neither is a number of something else, or one that Python refuses to read."""
    with pytest.raises(DefinitionError, match=r"^--port .*: give a whole number from 1 to 65535$"):
        cli.whole_number("--port", text, range(1, 65536))


def test_prod_is_not_touched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes somebody has to say so at a terminal; other environments are never asked about."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    for what in ("up", "down"):
        with pytest.raises(DefinitionError, match=f"{what} --env campus: there is nobody to ask: give --yes"):
            cli.confirm(what, "campus", is_prod=True, yes=False)
        cli.confirm(what, "campus", is_prod=True, yes=True)
        cli.confirm(what, "prod", is_prod=False, yes=False)


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("yn\n", False), ("", False)]
)
def test_who_is_asked_about_prod_has_to_say_yes(
    monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool
) -> None:
    """Return and Ctrl-D are a no."""
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    with contextlib.nullcontext() if agreed else pytest.raises(Exit, match="nothing was done"):
        cli.confirm("down", "prod", is_prod=True, yes=False)
