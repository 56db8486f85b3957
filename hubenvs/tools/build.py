"""Task `build`: the images, with --refresh from updated packages, with --sbom a bill of materials of each."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from .. import __version__
from ..deployment.desired import planned_images
from ..deployment.mirrors import read_mirrors, write_mirrors
from ..deployment.sources import on_host
from ..engines.debian import mirror_state
from ..errors import StateError
from ..files import write
from ..plan.images import Build, container_builds, debian_sources
from ..plan.sbom import LIST, document
from ..session import Session
from ..stages import build as stage

# mmdebstrap's own, where neither the definition nor this host names one.
_DEFAULT_MIRROR = "http://deb.debian.org/debian"


def build(session: Session, bills: Path | None, refresh: bool = False) -> None:
    """Build the images; with ``bills`` write the bill of each to that folder.

    ``refresh``: look at Debian's mirrors, and build all images anew if they have other packages than at the
    last refresh. Raises StateError if they can't be asked. If a build fails, the former images stay in force.
    """
    builds = _refreshed(session) if refresh else stage.build(session)
    if bills:
        _write_bills(session, builds, bills)


def _refreshed(session: Session) -> tuple[Build, ...]:
    with session.locked():
        before, now = read_mirrors(session.env.root), _mirrors(session)
        for release, seen in now.items():
            state = "no updates since" if before.get(release) == seen else "other packages than at"
            session.console.say("refresh", f"{release}: {state} the last refresh ({seen})")
        write_mirrors(session.env.root, before | now)
        try:
            return stage.build(session)
        except BaseException:
            write_mirrors(session.env.root, before)
            raise


def _mirrors(session: Session) -> dict[str, str]:
    """Return a digest of what the mirrors of each Debian have that images are built from here."""
    bootstrapped = [item.debian for item in planned_images(session.env, session.engine) if item.debian]
    if not bootstrapped:
        problem = "no image is built from Debian's mirrors here: the base is pulled from a registry"
        raise StateError(f"build --refresh: {problem}", "apt install mmdebstrap")
    seen = {}
    for debian in bootstrapped:
        if debian.snapshot:
            problem = "a snapshot has no updates"
            raise StateError(f"debian.snapshot: {problem}", "name a later one, or set it to null")
        host = on_host(debian)
        sources = debian_sources(host if host.mirror else host.model_copy(update={"mirror": _DEFAULT_MIRROR}))
        try:
            seen[debian.release] = mirror_state(sources)
        except OSError as error:
            problem = f"the mirrors of Debian {debian.release} can't be asked ({error})"
            raise StateError(f"build --refresh: {problem}", "see debian.mirror in envs/base.yaml") from None
    return seen


def _write_bills(session: Session, builds: tuple[Build, ...], folder: Path) -> None:
    """Write the bill of each container's image that we build to ``folder``/<container>.cdx.json."""
    ours = [item for item in container_builds(session.env, builds).values() if not item.pulled]
    folder.mkdir(parents=True, exist_ok=True)
    with session.console.busy("sbom", ", ".join(item.name for item in ours)):
        listings = session.programs.at_once([partial(_listing, session, item.tag) for item in ours])
    for item, listing in zip(ours, listings, strict=True):
        bill = document(item.tag, listing, __version__)
        write(folder / f"{item.name}.cdx.json", json.dumps(bill, indent=1) + "\n")
        session.console.say("sbom", f"{item.name}: {len(bill['components'])} packages of {item.tag}")


def _listing(session: Session, tag: str) -> str:
    engine = session.engine
    return engine.run(engine.run_image_command(tag, "sh", "-euc", LIST, workdir="/"), timeout=None).text
