"""Reading what a deployment is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.read import read_environment
from hubenvs.deployment.sources import read_seeds
from hubenvs.errors import StateError


def test_a_folder_in_a_seed_files_place_is_refused(root: Path, tmp_path: Path) -> None:
    """The volume could only take one of the two, and only a part of the files would get there."""
    folder = tmp_path / "overlay/jupyterhub-config/common.py"
    folder.mkdir(parents=True)
    env = read_environment(root, "dev_dummyauth", settings=[f"overlays=[{tmp_path}/overlay]"])
    read_seeds(env)  # an empty one is no file's
    (folder / "x").touch()
    with pytest.raises(StateError, match=r"jupyterhub-config/common\.py: a file in one folder"):
        read_seeds(env)


def test_an_overlays_link_out_of_it_is_refused(root: Path, tmp_path: Path) -> None:
    """A file of this host, or a whole folder of it, doesn't get into a volume or a ConfigMap."""
    overlay, elsewhere = tmp_path / "overlay", tmp_path / "elsewhere"
    (overlay / "jupyterhub-config").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "secret").touch()
    env = read_environment(root, "dev_dummyauth", settings=[f"overlays=[{overlay}]"])
    for link, target in (("jupyterhub-config/x", elsewhere / "secret"), ("slurm-config", elsewhere)):
        (overlay / link).symlink_to(target)
        with pytest.raises(StateError, match=rf"overlay/{link}.*: leads out of"):
            read_seeds(env)
        (overlay / link).unlink()
