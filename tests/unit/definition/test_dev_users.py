"""The accounts of an environment."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from hubenvs.definition.dev_users import parse_dev_users, write_file
from hubenvs.errors import DefinitionError, StateError


def test_dev_users_are_listed_in_order_without_comments() -> None:
    """Comments and blank lines count for nothing; the order stays, the first one logs in."""
    users = parse_dev_users("# first\nbob.p1 # his\n\nalice.p2\n", "dev_users")
    assert [user.account for user in users] == ["bob.p1", "alice.p2"]


@pytest.mark.parametrize(
    "name",
    [
        "bad;name.p1",
        "$(id).p1",
        "a.b.c",
        "Alice.p1",
        "alice",
        ".p1",
        "alice.",
        "1a.p1",
        "-a.p1",
        "a b.p1",
        "root",
    ],
)
def test_a_malformed_dev_user_is_refused(name: str) -> None:
    """Only <user>.<project> of safe characters becomes an account."""
    with pytest.raises(DefinitionError, match=r"dev_users:2: .*is not <user>\.<project>"):
        parse_dev_users(f"# users\n{name}\n", "dev_users")


def test_a_long_dev_user_is_refused() -> None:
    """An account's name has 32 characters at most."""
    assert parse_dev_users(f"{'a' * 29}.p1", "dev_users")
    with pytest.raises(DefinitionError, match="33 characters"):
        parse_dev_users(f"{'a' * 30}.p1", "dev_users")


def test_a_repeated_or_missing_dev_user_is_refused() -> None:
    """A repeated name names both lines; an empty list says what to add; a list can be too long."""
    with pytest.raises(DefinitionError, match=r"dev_users:3: 'a\.p1' is on line 1"):
        parse_dev_users("a.p1\nb.p1\na.p1\n", "dev_users")
    with pytest.raises(DefinitionError, match="no dev user in it"):
        parse_dev_users("# nobody\n", "dev_users")
    with pytest.raises(DefinitionError, match="dev_users: 3001 dev users"):
        parse_dev_users("\n".join(f"u{number}.p" for number in range(3001)), "dev_users")


def test_a_list_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    """On a full disk half a list would keep the next `up --users` from writing the whole one."""
    path = tmp_path / "dev_users"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises((StateError, OSError), match=r"[Ff]ile too large"):
            write_file(path, tmp_path, "alice.project1,bob.project1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
    write_file(path, tmp_path, "alice.project1,bob.project1")
    assert path.read_text() == "alice.project1\nbob.project1\n"
