"""What a failed command looks like to a person."""

from __future__ import annotations

from hubenvs.errors import CommandError


def test_a_script_in_a_command_stays_out_of_its_error() -> None:
    """The error is one line, however long an argument is."""
    error = CommandError(("python3", "-c", "import os\nprint(1)\n"), 1, "a\n\nb")
    assert str(error) == "`python3 -c 'import os …'` failed (exit status 1)"
    assert error.details == ("a", "b")
