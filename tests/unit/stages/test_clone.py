"""Working copies, as far as Git isn't needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.read import read_environment
from hubenvs.stages.clone import clone

from ..helpers import session


def test_prod_takes_the_packages_as_this_checkout_has_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edits in a working copy are no part of it, and the bundled source is never moved aside."""
    env = read_environment(root, "prod")
    assert env.working_copy("bricsauthenticator") == env.bundled("bricsauthenticator")
    clone(session(env, quiet=False))
    (note,) = capsys.readouterr().out.splitlines()
    assert "bundled source" in note
