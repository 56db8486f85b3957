"""What the tasks share: options, the question before prod, and Invoke's own configuration."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from pathlib import Path

import pytest
from invoke import Config, Context, Exit
from invoke.main import program

from hubenvs import cli
from hubenvs.errors import DefinitionError


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "\u0663", "65536", "9" * 5000])
def test_an_option_that_is_no_such_number_is_named(text: str) -> None:
    """Neither is a number of something else, or one that Python refuses to read."""
    with pytest.raises(DefinitionError, match=r"^--port .*: give a whole number from 1 to 65535$"):
        cli.whole_number("--port", text, range(1, 65536))


def test_an_empty_option_is_not_taken_for_none() -> None:
    """`down --env "$ENV"` without that variable would take down whatever is up."""
    done = []

    @cli.task()
    def down(ctx: Context, env: str | None = None, set_: cli.Settings = None) -> None:
        done.append((env, set_))

    with pytest.raises(Exit, match="error: --env: is empty"):
        down(Context(), env="")
    down(Context(), env=None, set_=[])
    assert done == [(None, [])]


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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"hubenvs: [", "while parsing a flow"),
        (b"hubenvs:\n\tslurm: 1", "cannot start any token"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"3", "no attribute 'items'"),
        (b"run: 3", "Can't cleanly merge"),
        (b"hubenvs: {1: 2}", "expected str instance"),
        (b"hubenvs: &a {slurm: *a}", "maximum recursion depth"),
        (None, "Is a directory"),
    ],
)
def test_a_configuration_that_invoke_cannot_read_is_an_error_of_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, problem: str
) -> None:
    """Invoke reads invoke.yaml before our task starts, and lets such errors escape with their tracebacks."""
    file = tmp_path / "invoke.yaml"
    file.mkdir() if content is None else file.write_bytes(content)
    options = ("--search-root", str(cli.ROOT), "--config", str(file))
    with pytest.raises(Exception, match=r"(?s).") as raised:
        program.run(["invoke", *options, "version"], exit=False)
    sys.excepthook(raised.type, raised.value, raised.tb)
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: Invoke's configuration: ")
    assert problem in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "make it writable"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.EIO, "looks at the host"),
    ],
)
def test_an_error_of_the_system_has_a_hint_too(
    monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    """A full disk or a read-only checkout can show anywhere, as in a copy from one path to another.

    For scripts it is JSON like any other error.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def fail(ctx: Context, json: bool = False) -> None:
        raise OSError(number, os.strerror(number), "/x", None, "/y")

    with pytest.raises(Exit) as raised:
        cli.task()(fail)(Context())
    assert raised.value.code == 1
    error, second = str(raised.value).splitlines()
    assert error == f"error: /x -> /y: {os.strerror(number)}"
    assert second.startswith("hint: ")
    assert hint in second
    with pytest.raises(Exit, match=r'^{"error": "/x -> /y: .*"hint": "'):
        cli.task()(fail)(Context(), json=True)


@pytest.mark.parametrize("section", [3, [1], "slurm"])
def test_a_section_that_is_no_mapping_is_refused(section: object) -> None:
    """`hubenvs: 3` in invoke.yaml."""
    with pytest.raises(DefinitionError, match="hubenvs: not a mapping"):
        cli.open_session(Context(Config({"hubenvs": section})), "dev_dummyauth")
