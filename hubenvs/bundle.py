"""An environment in one file, for a machine without a network: images, working copies, manifest, with digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from . import images, render, repositories
from .commands import load_argv, save_argv
from .console import Console
from .definition import Frozen
from .engine import Engine
from .errors import DefinitionError, StateError
from .model import Environment
from .names import WORKING_COPIES

INDEX = "bundle.json"
IMAGES = "images.tar"
FORMAT = "jupyterhub-slurm bundle 1"
# Debian's /tmp is in memory from release 13 on, and images take a gigabyte.
_SCRATCH = os.environ.get("TMPDIR", "/var/tmp")
_CHUNK = 2**20
_DAMAGED = "fetch it again; nothing was loaded"


class Index(Frozen):
    """What a bundle says of itself: the environment, its images' tags, the working copies' commits, files' digests.

    ``checkout`` is the commit of this repository that it was made at, None if it was no clone.
    """

    format: str = FORMAT
    env: str
    checkout: str | None
    images: tuple[str, ...]
    repositories: Mapping[Literal["bricsauthenticator", "slurmspawner_wrappers"], str]
    files: Mapping[str, str]


def write(
    env: Environment,
    builds: tuple[images.Build, ...],
    manifest: tuple[render.Document, ...],
    target: Path,
    engine: Engine,
    console: Console,
) -> None:
    """Write the bundle of ``env`` to the file ``target``, whole or not at all.

    ``builds`` are its images, which are there, ``manifest`` what would be played, its Secrets redacted. Raises
    StateError if a working copy has changes that no commit has, or is a folder of this machine.
    """
    rows = {
        str(row["name"]): row
        for row in repositories.describe(env, engine)
        if env.working_copy(str(row["name"])) != env.bundled(str(row["name"]))  # which every checkout has
    }
    for name, row in rows.items():
        if row["commit"] is None or env.working_copy(name).parent.name != WORKING_COPIES:
            raise StateError(f"repositories.{name}: {row['url']} is not a clone that can be taken along", "use its URL")
        if row["edited"]:
            raise StateError(f"{env.working_copy(name)}: has changes that no commit has", "commit them")
    for build in builds:
        if "@" in build.tag:  # podman forgets the digest that it was pulled by
            raise StateError(
                f"images.{build.name}.image: a bundle can only contain images built here", "set it to null"
            )
    # The base comes along, its layers being there anyway: where there is no mmdebstrap it says what images stand on.
    tags = [build.tag for build in builds if build.context is None or build.name in env.containers]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        scratch = Path(folder)
        with console.busy("bundle", ", ".join(tags)):
            engine.run(save_argv(str(scratch / IMAGES), tags), timeout=None)
        for name in rows:
            argv = (
                "git",
                "-C",
                str(env.working_copy(name)),
                "bundle",
                "create",
                "--quiet",
                str(scratch / name),
                "HEAD",
            )
            engine.run(argv)
        (scratch / "manifest.yaml").write_text(render.dump(manifest))
        files = {path.name: _digest(path) for path in sorted(scratch.iterdir())}
        index = {
            "env": env.name,
            "checkout": engine.run(("git", "-C", str(env.root), "rev-parse", "HEAD"), check=False).text or None,
            "images": tags,
            "repositories": {name: row["commit"] for name, row in rows.items()},
            "files": files,
        }
        (scratch / INDEX).write_text(Index.model_validate(index).model_dump_json(indent=1))
        whole = scratch / "whole"
        with tarfile.open(whole, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in (INDEX, *files):
                tar.add(scratch / name, name)
        whole.replace(target)
    console.say("bundle", f"{target}: {target.stat().st_size / 2**20:.0f} MiB, {len(tags)} images of {env.name}")


def read(source: Path) -> Index:
    """Return the index of the bundle ``source``, all of whose content has been checked against it.

    Raises DefinitionError if it is no bundle, StateError if it is damaged or cut short.
    """
    try:
        with tarfile.open(source, "r:") as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first and first.name == INDEX and first.isfile() else None
            said = json.loads(stream.read(_CHUNK)) if stream else {}
            if not isinstance(said, dict) or said.get("format") != FORMAT:
                raise DefinitionError(f"{source}: is not a bundle of this suite", "`invoke bundle` makes one")
            index = Index.model_validate(said)
            expected = dict(index.files)
            while member := tar.next():
                content = tar.extractfile(member) if member.isfile() else None
                if content is None or expected.pop(member.name, None) != _sha256(content):
                    raise StateError(f"{source}: {member.name} is not what the bundle was made with", _DAMAGED)
            if expected:
                raise StateError(f"{source}: {', '.join(expected)} is missing", _DAMAGED)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StateError(f"{source}: {INDEX}: {where}: {error.errors()[0]['msg']}", _DAMAGED) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise StateError(f"{source}: is no bundle, or damaged ({error})", _DAMAGED) from None
    return index


def load(env: Environment, index: Index, source: Path, engine: Engine, console: Console) -> None:
    """Load the bundle ``source``, whose checked ``index`` was made of ``env``: working copies, then images.

    A working copy that is there is kept. Raises StateError, before an image is loaded, if this checkout would build
    other images than those in the bundle.
    """
    made = []
    for name, commit in index.repositories.items():
        if not env.working_copy(name).exists():
            with _member(source, name) as path:
                repositories.restore(env, name, path, engine)
            made.append(env.working_copy(name))
        console.say(
            "load", f"{name}: {'made at' if env.working_copy(name) in made else 'kept, not replaced by'} {commit}"
        )
    wanted = {build.tag for build in images.of_containers(env, images.current(env, engine, index.images)).values()}
    if absent := sorted(wanted - set(index.images)):
        for folder in made:
            shutil.rmtree(folder)
        commit = f" (the bundle is of commit {index.checkout[:12]})" if index.checkout else ""
        raise StateError(
            f"{source}: this checkout asks for {', '.join(absent)}, and the bundle has other images{commit}",
            "check that commit out, with the definition and the working copies that the bundle was made of",
        )
    with _member(source, IMAGES) as path, console.busy("load", ", ".join(index.images)):
        engine.run(load_argv(str(path)), timeout=None)
    console.say("load", f"{len(index.images)} images; next: invoke up --env {env.name}")


@contextmanager
def _member(source: Path, name: str) -> Iterator[Path]:
    """Give the path of a copy of the file ``name`` in ``source``."""
    with tempfile.TemporaryDirectory(prefix="hubenvs-", dir=_SCRATCH) as folder, tarfile.open(source, "r:") as tar:
        path = Path(folder) / "content"
        stream = tar.extractfile(name)
        assert stream  # read() has seen it
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, _CHUNK)
        yield path


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return _sha256(stream)


def _sha256(stream: IO[bytes]) -> str:
    total = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        total.update(chunk)
    return total.hexdigest()
