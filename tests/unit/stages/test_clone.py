"""Working copies, as far as Git isn't needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.read import read_environment
from hubenvs.engines.git import working_files
from hubenvs.errors import StateError
from hubenvs.stages.clone import clone

from ..helpers import NoGit, session


def test_prod_takes_the_packages_as_this_checkout_has_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edits in a working copy are no part of it, and the bundled source is never moved aside."""
    env = read_environment(root, "prod")
    assert env.working_copy("bricsauthenticator") == env.bundled("bricsauthenticator")
    clone(session(env, quiet=False))
    (note,) = capsys.readouterr().out.splitlines()
    assert "bundled source" in note


@pytest.mark.parametrize("link", ["file", "folder/file"])
def test_a_clone_gets_no_file_of_this_host_into_an_image(tmp_path: Path, link: str) -> None:
    """Whoever wrote the repository can't know what is at the other end; links within it are taken."""
    clone, host = tmp_path / "clone", tmp_path / "host"
    for folder in (clone, host):
        folder.mkdir()
        (folder / "file").touch()
    (clone / "within").symlink_to("file")
    assert working_files(NoGit(), clone, is_root=True).keys() == {"file", "within"}
    if link == "file":
        (clone / "out").symlink_to(host / link)
    else:
        (clone / "folder").symlink_to(host)
        assert working_files(NoGit(), clone, is_root=True).keys() == {"file", "within"}  # not followed
        (clone / "out").symlink_to("folder/file")
    with pytest.raises(StateError, match=r"out: leads out of .*clone"):
        working_files(NoGit(), clone, is_root=True)
