"""The errors that reach a user: one line of what is wrong and where, one of what to do."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence


class HubEnvsError(Exception):
    """Root of every expected failure; tasks print it and exit with ``exit_code``.

    ``message`` says what is wrong and where, ``hint`` what to do about it, ``details`` are lines of another
    program's output that belong to it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    @property
    def report(self) -> str:
        """Return what a user sees: the details, each on a line of its own, and the error on the last."""
        return "\n".join((*(f"  | {line}" for line in self.details), f"error: {self}"))


class DefinitionError(HubEnvsError):
    """What a person wrote (env.yaml, dev_users, an option) can't be used."""


class StateError(HubEnvsError):
    """The host, the engine or the deploy folder isn't in a state in which the task can run."""


class PortError(StateError):
    """A port that an environment publishes can't be listened on."""


class CommandError(HubEnvsError):
    """A program we started failed.

    ``argv`` is the command, ``returncode`` its exit status (None if it took too long and was stopped), ``output`` what
    it wrote (its last lines are shown).
    """

    def __init__(self, argv: Sequence[str], returncode: int | None, output: str, hint: str = "") -> None:
        lines = [line for line in output.splitlines() if line.strip()]
        what = "did not end" if returncode is None else f"failed (exit status {returncode})"
        super().__init__(f"`{quoted(argv)}` {what}", hint, lines[-12:])


def quoted(argv: Sequence[str]) -> str:
    """Return ``argv`` as a person would type it, in one line: an argument of several is cut after its first."""
    return shlex.join(f"{text.splitlines()[0]} …" if "\n" in text else text for text in argv)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean …?`` if one of ``known`` is near ``name``, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
