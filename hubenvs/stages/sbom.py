"""Part of `build`: a bill of materials of each image."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from .. import __version__
from ..files import write
from ..plan.images import Build, container_builds
from ..plan.sbom import LIST, document
from ..session import Session


def write_sboms(session: Session, builds: tuple[Build, ...], folder: Path) -> None:
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
    images = session.engine.images
    return images.run(images.run_image_command(tag, "sh", "-euc", LIST, workdir="/"), timeout=None).text
