"""Stage `volumes`: create the volumes and update their seed files. A file edited in a volume is kept."""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from itertools import chain

from ..definition.parts import PodVolume
from ..deployment.sources import read_seeds
from ..errors import CommandError
from ..files import Tree, not_executable, pack, unpack
from ..plan.seeds import SEED_DIGESTS, merge_seeds
from ..session import Session


def volumes(session: Session) -> None:
    """Create the missing volumes and bring changed seed files into all of them."""
    session.require_here("volumes", f"`invoke up {session.env.options}` brings changed seed files in")
    with session.locked():
        fill_volumes(session, session.own_existing().listing.volume_names)


def fill_volumes(session: Session, existing: Container[str]) -> None:
    """Do the work of `volumes`; ``existing`` has the names of all volumes.

    Raises StateError if another checkout has created the deployment meanwhile.
    """
    env = session.env
    seeds = read_seeds(env)
    calls = [
        partial(_fill, session, volume, seeds.get(volume.name), volume.name in existing)
        for volume in env.volumes
    ]
    kept = sum(volume.name in existing for volume in env.volumes)
    # A new deployment's first one alone: of two checkouts' `up` at once, only one can create it and goes on.
    alone = 0 if kept else 1
    try:
        notes = [call() for call in calls[:alone]]
    except CommandError:
        session.own_existing()
        raise
    notes += session.programs.at_once(calls[alone:])
    counts = ((len(env.volumes) - kept, "made"), (kept, "kept"))
    session.console.say("volumes", ", ".join(f"{word} {count}" for count, word in counts if count))
    for note in chain.from_iterable(notes):
        session.console.say("volumes", note)


def _fill(session: Session, volume: PodVolume, seeds: Tree | None, exists: bool) -> list[str]:
    """Create ``volume`` if needed and write its ``seeds`` (None: not seeded); return notes for the user."""
    engine = session.engine
    present: Tree = {}
    plain: set[str] = set()
    if not exists:
        engine.run(engine.create_volume_command(volume.name, session.env.labels))
    elif seeds is not None:
        tar = engine.run(engine.export_volume_command(volume.name)).stdout
        present, plain = unpack(tar), not_executable(tar)
    if seeds is None:
        return []
    seeding = merge_seeds(seeds, present, plain)
    if seeding.files:
        tar = pack(seeding.files, volume.owner, last=SEED_DIGESTS)
        engine.run(engine.import_volume_command(volume.name), stdin=tar)
    return [f"{volume.suffix}: {note}" for note in seeding.notes]
