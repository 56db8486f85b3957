"""Part of `build`: look for updates at Debian's mirrors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..deployment.desired import desired_builds
from ..deployment.mirrors import read_mirrors, write_mirrors
from ..deployment.sources import on_host
from ..engines.debian import mirror_state
from ..errors import StateError
from ..plan.images import debian_sources
from ..session import Session

# Where neither the definition nor this host names one: mmdebstrap's own, which it has no option to print.
_DEFAULT_MIRROR = "http://deb.debian.org/debian"


@contextmanager
def refreshed(session: Session) -> Iterator[None]:
    """Record the mirrors' current packages, for the builds of the block.

    If the block fails, the former record counts again. Raises StateError if the mirrors can't be asked.
    """
    before, now = read_mirrors(session.env.root), _mirrors(session)
    for release, seen in now.items():
        state = "no updates since" if before.get(release) == seen else "other packages than at"
        session.console.say("refresh", f"{release}: {state} the last refresh ({seen})")
    write_mirrors(session.env.root, before | now)
    try:
        yield
    except BaseException:
        write_mirrors(session.env.root, before)
        raise


def _mirrors(session: Session) -> dict[str, str]:
    """Return a digest of the mirrors' packages for each Debian release that images are built from."""
    bootstrapped = [item.debian for item in desired_builds(session.env, session.engine) if item.debian]
    if not bootstrapped:
        problem = "no image is built from Debian's mirrors here: the base is pulled from a registry"
        raise StateError(f"build --refresh: {problem}", "as root: apt-get install mmdebstrap")
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
