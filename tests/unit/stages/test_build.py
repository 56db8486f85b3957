"""What an image is built from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.engines import host
from hubenvs.engines.podman import Podman
from hubenvs.plan.images import Build
from hubenvs.stages.build import build_commands, copy_sources, independent_chains, missing_builds

from ..helpers import session


def test_a_persons_umask_is_no_part_of_an_image(env: Environment, root: Path, tmp_path: Path) -> None:
    """Whether a checkout was made with umask 002, 022 or 077, an image has the modes that Git has."""
    context, scratch = root / "containers/base", tmp_path / "scratch"
    (context / "files/etc").mkdir(parents=True)
    scratch.mkdir()
    for name, content, mode in (
        ("files/etc/conf", "a", 0o600),
        ("files/run", "b", 0o770),
        ("files/etc", None, 0o775),
    ):
        if content:
            (context / name).write_text(content)
        (context / name).chmod(mode)
    copy_sources(session(env), Build("base", "tag", "scratch"), scratch)
    made = [scratch / "context", *(scratch / "context").rglob("*")]
    modes = {str(path.relative_to(scratch)): path.stat().st_mode & 0o777 for path in made}
    assert modes == {
        "context": 0o755,
        "context/files": 0o755,
        "context/files/etc": 0o755,
        "context/files/etc/conf": 0o644,
        "context/files/run": 0o755,
    }


def test_the_hosts_package_index_is_in_files_alone(
    env: Environment, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds mount them; the address, which may have a password in it, is in no command line."""
    (root / "containers/base").mkdir(parents=True)
    (root / "containers/base/Containerfile").touch()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://site:s3cr3t@pypi.example.org/simple")
    build = Build("base", "tag", "scratch")
    copy_sources(session(env), build, tmp_path)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["pip.conf", "uv.toml"]
    (command,) = build_commands(session(env), build, tmp_path)
    assert f"{tmp_path}/index:/mnt:ro" in command
    assert "s3cr3t" not in str(command)
    monkeypatch.setattr(host, "python_index", lambda: None)
    assert "/mnt" not in str(build_commands(session(env), build, tmp_path))


def test_a_base_is_built_with_the_container_that_alone_needs_it() -> None:
    """What others stand on too is built before all of them."""
    debian = Build("debian-base", "debian", "scratch")
    slurm_base, hub_base = Build("slurm-base", "sb", "debian"), Build("jupyterhub-base", "hb", "debian")
    slurm, accounting = Build("slurm", "s", "sb"), Build("accounting", "a", "sb")
    hub, gateway = Build("jupyterhub", "h", "hb"), Build("gateway", "g", "debian")
    builds = (debian, slurm_base, hub_base, slurm, accounting, hub, gateway)
    assert independent_chains(builds) == [[slurm], [accounting], [hub_base, hub], [gateway]]
    assert independent_chains((debian, slurm_base, slurm)) == [[slurm_base, slurm]]


def test_a_bundle_has_the_base_though_it_was_removed(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`podman image prune --all` takes the base's name from it; the images on it stay, and `up` needs no other."""
    monkeypatch.setattr(Podman, "has_image", lambda self, tag: tag in ("base", "slurm"))
    debian = Build("debian-base", "debian", "scratch", debian=env.debian)
    builds = (debian, Build("slurm-base", "base", "debian"), Build("slurm", "slurm", "base"))
    assert missing_builds(session(env), builds) == ()
    assert missing_builds(session(env), builds, with_debian=True) == (debian,)
