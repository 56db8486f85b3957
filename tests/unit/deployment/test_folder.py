"""What the deploy folder holds is read whole, or refused by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment import folder as deploy
from hubenvs.errors import StateError
from hubenvs.session import open_session


@pytest.mark.parametrize("content", [b"", b"\xff", b"\n"])
def test_a_damaged_secret_is_refused_and_does_not_keep_the_folder(tmp_path: Path, content: bytes) -> None:
    """A secret that is empty or isn't text is named, and the folder can be removed all the same."""
    folder = tmp_path / "env"
    deploy.write_secrets(folder, {"ssh_key": "x", "crypt_keys": "kept"})
    (folder / deploy.SECRETS / "ssh_key").write_bytes(content)
    with pytest.raises(StateError, match="ssh_key: empty, or not text"):
        deploy.read_secrets(folder)
    deploy.remove(folder, keep=("crypt_keys",))
    assert deploy.read_secrets(folder) == {"crypt_keys": "kept"}


def test_secrets_outlive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between two renames, the old ones are put back; after a kill they are found."""
    folder = tmp_path / "env"
    deploy.write_secrets(folder, {"crypt_keys": "old"})
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == deploy.NEW:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deploy.write_secrets(folder, {"crypt_keys": "new"})
    assert deploy.read_secrets(folder) == {"crypt_keys": "old"}

    (folder / deploy.SECRETS).rename(folder / deploy.OLD)  # as a kill would have left them
    (folder / deploy.NEW).mkdir()
    assert deploy.read_secrets(folder) == {"crypt_keys": "old"}
    deploy.write_secrets(folder, {"crypt_keys": "new"})
    assert [path.name for path in folder.iterdir()] == [deploy.SECRETS]


@pytest.fixture
def another_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AbstractContextManager[None]]:
    """A lock as another process takes it, which doesn't know what this one holds."""

    @contextlib.contextmanager
    def lock(folder: Path) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(deploy, "_held", set())
            with deploy.lock(folder):
                yield

    return lock


def test_a_lock_whose_folder_is_gone_locks_nothing(
    tmp_path: Path, another_task: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """`down` removes the folder that it has locked; who opened the lock meanwhile doesn't hold it."""
    folder = tmp_path / "env"
    with deploy.lock(folder):
        deploy.remove(folder)
        with another_task(folder):
            pass
        assert not folder.exists()
        (folder / deploy.SECRETS).mkdir(parents=True)
    assert (folder / deploy.SECRETS).is_dir()


def test_a_record_of_the_version_before_is_taken_over(env: Environment, root: Path) -> None:
    """It had ports and digests as text, and the definition in a file of its own."""
    folder = deploy.create(env.deploy_folder)
    deployed = env.with_ports({"jupyterhub": 8001})
    definition = deployed.model_dump_json(by_alias=True, exclude={"dummy_password"})
    (folder / "record.json").write_text('{"jupyterhub": "8001", "reloaded": "3f0c", "digest": "0a1b2c"}')
    (folder / "definition.json").write_text(definition)
    record = deploy.read_record(folder)
    assert (record.ports, record.environment, record.reloaded) == ({"jupyterhub": 8001}, deployed, {})
    opened = open_session(root, env.name, as_deployed=True, dry=True)
    assert opened.env.hub_url == "http://127.0.0.1:8001/jupyter"
    deploy.write_record(folder, record)
    assert sorted(path.name for path in folder.iterdir()) == ["record.json"]
    assert deploy.read_record(folder).environment == deployed


def test_an_instance_keeps_the_ports_of_the_version_before(root: Path) -> None:
    """Its next `up` publishes the hub where it was, not at the next free port."""
    env = read_environment(root, "dev_dummyauth", instance="mine").with_ports({"jupyterhub": 8765})
    folder = deploy.create(env.deploy_folder)
    (folder / "record.json").write_text('{"jupyterhub": "8765"}')
    (folder / "definition.json").write_text(env.model_dump_json(by_alias=True))
    assert (
        open_session(root, env.name, instance="mine", dry=True).env.hub_url == "http://127.0.0.1:8765/jupyter"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"jupyterhub": null}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: bytes) -> None:
    """What isn't a mapping of text is named instead of read."""
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(StateError, match=r"record\.json: damaged"):
        deploy.read_record(tmp_path)


def test_who_holds_a_lock_is_said_whatever_stands_in_it(
    tmp_path: Path, another_task: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """The second task is refused with the first one's name, and not kept from that by what isn't text."""
    folder = tmp_path / "env"
    with deploy.lock(folder):
        with (
            pytest.raises(StateError, match=rf"env is being changed by process {os.getpid()} \("),
            another_task(folder),
        ):
            pass
        (folder / deploy.LOCK).write_bytes(b"\xff")
        with pytest.raises(StateError, match="env is being changed by"), another_task(folder):
            pass


def test_a_file_in_place_of_the_deploy_folder_is_named(tmp_path: Path) -> None:
    """Neither it nor one in place of the folder above is taken away."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/env"):
        with pytest.raises(StateError, match="a file is in its place: remove it"):
            deploy.create(folder)
