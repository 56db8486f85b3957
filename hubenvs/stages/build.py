"""Stage `build`: the images whose content has changed."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from ..definition.containers import CONTAINERS
from ..definition.names import LABEL_MIRRORS
from ..deployment.desired import desired_builds
from ..deployment.folder import create
from ..deployment.sources import COMMON, context_files, on_host, working_copy_files
from ..engines.debian import bootstrap_command
from ..engines.host import ca_bundle, emulation_problem, index_files
from ..engines.process import Argv
from ..errors import CommandError, StateError
from ..plan.images import DEBIAN_OPTIONS, Build, debian_sources
from ..session import Session
from .clone import clone, copy_files
from .refresh import refreshed
from .sbom import write_sboms

# A copy of this host's trusted certificates. Builds mount its folder: the host's may contain other files.
CERTIFICATES = "certificates/ca-certificates.crt"
# The folder of the files that lead to this host's package index.
INDEX = "index"
_NOTE = "note: "  # starts a line of a build's output that is meant for the user


def build(
    session: Session, sbom: Path | None = None, refresh: bool = False, *, with_debian: bool = False
) -> tuple[Build, ...]:
    """Create missing working copies, build the missing images, and return all builds.

    ``sbom``: a folder for a bill of materials of each image. ``refresh``: look at Debian's mirrors, and
    build all images anew if they have other packages than at the last refresh. ``with_debian``: the Debian
    base too, even if no missing image is built on it. Raises StateError with the last lines of a step that
    fails; images that were built before remain.
    """
    clone(session)
    with session.locked(), refreshed(session) if refresh else nullcontext():
        builds = build_images(session, with_debian=with_debian)
    if sbom:
        write_sboms(session, builds, sbom)
    return builds


def build_images(session: Session, *, with_debian: bool = False, pull: bool = True) -> tuple[Build, ...]:
    """Build the missing images, those of different containers side by side, and return all builds.

    ``pull``: also pull the images that come from a registry.
    """
    builds = desired_builds(session.env, session.engine)
    wanted = [item for item in builds if pull or not item.pulled]
    to_build = missing_builds(session, wanted, with_debian=with_debian)
    if not to_build:
        session.console.say("build", "images are up to date")
        return builds
    _require_emulation(session)
    session.engine.images.prepare_builds()
    parallel = independent_chains(to_build)
    first = [item for item in to_build if not any(item in chain for chain in parallel)]
    with session.console.busy("build", ", ".join(item.name for item in to_build)):
        _build_chain(session, first)
        session.programs.at_once([partial(_build_chain, session, chain) for chain in parallel])
    return builds


def _require_emulation(session: Session) -> None:
    """Raise StateError if this host couldn't run images of the architecture that the definition asks for."""
    wanted = session.env.debian.architecture
    problem = emulation_problem(wanted) if wanted and wanted != session.engine.images.architecture() else ""
    if problem:
        hint = "register QEMU as docs/site.md says"
        raise StateError(f"debian.architecture: {wanted}: {problem}", hint)


def independent_chains(builds: Sequence[Build]) -> list[list[Build]]:
    """Return lists of builds that can run side by side, one for each container.

    A container's build comes after that of its base image, if no other image is built on that base.
    """
    uses = Counter(build.base for build in builds)
    bases = {build.tag: build for build in builds if build.name not in CONTAINERS and uses[build.tag] == 1}
    containers = [build for build in builds if build.name in CONTAINERS]
    return [[bases[item.base], item] if item.base in bases else [item] for item in containers]


def missing_builds(
    session: Session, builds: Sequence[Build], *, with_debian: bool = False
) -> tuple[Build, ...]:
    """Return the builds whose images are missing.

    A base is needed only for a missing image above it; ``with_debian``: the Debian base always.
    """
    by_tag = {build.tag: build for build in builds}
    products = [build.tag for build in builds if build.name in CONTAINERS or (with_debian and build.debian)]
    exist = session.programs.at_once([partial(session.engine.images.has_image, tag) for tag in products])
    needed = {tag for tag, exists in zip(products, exist, strict=True) if not exists}
    for build in reversed(builds):  # from the top down
        if build.tag in needed:
            below = by_tag.keys() & {build.base, build.tools}
            needed |= {tag for tag in below if not session.engine.images.has_image(tag)}
    return tuple(build for build in builds if build.tag in needed)


def build_commands(session: Session, build: Build, scratch: Path) -> tuple[Argv, ...]:
    """Return the commands that make the image from the files that `copy_sources` puts into ``scratch``."""
    images, architecture = session.engine.images, session.env.debian.architecture
    if build.pulled:
        return (images.pull_command(build.tag, architecture),)
    if debian := build.debian:
        tar = str(scratch / "debian-base.tar")
        sources = debian_sources(on_host(debian))
        bootstrap = bootstrap_command(debian.release, tar, DEBIAN_OPTIONS, sources, architecture)
        label = f"{LABEL_MIRRORS}={build.mirrors}" if build.mirrors else None
        return bootstrap, images.import_image_command(tar, build.tag, architecture, label)
    contexts = {build.repository: str(scratch / build.repository)} if build.repository else {}
    if build.tools:
        contexts["tools"] = f"container-image://{build.tools}"
    if build.name in CONTAINERS:
        contexts[COMMON] = str(scratch / COMMON)
    return (
        images.build_command(
            tag=build.tag,
            context=scratch / "context",
            base=build.base,
            target=build.target,
            contexts=contexts,
            ca_bundle=str(scratch / CERTIFICATES) if ca_bundle() else None,
            index=str(scratch / INDEX) if index_files() else None,
            architecture=architecture,
        ),
    )


def copy_sources(session: Session, build: Build, scratch: Path) -> None:
    """Copy the image's source files into ``scratch``, with the modes that Git knows: 0644 or 0755.

    The user's umask must not become part of an image: munge and sshd refuse files that a group can write, and
    users' jobs have to be able to read.
    """
    if build.debian or build.pulled:
        return
    containers = session.env.root / "containers"
    copy_files(context_files(session.env, build.name), scratch / "context")
    if build.name in CONTAINERS:
        shutil.copytree(containers / COMMON, scratch / COMMON)
    if repository := build.repository:
        copy_files(working_copy_files(session.env, session.programs, repository), scratch / repository)
    if bundle := ca_bundle():
        (scratch / CERTIFICATES).parent.mkdir()
        shutil.copyfile(bundle, scratch / CERTIFICATES)
    for name, content in index_files().items():
        (scratch / INDEX).mkdir(exist_ok=True)
        (scratch / INDEX / name).write_text(content)
    for path in scratch.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _build_chain(session: Session, builds: Iterable[Build]) -> None:
    for build in builds:
        _build_one(session, build)


def _build_one(session: Session, build: Build) -> None:
    logs = create(session.env.deploy_folder) / "log"
    logs.mkdir(mode=0o700, exist_ok=True)
    log_path = logs / f"build-{build.name}.log"
    done_word = "pulled" if build.pulled else "built"
    with tempfile.TemporaryDirectory(prefix="hubenvs-") as folder, log_path.open("wb") as log:
        scratch = Path(folder)
        copy_sources(session, build, scratch)
        for command in build_commands(session, build, scratch):
            done = session.engine.images.run(command, check=False, log=log, timeout=None)
            if done.returncode != 0:
                failed = CommandError(command, done.returncode, log_path.read_text(errors="replace"))
                hint = f"the whole log is {log_path}"
                raise StateError(f"image {build.name} can't be {done_word}", hint, failed.details)
    session.console.say("build", f"{build.name}: {done_word} {build.tag}")
    for line in log_path.read_text(errors="replace").splitlines():
        if line.startswith(_NOTE):
            session.console.say("build", f"{build.name}: {line.removeprefix(_NOTE)}")
