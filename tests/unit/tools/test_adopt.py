"""Another hub's database and keys, as `adopt` takes them."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hubenvs.definition.environment import Environment
from hubenvs.errors import DefinitionError, StateError
from hubenvs.tools.adopt import DATABASE, adopt, adopt_servers, adopted_state, crypt_keys, read_users

from ..helpers import session

KEY = bytes(range(32))
TABLES = """
CREATE TABLE users (id INTEGER, name TEXT, encrypted_auth_state BLOB);
CREATE TABLE api_tokens (id INTEGER);
CREATE TABLE spawners (id INTEGER, user_id INTEGER, name TEXT, state TEXT, user_options TEXT);
"""
PROJECTS = {"p1.brics": {"name": "P 1", "username": "alice.p1"}}


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode() + b"\n", base64.urlsafe_b64encode(KEY), f"{KEY.hex()};{KEY.hex()}".encode()],
)
def test_crypt_keys_are_read_in_each_form(content: bytes) -> None:
    """Those are the forms that JupyterHub takes."""
    assert set(crypt_keys(content)) == {KEY}


def test_what_is_no_crypt_key_is_refused() -> None:
    """Whatever its length."""
    with pytest.raises(DefinitionError, match="not a key of 32 bytes"):
        crypt_keys(b"short")


def test_a_servers_state_gets_account_and_home() -> None:
    """From its projects and the user's choice; one that has them stays, and so does one without projects."""
    state = {"job_id": "7", "brics_projects": PROJECTS}
    options = {"brics_project": "p1.brics"}
    assert adopted_state(state, options) == {**state, "username": "alice.p1", "homedir": "/home/p1/alice.p1"}
    assert adopted_state({"job_id": "7"}, options) == {"job_id": "7"}
    assert adopted_state({**state, "username": "x"}, options)["username"] == "x"


def test_key_and_database_have_to_fit(tmp_path: Path) -> None:
    """A key that decrypts no user's auth state is refused; with the right one the servers are made ours."""
    path = tmp_path / "db"
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    token = Fernet(base64.urlsafe_b64encode(KEY)).encrypt(b"{}")
    connection.execute("INSERT INTO users VALUES (1, 'alice', ?)", (token,))
    state = json.dumps({"job_id": "7", "brics_projects": PROJECTS})
    connection.execute(
        "INSERT INTO spawners VALUES (1, 1, '', ?, ?)", (state, '{"brics_project": "p1.brics"}')
    )
    connection.commit()
    with pytest.raises(DefinitionError, match="does not decrypt the auth state of alice"):
        read_users(path, b"x" * 32)
    assert read_users(path, KEY).jobs == {"alice/": "7"}
    adopt_servers(path)
    (kept,) = connection.execute("SELECT state FROM spawners").fetchone()
    assert json.loads(kept)["homedir"] == "/home/p1/alice.p1"
    path.write_text("no database")
    with pytest.raises(DefinitionError, match="not the database of a hub"):
        read_users(path, KEY)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users VALUES (2, 'bob', 5)",
        "INSERT INTO users VALUES (2, 'bob', 'é')",
        "INSERT INTO spawners VALUES (1, 1, '', '{', NULL)",
        "INSERT INTO spawners VALUES (1, 1, '', '[1]', NULL)",
        "INSERT INTO spawners VALUES (1, 1, '', x'ff', NULL)",
        f"INSERT INTO spawners VALUES (1, 1, '', '{'[' * 100_000}', NULL)",
        """INSERT INTO spawners VALUES (1, 1, '', '{"job_id": 1}', '[1]')""",
        """INSERT INTO spawners VALUES (1, 1, '', '{"job_id": 1, "brics_projects": 5}', '{"brics_project": "p"}')""",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER UPDATE ON spawners BEGIN DELETE FROM users; END",
    ],
)
def test_what_no_hub_writes_is_refused(tmp_path: Path, statement: str) -> None:
    """In one line, before anything is taken."""
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO users VALUES (1, 'alice', NULL)")
        connection.execute(statement)
    with pytest.raises(DefinitionError, match="not the database of a hub"):
        read_users(path, KEY)


def test_a_database_that_a_process_has_open_is_refused(env: Environment, tmp_path: Path) -> None:
    """Its hub may still write to it."""
    with (tmp_path / DATABASE).open("wb"), pytest.raises(StateError, match=r"process \d+ has it open"):
        adopt(session(env), [str(tmp_path)], None, dry_run=True)


@pytest.mark.parametrize("journal", ["wal", "journal"])
def test_a_journal_with_changes_is_refused(env: Environment, tmp_path: Path, journal: str) -> None:
    """The database lacks what is in it. An empty one has nothing."""
    (tmp_path / DATABASE).touch()
    (path := tmp_path / f"{DATABASE}-{journal}").touch()
    with pytest.raises(DefinitionError, match="no jupyterhub_crypt_key in it"):
        adopt(session(env), [str(tmp_path)], None, dry_run=True)
    path.write_text("x")
    with pytest.raises(StateError, match=f"{DATABASE}-{journal} shows that its hub runs"):
        adopt(session(env), [str(tmp_path)], None, dry_run=True)


def test_a_file_that_is_no_tar_is_refused(env: Environment, tmp_path: Path) -> None:
    """Such as the database itself instead of the folder that it is in."""
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.executescript(TABLES)
    with pytest.raises(DefinitionError, match="not a tar"):
        adopt(session(env), [str(tmp_path / DATABASE)], None, dry_run=True)
