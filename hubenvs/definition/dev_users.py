"""The accounts of a development environment: the file `dev_users`, the key `dev_users`, and `up --users`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DefinitionError
from ..files import write
from .layers import KeyPath, read_text, shown
from .schema import DevUser

# Containers get the accounts in one environment variable, which Linux limits to 128 KiB (MAX_ARG_STRLEN).
MOST_USERS = 3000


def parse_dev_users(text: str, label: str) -> tuple[DevUser, ...]:
    """Return the accounts ``<user>.<project>`` in ``text``, one or more a line; ``#`` starts a comment.

    Raises DefinitionError with ``label`` and the line for a malformed or repeated name or an empty list.
    """
    users: dict[str, tuple[DevUser, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for name in line.partition("#")[0].split():
            try:
                dev_user = DevUser.parse(name)
            except ValueError as error:
                raise DefinitionError(f"{label}:{number}: {error}", "correct the line") from error
            if name in users:
                problem = f"{name!r} is on line {users[name][1]} already"
                raise DefinitionError(f"{label}:{number}: {problem}", "remove one")
            users[name] = (dev_user, number)
    if not users:
        raise DefinitionError(f"{label}: no dev user in it", "add a line such as alice.project1")
    if len(users) > MOST_USERS:
        raise DefinitionError(f"{label}: {len(users)} dev users", f"keep {MOST_USERS}, the most for one pod")
    return tuple(dev_user for dev_user, _ in users.values())


def from_key(value: object, origin: Mapping[KeyPath, str]) -> tuple[DevUser, ...]:
    """Return the accounts of the key `dev_users`; DefinitionError unless it is null or a list of names."""
    if value is None:
        return ()
    where = f"{origin['dev_users',]}: dev_users"
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DefinitionError(f"{where}: not a list of names", "for example [alice.project1, bob.project1]")
    return parse_dev_users("\n".join(value), where)


def from_file(path: Path, root: Path) -> tuple[DevUser, ...]:
    """Return the accounts in the file ``path``; DefinitionError if it doesn't exist or can't be used."""
    if not path.exists():
        example = path.with_name(f"{path.name}.example")
        how = f"`cp {shown(example, root)} {shown(path, root)}`" if example.exists() else "make it"
        up = f"invoke up --env {path.parent.name} --users alice.project1,bob.project1"
        raise DefinitionError(f"{shown(path, root)}: does not exist", f"{how}, or `{up}`")
    return parse_dev_users(read_text(path, root), shown(path, root))


def parse_users(users: str) -> tuple[DevUser, ...]:
    """Return the comma-separated accounts of `up --users`; DefinitionError if one of them is malformed."""
    return parse_dev_users(users.replace(",", "\n"), "--users")


def write_file(path: Path, root: Path, users: str) -> None:
    """Write the comma-separated accounts ``users`` to the file ``path``, one a line.

    Raises DefinitionError if one of them is malformed, or the file exists with other accounts, and StateError
    if it can't be written.
    """
    wanted = parse_users(users)
    if path.exists() and parse_dev_users(read_text(path, root), shown(path, root)) != wanted:
        problem = f"{shown(path, root)} already exists, with other accounts"
        raise DefinitionError(f"--users: {problem}", "edit or remove that file")
    if not path.exists():
        write(path, "".join(f"{user.account}\n" for user in wanted))


def are_needed(data: Mapping[str, Any]) -> bool:
    """Return whether the merged definition ``data`` needs accounts: for its Slurm, or for its own log-ins."""
    auth, containers = data["auth"], data["containers"]
    if not isinstance(auth, dict) or not isinstance(containers, list):
        return False  # the schema refuses both
    return (auth.get("kind"), auth.get("provider")) != ("oidc", "external") or "slurm" in containers
