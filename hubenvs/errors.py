"""Errors that reach the user: what is wrong and where, and what to do about it."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence

# Escape sequences for colours that are legible on any background, and for their end.
_COLOUR = re.compile("(\x1b\\[(?:[39][1-6]|39|0?)m)")


class HubEnvsError(Exception):
    """Base of every expected failure. Tasks print it and exit with status 1.

    ``message``: where and what is wrong. ``hint``: what to do. ``details``: another program's lines about it.
    """

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    @property
    def report(self) -> str:
        """Return the lines that a user reads: the details, the error, the hint."""
        lines = [f"  | {line}" for line in self.details]
        lines.append(f"error: {self.message}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return printable("\n".join(lines))

    @property
    def json(self) -> str:
        """Return the error as a JSON object, for tasks that were run with --json."""
        return json.dumps({"error": self.message, "hint": self.hint or None, "details": list(self.details)})


class DefinitionError(HubEnvsError):
    """A file or option that a person wrote (env.yaml, dev_users, --set) can't be used."""


class StateError(HubEnvsError):
    """The host, the engine or the deploy folder is in a state in which the task can't run."""


class PortError(StateError):
    """A port that an environment publishes can't be bound."""


class CommandError(HubEnvsError):
    """A program that we started failed.

    ``argv``: its command line. ``returncode``: its exit status (None: stopped after a time limit).
    ``output``: its output; the last 12 lines become the details.
    """

    def __init__(self, argv: Sequence[str], returncode: int | None, output: str, hint: str = "") -> None:
        lines = [line for line in output.splitlines() if line.strip()]
        what = "did not end" if returncode is None else f"failed (exit status {returncode})"
        where = "the program's own words are above" if lines else "the program said nothing"
        hint = hint or f"{where}; `invoke doctor` names what this host lacks"
        super().__init__(f"`{quoted(argv)}` {what}", hint, lines[-12:])


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped: a terminal would obey them, some can't be encoded."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def log_line(text: str) -> str:
    """Return ``text`` with control characters escaped, except sequences that set a colour."""
    return "".join(part if _COLOUR.fullmatch(part) else printable(part) for part in _COLOUR.split(text))


def quoted(argv: Sequence[str]) -> str:
    """Return ``argv`` as a person would type it, on one line, with the first line of each argument."""
    return shlex.join(f"{text.splitlines()[0]} …" if "\n" in text else text for text in argv)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean …?`` if one of ``known`` resembles ``name``, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
