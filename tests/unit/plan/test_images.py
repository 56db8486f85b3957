"""The plan of builds, as data: what stands on what, and when a tag changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hubenvs.definition.containers import BASE_IMAGES, CONTAINERS, REPOSITORIES
from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment.sources import read_sources
from hubenvs.plan.images import Build, debian_sources, plan_images
from hubenvs.stages.build import build_commands

from ..helpers import NoGit, session


@pytest.fixture(autouse=True)
def copies(root: Path) -> dict[str, Path]:
    """A file in the bundled source of each development repository."""
    result = {}
    for name, container in REPOSITORIES.items():
        result[name] = file = root / "containers" / container / name / "module.py"
        file.parent.mkdir()
        file.write_text("x = 1\n")
    return result


def by_name(env: Environment, mmdebstrap: bool = True) -> dict[str, Build]:
    return {build.name: build for build in plan_images(env, read_sources(env, NoGit()), mmdebstrap)}


def test_each_image_stands_on_the_one_below(env: Environment) -> None:
    """debian-base, then the two bases, then the two product images in their stage."""
    builds = by_name(env)
    assert list(builds) == ["debian-base", "tools", "jupyterhub-base", "slurm-base", "jupyterhub", "slurm"]
    for name in list(builds)[1:]:
        below = CONTAINERS[name].below if name in CONTAINERS else BASE_IMAGES[name]
        assert below is not None
        assert builds[name].base == builds[below].tag
    assert builds["slurm"].target == "stage-dev"


def test_a_script_that_can_be_run_now_is_another_image(root: Path) -> None:
    """`chmod +x` is what `build` takes along, so it is part of what the tag stands for."""
    env = read_environment(root, "dev_dummyauth")
    script = root / "containers/slurm/files/entrypoint"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    before = by_name(env)
    script.chmod(0o755)
    after = by_name(env)
    assert {name for name, build in after.items() if build.tag != before[name].tag} == {"slurm"}


def test_an_edit_changes_only_the_image_that_carries_it(env: Environment, copies: dict[str, Path]) -> None:
    """A changed working copy gives a new hub image, and nothing else."""
    before = by_name(env)
    copies["bricsauthenticator"].write_text("x = 2\n")
    after = by_name(env)
    assert [name for name in before if before[name].tag != after[name].tag] == ["jupyterhub"]


def test_what_containers_have_in_common_changes_them_alone(env: Environment) -> None:
    """A file of containers/common gives every container a new image, and what those stand on is kept."""
    before = by_name(env)
    common = env.root / "containers/common/usr/local/lib/entrypoint.sh"
    common.parent.mkdir(parents=True)
    common.write_text("# changed\n")
    after = by_name(env)
    assert [name for name in before if before[name].tag != after[name].tag] == list(env.containers)


def test_a_site_can_put_its_own_image_underneath(root: Path) -> None:
    """With `images.jupyterhub.base` our own hub base isn't built."""
    env = read_environment(
        root, "dev_dummyauth", settings=["images.jupyterhub.base=quay.io/jupyterhub/jupyterhub:5.4"]
    )
    builds = by_name(env)
    assert "jupyterhub-base" not in builds
    assert builds["jupyterhub"].base == "quay.io/jupyterhub/jupyterhub:5.4"


def test_an_image_of_a_registry_is_pulled_and_nothing_built_for_it(root: Path) -> None:
    """With `images.slurm.image` neither it nor the image below is built; the other container's is."""
    image = f"example.org/slurm@sha256:{'0' * 64}"
    env = read_environment(root, "dev_dummyauth", settings=["stage=prod", f"images.slurm.image={image}"])
    builds = by_name(env)
    assert list(builds) == ["debian-base", "tools", "jupyterhub-base", "jupyterhub", "slurm"]
    assert build_commands(session(env), builds["slurm"], Path()) == (("podman", "pull", "--quiet", image),)


def test_without_mmdebstrap_the_base_is_pulled(env: Environment) -> None:
    """Elsewhere than on Debian the base comes from a registry."""
    builds = by_name(env, mmdebstrap=False)
    assert "debian-base" not in builds
    assert builds["slurm-base"].base == "docker.io/library/debian:trixie-slim"


def test_updates_of_debian_give_every_image_another_tag(env: Environment) -> None:
    """What the mirrors had is a label of the base, and so of all above it; other releases' don't matter."""
    sources = read_sources(env, NoGit())
    before, other, after = (
        plan_images(env, replace(sources, mirrors=mirrors), True)
        for mirrors in ({}, {"sid": "1"}, {"trixie": "abc"})
    )
    assert before == other
    assert {item.tag for item in before}.isdisjoint(item.tag for item in after)
    assert "LABEL jupyterhub-slurm/mirrors=abc" in build_commands(session(env), after[0], Path())[1]
    assert "jupyterhub-slurm/mirrors" not in str(build_commands(session(env), before[0], Path()))


def test_a_snapshot_takes_the_place_of_the_mirrors(root: Path) -> None:
    """With a date, every line of sources.list names that day's archive."""
    env = read_environment(root, "dev_dummyauth", settings=["debian.snapshot=20260901T000000Z"])
    assert all("/20260901T000000Z trixie" in line for line in debian_sources(env.debian))


def test_images_for_another_architecture_have_tags_of_their_own(root: Path) -> None:
    """They are those of this host's images and the architecture; every command of their builds names it."""
    before = by_name(read_environment(root, "dev_dummyauth"))
    env = read_environment(root, "dev_dummyauth", settings=["debian.architecture=arm64"])
    builds = by_name(env)
    assert {name: build.tag for name, build in builds.items()} == {
        name: f"{build.tag}-arm64" for name, build in before.items()
    }
    tags = {build.tag for build in builds.values()}
    assert {build.base for build in builds.values()} <= {*tags, "scratch"}
    assert {build.tools for build in builds.values()} == {None, builds["tools"].tag}
    assert {name: build.recipe for name, build in builds.items()} == {
        name: build.recipe for name, build in before.items()
    }
    bootstrap, imported = build_commands(session(env), builds["debian-base"], Path())
    assert "--architectures=arm64" in bootstrap
    assert "--arch=arm64" in imported
    assert "--arch=arm64" in build_commands(session(env), builds["slurm"], Path())[0]


@pytest.mark.parametrize("release", ["26.05", 26.05])
def test_slurms_release_decides_which_debian_its_images_stand_on(root: Path, release: object) -> None:
    """Slurm 26.05 is in sid, a single suite; the hub's image and the build tools stay on the other Debian."""
    env = read_environment(
        root,
        "dev_dummyauth",
        settings=[
            f"slurm.release={release}",
            "slurm.accounting=true",
            "debian.mirror=http://example.org/debian",
        ],
    )
    builds = plan_images(env, read_sources(env, NoGit()), True)
    trixie, sid = (build for build in builds if build.name == "debian-base")
    assert sid.debian is not None
    assert debian_sources(sid.debian) == (f"deb [check-valid-until=no] {env.debian.mirror} sid main",)
    bases = {build.name: build.base for build in builds}
    assert {name for name, base in bases.items() if base == sid.tag} == {"slurm-base", "accounting"}
    assert {name for name, base in bases.items() if base == trixie.tag} == {"tools", "jupyterhub-base"}
    pulled = plan_images(env, read_sources(env, NoGit()), False)
    assert "docker.io/library/debian:sid-slim" in {build.base for build in pulled}


@pytest.mark.parametrize("version", ["6.1", 6.1])
def test_the_hubs_version_has_locks_of_its_own(root: Path, version: object) -> None:
    """Its files take the place of those with the same name; images without such files stay as they are."""
    for name in ("requirements.txt", "jupyterhub-6.1/requirements.txt"):
        file = root / "containers/jupyterhub-base" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    env = read_environment(root, "dev_dummyauth", settings=[f"hub.version={version}"])
    context = read_sources(env, NoGit()).contexts["jupyterhub-base"]
    assert context["requirements.txt:0"] == b"jupyterhub-6.1/requirements.txt"
    assert [name for name in context if "6.1" in name] == []
    before, after = by_name(read_environment(root, "dev_dummyauth")), by_name(env)
    changed = {name for name, build in after.items() if build.tag != before[name].tag}
    assert changed == {"jupyterhub-base", "jupyterhub"}
