"""What a failed command looks like to a person."""

from __future__ import annotations

from hubenvs.errors import CommandError, log_line


def test_a_script_in_a_command_stays_out_of_its_error() -> None:
    """The error is one line, however long an argument is."""
    error = CommandError(("python3", "-c", "import os\nprint(1)\n"), 1, "a\n\nb")
    assert error.message == "`python3 -c 'import os …'` failed (exit status 1)"
    assert error.details == ("a", "b")


def test_a_program_that_failed_has_a_hint() -> None:
    """Even where nobody knows more than its output."""
    assert "above" in CommandError(("podman",), 125, "no space left").hint
    assert "nothing" in CommandError(("podman",), 125, "").hint
    assert CommandError(("podman",), 125, "", "make room").hint == "make room"


def test_a_line_of_a_log_is_coloured_and_steers_nothing() -> None:
    """What users' programs have written can't give the terminal a title, hide text or overwrite the line."""
    assert log_line("\x1b[31merror\x1b[39m: café\x1b[0m\n") == "\x1b[31merror\x1b[39m: café\x1b[0m\n"
    for sequence in ("\x1b]0;x\x07", "\x1b[8m", "\x1b[2J", "\r", "\x9b31m", "\u202e"):
        assert sequence not in log_line(f"a{sequence}b\n")
