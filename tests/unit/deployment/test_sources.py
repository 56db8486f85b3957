"""Reading what a deployment is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment import sources
from hubenvs.deployment.sources import on_host, read_seeds
from hubenvs.errors import StateError
from hubenvs.plan.images import debian_sources


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


@pytest.mark.parametrize(
    ("apt", "own", "mirrors"),
    [
        (
            ["deb http://a.example/debian x main", "deb http://b.example/debian-security x main"],
            {},
            ("http://a.example/debian", "http://b.example/debian-security"),
        ),
        (["deb http://a.example/debian x main"], {}, ("http://a.example/debian", None)),
        (
            ["deb http://a.example/debian x main", "deb http://b.example/debian-security x main"],
            {"mirror": "http://own.example/debian"},
            ("http://own.example/debian", None),
        ),
        ([], {}, (None, None)),
        (["deb http://b.example/debian-security x main"], {}, (None, None)),
    ],
)
def test_mirrors_that_are_not_set_are_the_hosts(
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    apt: list[str],
    own: dict[str, str],
    mirrors: tuple[str | None, str | None],
) -> None:
    """One that is set wins over the host's. Where there is none, the build leaves it to mmdebstrap."""
    monkeypatch.setattr(sources, "read_apt_sources", lambda: apt)
    debian = on_host(env.debian.model_copy(update=own))
    assert (debian.mirror, debian.security_mirror) == mirrors
    lines = debian_sources(debian)
    assert [line.split()[1] for line in lines] == (
        [mirrors[0], mirrors[0], mirrors[1] or f"{mirrors[0]}-security"] if mirrors[0] else []
    )
