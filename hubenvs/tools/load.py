"""Task `load`: the images and working copies of a bundle, so that `up` needs no network."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..deployment.desired import desired_builds
from ..deployment.mirrors import write_mirrors
from ..engines.host import large_files
from ..errors import CommandError, StateError
from ..files import writing
from ..plan.images import container_builds
from ..session import Session
from ..stages.clone import restore
from .bundle import CHUNK, DAMAGED, IMAGES, INDEX, Index


def load(session: Session, index: Index, source: Path) -> None:
    """Load the bundle ``source``, whose ``index`` has been read: working copies first, then images.

    An existing working copy is kept. Raises StateError if the bundle is for another architecture, has other
    images than it says, or others than this checkout would build; nothing of the bundle stays then.
    """
    env, say = session.env, session.console.say
    wanted = session.architecture()
    if index.architecture and index.architecture != wanted:
        raise StateError(
            f"{source}: its images are for {index.architecture}, and those for {wanted} are needed here",
            f"make the bundle on a host with {wanted}, or with --set debian.architecture={wanted}",
        )
    _require_declared_tags(session, index, source)
    restored: list[Path] = []
    with session.locked():
        try:
            _restore_working_copies(session, index, source, restored)
            _require_images(session, index, source)
            with _member(source, IMAGES) as path, session.console.busy("load", ", ".join(index.images)):
                session.engine.images.load_images(path)
        except BaseException as error:
            for folder in restored:
                shutil.rmtree(folder)
            if isinstance(error, CommandError):
                raise StateError(f"{source}: {error.message}", DAMAGED, error.details) from None
            raise
        write_mirrors(env.root, index.mirrors)
    say("load", f"{len(index.images)} images; next: invoke up --env {env.name}")


def _require_declared_tags(session: Session, index: Index, source: Path) -> None:
    """Raise StateError unless the bundle's images have the tags that ``index`` names, and no others.

    An image of any other tag would replace this host's image of that name.
    """
    with tarfile.open(source, "r:") as tar:
        archive = tar.extractfile(IMAGES)
        assert archive  # as `read_index` has seen
        try:
            tags = session.engine.images.archived_tags(archive)
        except ValueError as error:
            raise StateError(f"{source}: {IMAGES} can't be read ({error})", DAMAGED) from None
    if differing := sorted(tags ^ set(index.images)):
        problem = f"{IMAGES} and {INDEX} differ in {', '.join(differing)}"
        raise StateError(f"{source}: {problem}", DAMAGED)


def _require_images(session: Session, index: Index, source: Path) -> None:
    """Raise StateError unless the images that this checkout would build are in the bundle."""
    planned = desired_builds(session.env, session.engine, index.images, index.mirrors)
    builds = container_builds(session.env, planned)
    if absent := sorted({build.tag for build in builds.values()} - set(index.images)):
        commit = f" (the bundle is of commit {index.checkout[:12]})" if index.checkout else ""
        raise StateError(
            f"{source}: this checkout needs {', '.join(absent)}, and the bundle has other images{commit}",
            "check that commit out, with the definition and the working copies of the bundle",
        )


def _restore_working_copies(session: Session, index: Index, source: Path, restored: list[Path]) -> None:
    """Create the missing working copies from the bundle ``source``; add their folders to ``restored``."""
    for name, commit in index.repositories.items():
        folder = session.env.working_copy(name)
        if folder.exists():
            session.console.say("load", f"{name}: kept, not replaced by {commit}")
            continue
        with _member(source, name) as path:
            restore(session, name, path)
        restored.append(folder)
        session.console.say("load", f"{name}: made at {commit}")


@contextmanager
def _member(source: Path, name: str) -> Iterator[Path]:
    """Give the path of a copy of the file ``name`` in the bundle ``source``, which has been checked."""
    with (
        tempfile.TemporaryDirectory(prefix="hubenvs-", dir=large_files()) as folder,
        tarfile.open(source, "r:") as tar,
    ):
        path = Path(folder) / "content"
        stream = tar.extractfile(name)
        assert stream
        with writing(path) as copy:
            shutil.copyfileobj(stream, copy, CHUNK)
        yield path
