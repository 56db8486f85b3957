"""Read the source files of images, volumes and the manifest from this checkout."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import jinja2

from ..definition.containers import BASE_IMAGES, REPOSITORIES
from ..definition.environment import Environment
from ..definition.names import WORKING_COPIES
from ..definition.parts import PodVolume
from ..definition.schema import Debian
from ..engines import git
from ..engines.debian import host_mirrors, read_apt_sources
from ..engines.process import Programs
from ..errors import StateError
from ..files import paths, read_tree
from ..plan.images import Sources, repositories_in
from ..plan.manifest import compiled_templates
from ..plan.seeds import render_seeds

# Folder of the files in every container's image, and of the seed files of every environment.
COMMON = "common"
# Not part of an image's build context: working copies, and the bundled source of a development repository.
_NOT_CONTEXT = (WORKING_COPIES, *REPOSITORIES)
# A folder jupyterhub-<version> beside a Containerfile: files that replace the others for that version.
_VERSION_FOLDER = "jupyterhub-"


@functools.cache
def read_templates(root: Path) -> jinja2.Environment:
    """Return the templates of the checkout ``root``."""
    return compiled_templates(read_tree(root / "manifests"))


def seed_folders(env: Environment) -> tuple[Path, ...]:
    """Return the folders of seed files; later ones win: common, kind of log-in, environment, overlays."""
    names = (COMMON, f"auth-{env.auth.kind}", env.name)
    return (*(env.root / "volumes" / name for name in names), *env.overlay_folders)


def read_seeds(env: Environment) -> dict[str, dict[str, bytes]]:
    """Return the rendered seed files of each seeded volume, by the volume's name.

    Raises StateError if one of them is where another one's folder is.
    """
    result: dict[str, dict[str, bytes]] = {}
    for volume in env.volumes:
        if volume.seeded:
            tree: dict[str, bytes] = {}
            for folder in seed_folders(env):
                tree.update(read_tree(folder / volume.suffix, within=folder))
            seeds = result[volume.name] = render_seeds(env, read_templates(env.root), tree)
            parents = {str(parent) for name in seeds for parent in Path(name).parents}
            if both := sorted(parents & seeds.keys()):
                problem = (
                    f"{volume.suffix}/{both[0]}: a file in one folder of seed files, a folder in another"
                )
                raise StateError(problem, "rename the one in the overlay")
    return result


def seed_source(env: Environment, volume: PodVolume, name: str) -> Path | None:
    """Return the file that ``name`` in ``volume`` is seeded from; None if there is none."""
    candidates = (
        folder / volume.suffix / f"{name}{ending}"
        for folder in reversed(seed_folders(env))
        for ending in ("", ".j2")
    )
    return next((path for path in candidates if path.is_file()), None)


def working_copy_files(env: Environment, programs: Programs, repository: str) -> dict[str, Path]:
    """Return the files of the working copy of ``repository``; before it is cloned, of the bundled source."""
    folder = env.working_copy(repository)
    if not folder.is_dir():
        folder = env.bundled(repository)
    return git.working_files(programs, folder, is_root=folder.parent.name == WORKING_COPIES)


def context_files(env: Environment, image: str) -> dict[str, Path]:
    """Return the files of the build context of ``image``, by their path in it, for ``hub.version``."""
    folder = env.root / "containers" / image
    files = paths(folder, _NOT_CONTEXT)
    shared = {name: path for name, path in files.items() if not name.startswith(_VERSION_FOLDER)}
    return shared | paths(folder / f"{_VERSION_FOLDER}{env.hub.version}")


def on_host(debian: Debian) -> Debian:
    """Return ``debian`` with this host's mirrors where its own are null; they may stay null."""
    main, security = host_mirrors(read_apt_sources())
    if debian.mirror:
        return debian
    return debian.model_copy(
        update={"mirror": main, "security_mirror": debian.security_mirror or security if main else None}
    )


def read_sources(env: Environment, programs: Programs) -> Sources:
    """Return the content of everything that the images of ``env`` are built from."""
    images = {*BASE_IMAGES, *(row.name for row in env.rows if row.below)}
    return Sources(
        contexts={name: _tree(context_files(env, name)) for name in images},
        common=_tree(paths(env.root / "containers" / COMMON)),
        copies={name: _tree(working_copy_files(env, programs, name)) for name in repositories_in(env)},
    )


def _tree(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the content of ``files``; each name gets the one mode bit that images keep."""
    return {f"{name}:{path.stat().st_mode & 0o100:o}": path.read_bytes() for name, path in files.items()}
