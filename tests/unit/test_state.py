"""What the deploy folder holds is read whole, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubenvs import state
from hubenvs.errors import StateError


@pytest.mark.parametrize("content", [b"", b"\xff", b"\n"])
def test_a_damaged_secret_is_refused_and_does_not_keep_the_folder(tmp_path: Path, content: bytes) -> None:
    """A secret that is empty or isn't text is named, and the folder can be removed all the same."""
    folder = tmp_path / "env"
    state.write_secrets(folder, {"ssh_key": "x", "crypt_keys": "kept"})
    (folder / state.SECRETS / "ssh_key").write_bytes(content)
    with pytest.raises(StateError, match="ssh_key: damaged"):
        state.read_secrets(folder)
    state.remove(folder, keep=("crypt_keys",))
    assert state.read_secrets(folder) == {"crypt_keys": "kept"}


def test_secrets_outlive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two renames that put new ones in place, the old ones are put back; after a kill they are found."""
    folder = tmp_path / "env"
    state.write_secrets(folder, {"crypt_keys": "old"})
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == state.NEW:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            state.write_secrets(folder, {"crypt_keys": "new"})
    assert state.read_secrets(folder) == {"crypt_keys": "old"}

    (folder / state.SECRETS).rename(folder / state.OLD)  # as a kill would have left them
    (folder / state.NEW).mkdir()
    assert state.read_secrets(folder) == {"crypt_keys": "old"}
    state.write_secrets(folder, {"crypt_keys": "new"})
    assert [path.name for path in folder.iterdir()] == [state.SECRETS]


def test_a_lock_whose_folder_is_gone_locks_nothing(tmp_path: Path) -> None:
    """`down` removes the folder that it has locked: who has opened that lock meanwhile does not take it for theirs."""
    folder = tmp_path / "env"
    with state.lock(folder):
        state.remove(folder)
        with state.lock(folder):
            pass
        assert not folder.exists()
        (folder / state.SECRETS).mkdir(parents=True)
    assert (folder / state.SECRETS).is_dir()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"jupyterhub": null}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: bytes) -> None:
    """What isn't a mapping of text is named instead of read."""
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(StateError, match=r"record\.json: damaged"):
        state.read_record(tmp_path)


def test_nothing_but_a_file_is_written_over(tmp_path: Path) -> None:
    """A pipe (as a device would) stays what it is when it is named as a file to write."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StateError, match="not a file"):
        state.write(pipe, "x")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_who_holds_a_lock_is_said_whatever_stands_in_it(tmp_path: Path) -> None:
    """The second task is refused with the first one's name, and not kept from that by what isn't text."""
    folder = tmp_path / "env"
    with state.lock(folder):
        with pytest.raises(StateError, match=rf"env is being changed by process {os.getpid()} \("), state.lock(folder):
            pass
        (folder / state.LOCK).write_bytes(b"\xff")
        with pytest.raises(StateError, match="env is being changed by"), state.lock(folder):
            pass


def test_a_file_in_place_of_the_deploy_folder_is_named(tmp_path: Path) -> None:
    """Neither it nor one in place of the folder above is taken away."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/env"):
        with pytest.raises(StateError, match="a file is in its place: remove it"):
            state.make(folder)
