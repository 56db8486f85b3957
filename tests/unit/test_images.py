"""The plan of builds, as data: what stands on what, and when a tag changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs import images
from hubenvs.load import load
from hubenvs.model import Environment


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, dict[str, Path]]:
    """A working copy of each development repository, with one file."""
    result = {}
    for name in ("bricsauthenticator", "slurmspawner_wrappers"):
        file = tmp_path / name / "module.py"
        file.parent.mkdir()
        file.write_text("x = 1\n")
        result[name] = {"module.py": file}
    return result


def by_name(env: Environment, copies: dict[str, dict[str, Path]], mmdebstrap: bool = True) -> dict[str, images.Build]:
    return {build.name: build for build in images.plan(env, copies, mmdebstrap)}


def test_each_image_stands_on_the_one_below(env: Environment, copies: dict[str, dict[str, Path]]) -> None:
    """debian-base, then the two bases, then the two product images in their stage."""
    builds = by_name(env, copies)
    assert list(builds) == ["debian-base", "tools", "jupyterhub-base", "slurm-base", "jupyterhub", "slurm"]
    for name in list(builds)[1:]:
        below = images.CHAIN[name]
        assert builds[name].base == builds[below].tag
    assert builds["slurm"].target == "stage-dev"


def test_a_script_that_can_be_run_now_is_another_image(root: Path, copies: dict[str, dict[str, Path]]) -> None:
    """`chmod +x` is what `build` takes along, so it is part of what the tag stands for."""
    env = load(root, "dev_dummyauth")
    script = root / "containers/slurm/files/entrypoint"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    before = by_name(env, copies)
    script.chmod(0o755)
    after = by_name(env, copies)
    assert {name for name, build in after.items() if build.tag != before[name].tag} == {"slurm"}


def test_an_edit_changes_only_the_image_that_carries_it(env: Environment, copies: dict[str, dict[str, Path]]) -> None:
    """A changed working copy gives a new hub image, and nothing else."""
    before = by_name(env, copies)
    copies["bricsauthenticator"]["module.py"].write_text("x = 2\n")
    after = by_name(env, copies)
    assert [name for name in before if before[name].tag != after[name].tag] == ["jupyterhub"]


def test_what_containers_have_in_common_changes_them_alone(
    env: Environment, copies: dict[str, dict[str, Path]]
) -> None:
    """A file of containers/common gives every container a new image, and what those stand on is kept."""
    before = by_name(env, copies)
    common = env.root / "containers/common/usr/local/lib/entrypoint.sh"
    common.parent.mkdir(parents=True)
    common.write_text("# changed\n")
    after = by_name(env, copies)
    assert [name for name in before if before[name].tag != after[name].tag] == list(env.containers)


def test_a_site_can_put_its_own_image_underneath(root: Path, copies: dict[str, dict[str, Path]]) -> None:
    """With `images.jupyterhub.base` our own hub base isn't built."""
    env = load(root, "dev_dummyauth", settings=["images.jupyterhub.base=quay.io/jupyterhub/jupyterhub:5.4"])
    builds = by_name(env, copies)
    assert "jupyterhub-base" not in builds
    assert builds["jupyterhub"].base == "quay.io/jupyterhub/jupyterhub:5.4"


def test_an_image_of_a_registry_is_pulled_and_nothing_built_for_it(
    root: Path, copies: dict[str, dict[str, Path]]
) -> None:
    """With `images.slurm.image` neither it nor what would be underneath is built; the other container's is."""
    image = f"example.org/slurm@sha256:{'0' * 64}"
    env = load(root, "dev_dummyauth", settings=["stage=prod", f"images.slurm.image={image}"])
    builds = by_name(env, copies)
    assert list(builds) == ["debian-base", "tools", "jupyterhub-base", "jupyterhub", "slurm"]
    assert builds["slurm"].commands(env, Path()) == (("podman", "pull", "--quiet", image),)


def test_without_mmdebstrap_the_base_is_pulled(env: Environment, copies: dict[str, dict[str, Path]]) -> None:
    """Elsewhere than on Debian the base comes from a registry."""
    builds = by_name(env, copies, mmdebstrap=False)
    assert "debian-base" not in builds
    assert builds["slurm-base"].base == "docker.io/library/debian:trixie-slim"


def test_a_snapshot_takes_the_place_of_the_mirrors(root: Path) -> None:
    """With a date, every line of sources.list names that day's archive."""
    env = load(root, "dev_dummyauth", settings=["debian.snapshot=20260901T000000Z"])
    assert all("/20260901T000000Z trixie" in line for line in images.sources(env.debian))


def test_a_persons_umask_is_no_part_of_an_image(env: Environment, tmp_path: Path) -> None:
    """Whether a checkout was made with umask 002, 022 or 077, an image has the modes that Git has."""
    context, scratch = tmp_path / "gateway", tmp_path / "scratch"
    (context / "files/etc").mkdir(parents=True)
    scratch.mkdir()
    for name, content, mode in (("files/etc/conf", "a", 0o600), ("files/run", "b", 0o770), ("files/etc", None, 0o775)):
        if content:
            (context / name).write_text(content)
        (context / name).chmod(mode)
    images.Build("base", "tag", "scratch", context).gather(env, scratch)
    made = [scratch / "context", *(scratch / "context").rglob("*")]
    modes = {str(path.relative_to(scratch)): path.stat().st_mode & 0o777 for path in made}
    assert modes == {
        "context": 0o755,
        "context/files": 0o755,
        "context/files/etc": 0o755,
        "context/files/etc/conf": 0o644,
        "context/files/run": 0o755,
    }
