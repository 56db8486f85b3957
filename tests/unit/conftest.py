"""Fixtures of the unit tests, which are for pure logic: none starts a program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that starts a program by accident fails at once, saying which."""

    def refuse(argv: object, *_: object, **__: object) -> None:
        raise AssertionError(f"a unit test started {argv}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def env(request: pytest.FixtureRequest, pristine_root: Path) -> Environment:
    """dev_dummyauth as it is defined: in `root` if the test asks for that, else where nothing may be changed."""
    root = request.getfixturevalue("root") if "root" in request.fixturenames else pristine_root
    return read_environment(root, "dev_dummyauth")
