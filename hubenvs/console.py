"""Output for a person: a line for each step, a spinner, tables; plain text without a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import printable


class Console:
    """Prints to standard output; ``quiet`` (for --json) prints results only, ``echo`` shows each command."""

    def __init__(self, quiet: bool = False, echo: bool = False) -> None:
        self._quiet = quiet
        self._rich: Any = None
        self.echo = self._echo if echo else None
        if sys.stdout.isatty() and not quiet:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(highlight=False, soft_wrap=True)

    def _echo(self, command: str) -> None:
        # Written at once, newline included: commands may start side by side.
        print(f"+ {command}\n", end="", file=sys.stderr, flush=True)

    def say(self, stage: str, text: str) -> None:
        """Print a line about ``stage``."""
        if self._quiet:
            return
        text = printable(text)
        if self._rich:
            from rich.markup import escape

            self._rich.print(f"[bold cyan]{stage:<8}[/] {escape(text)}")
        else:
            print(f"{stage:<8} {text}", flush=True)

    @contextlib.contextmanager
    def busy(self, stage: str, text: str) -> Iterator[None]:
        """Show a spinner while the block runs; prints nothing when standard output isn't a terminal."""
        if self._rich:
            from rich.markup import escape

            with self._rich.status(f"[bold cyan]{stage:<8}[/] {escape(printable(text))}"):
                yield
        else:
            yield

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print ``rows`` under ``headings``."""
        rows = [tuple(map(printable, row)) for row in rows]
        if self._rich:
            from rich.markup import escape
            from rich.table import Table

            table = Table(*headings, box=None, pad_edge=False, header_style="bold")
            for row in rows:
                table.add_row(*map(escape, row))
            self._rich.print(table)
            return
        widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
        for row in (headings, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip(), flush=True)

    def result(self, value: Any) -> None:
        """Print ``value`` as JSON, for scripts."""
        print(json.dumps(value, indent=2), flush=True)
