"""Task `envs`: the environments, and whether each can be brought up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..console import Console
from ..definition.names import environment_names
from ..definition.read import outline, read_environment
from ..errors import DefinitionError


def envs(root: Path, console: Console, json: bool) -> None:
    """Print the environments of the checkout ``root``."""
    rows = describe_environments(root)
    if json:
        console.result(rows)
        return
    columns = ("env", "stage", "auth", "description")
    cells = [tuple(row[column] or "-" for column in columns) for row in rows]
    console.table(("environment", *columns[1:]), cells)
    for row in rows:
        if not row["can_run"]:
            console.say("", f"{row['env']} can't be brought up yet: {row['why_not']}")


def describe_environments(root: Path) -> list[dict[str, Any]]:
    """Return what `envs --json` prints: one entry for each environment."""
    rows = []
    for name in environment_names(root):
        reason = None
        try:
            env = read_environment(root, name)
            known: dict[str, str | None] = {
                "description": env.description,
                "stage": env.stage,
                "auth": env.auth.kind,
            }
        except DefinitionError as error:
            known, reason = outline(root, name), str(error)
        rows.append({"env": name, **known, "can_run": reason is None, "why_not": reason})
    return rows
