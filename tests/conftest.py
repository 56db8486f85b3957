"""What unit tests and lint share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# On a busy machine one example may take longer than the 200 ms that Hypothesis allows.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def pristine_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `root` is a copy of. Nothing may be written here."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "envs", root / "envs", ignore=shutil.ignore_patterns("local.yaml"))
    for folder in ("manifests", "volumes"):
        (root / folder).symlink_to(ROOT / folder)
    for example in (root / "envs").rglob("*.example"):
        example.replace(example.with_suffix(""))
    for image in ("jupyterhub", "slurm"):
        (root / "containers" / image).mkdir(parents=True)
    files = set(root.rglob("*"))
    yield root
    assert sorted(set(root.rglob("*")) - files) == []


@pytest.fixture
def root(tmp_path: Path, pristine_root: Path) -> Path:
    """A checkout with the real manifests and seeds, and definitions of its own, which a test may change.

    What is a person's own has the content of the example beside it.
    """
    return Path(shutil.copytree(pristine_root, tmp_path, symlinks=True, dirs_exist_ok=True))
