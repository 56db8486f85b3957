"""Task `bundle`: an environment in one file, for a machine without a network. `load` reads it."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ..definition.names import WORKING_COPIES
from ..definition.schema import Frozen
from ..deployment.mirrors import read_mirrors
from ..engines.git import Git
from ..errors import DefinitionError, StateError
from ..files import require_file, sha256
from ..plan.images import Build
from ..plan.manifest import dump
from ..session import Session
from ..stages.build import build
from ..stages.clone import working_copies
from .render import render_manifest

INDEX = "bundle.json"
IMAGES = "images.tar"
FORMAT = "jupyterhub-slurm bundle 1"
CHUNK = 2**20  # bytes that are read at once
DAMAGED = "fetch it again; nothing was loaded"


class Index(Frozen):
    """The index of a bundle: environment, image tags, commits of working copies, digests of files.

    ``checkout`` is the commit of this repository, None if it isn't a clone. ``architecture`` is that of the
    images, such as arm64; hubenvs<0.2: None, not recorded. ``mirrors``: see `read_mirrors`.
    """

    format: str = FORMAT
    env: str
    checkout: str | None
    architecture: str | None = None
    images: tuple[str, ...]
    repositories: Mapping[Literal["bricsauthenticator", "slurmspawner_wrappers"], str]
    files: Mapping[str, str]
    mirrors: Mapping[str, str] = {}


def bundle(session: Session, target: Path) -> None:
    """Build the images and write the bundle to the file ``target``, completely or not at all.

    Raises StateError if a working copy has uncommitted changes or is a folder of this machine, or an image is
    pulled by digest.
    """
    require_file(target)
    env, engine = session.env, session.engine
    builds = build(session, with_debian=True)
    with session.locked():
        commits = _commits(session)
        tags = _tags(session, builds)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            scratch = Path(folder)
            with session.console.busy("bundle", ", ".join(tags)):
                engine.images.save_images(tags, scratch / IMAGES)
            for name in commits:
                git = Git(session.programs, env.working_copy(name))
                git("bundle", "create", "--quiet", str(scratch / name), "HEAD", check=True)
            (scratch / "manifest.yaml").write_text(dump(render_manifest(session)))
            index = Index(
                env=env.name,
                checkout=Git(session.programs, env.root)("rev-parse", "HEAD").text or None,
                architecture=session.architecture(),
                images=tuple(tags),
                repositories=commits,  # type: ignore[arg-type]  # pydantic checks the names
                mirrors=read_mirrors(env.root),
                files={path.name: _digest(path) for path in sorted(scratch.iterdir())},
            )
            _archive(scratch, index).replace(target)
    size = target.stat().st_size / 2**20
    session.console.say("bundle", f"{target}: {size:.0f} MiB, {len(tags)} images of {env.name}")


def _archive(folder: Path, index: Index) -> Path:
    """Return a tar in ``folder`` of ``index`` and the files in ``folder`` that it names."""
    (folder / INDEX).write_text(index.model_dump_json(indent=1))
    archive = folder / "bundle"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (INDEX, *index.files):
            tar.add(folder / name, name)
    return archive


def _commits(session: Session) -> dict[str, str]:
    """Return the commit of each working copy for the bundle; bundled sources are in every checkout."""
    env, commits = session.env, {}
    for name, url, commit, edited in working_copies(session):
        folder = env.working_copy(name)
        if folder == env.bundled(name):
            continue
        if commit is None or folder.parent.name != WORKING_COPIES:
            hint = "use its URL"
            raise StateError(f"repositories.{name}: {url} isn't a clone, so it can't be bundled", hint)
        if edited:
            raise StateError(f"{folder}: has uncommitted changes", "commit them")
        commits[name] = commit
    return commits


def _tags(session: Session, builds: tuple[Build, ...]) -> list[str]:
    """Return the tags to save: the containers' images and the Debian base, whose layers they contain.

    Where there is no mmdebstrap, the base tells `load` which Debian the images are built on.
    """
    for item in builds:
        if "@" in item.tag:  # the engine forgets the digest by which an image was pulled
            problem = f"images.{item.name}.image: a bundle can only contain images built here"
            raise StateError(problem, "set it to null")
    return [item.tag for item in builds if item.debian or item.name in session.env.containers]


def read_index(source: Path) -> Index:
    """Return the index of the bundle ``source``, after checking the bundle's content against it.

    Raises DefinitionError if it isn't a bundle, StateError if it is damaged or truncated.
    """
    try:
        with tarfile.open(source, "r:") as tar:
            index = _first_member(tar, source)
            expected = dict(index.files)
            if absent := {IMAGES, *index.repositories} - expected.keys():
                raise StateError(f"{source}: {INDEX} has no {', '.join(sorted(absent))}", DAMAGED)
            while member := tar.next():
                # A sparse file may claim any size, a negative one leads back to where it was read.
                plain = member.isfile() and not member.issparse() and member.size >= 0
                content = tar.extractfile(member) if plain else None
                if content is None or expected.pop(member.name, None) != sha256(content):
                    raise StateError(f"{source}: {member.name} is not what the bundle was made with", DAMAGED)
            if expected:
                raise StateError(f"{source}: {', '.join(expected)} is missing", DAMAGED)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StateError(f"{source}: {INDEX}: {where}: {error.errors()[0]['msg']}", DAMAGED) from None
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, RecursionError) as error:
        raise StateError(f"{source}: is no bundle, or damaged ({error})", DAMAGED) from None
    return index


def _first_member(tar: tarfile.TarFile, source: Path) -> Index:
    first = tar.next()
    stream = tar.extractfile(first) if first and first.name == INDEX and first.isfile() else None
    content = json.loads(stream.read(CHUNK)) if stream else {}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DefinitionError(f"{source}: is not a bundle of this suite", "`invoke bundle` makes one")
    return Index.model_validate(content)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256(stream)
