"""Fixtures of the unit tests, which are for pure logic: none starts a program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hubenvs.load import load
from hubenvs.model import Environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that starts a program by accident fails at once, saying which."""

    def refuse(argv: object, *_: object, **__: object) -> None:
        raise AssertionError(f"a unit test started {argv}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of its own with the real definitions, manifests and seeds, which a test may change."""
    for folder in ("envs", "manifests", "volumes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("local.yaml"))
    for image in ("jupyterhub", "slurm"):
        (tmp_path / "containers" / image).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def env(root: Path) -> Environment:
    """dev_dummyauth as it is defined."""
    return load(root, "dev_dummyauth")
