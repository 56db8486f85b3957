"""The volumes of an environment, and the configuration that they are seeded with."""

from __future__ import annotations

import itertools
from collections.abc import Container
from functools import partial
from pathlib import Path

from . import archive, render
from .commands import volume_argv, volume_data_argv
from .console import Console
from .engine import Engine
from .model import Environment, Volume


def seeds(env: Environment) -> dict[str, dict[str, bytes]]:
    """Return each seeded volume's files: the common ones, under the overlays that apply.

    Overlays are, in order, that of the kind of authentication, that of the environment, and those it names.
    """
    result: dict[str, dict[str, bytes]] = {}
    for volume in env.volumes:
        if volume.seeded:
            tree: dict[str, bytes] = {}
            for folder in seed_folders(env):
                tree.update(archive.read_tree(folder / volume.suffix))
            result[volume.name] = render.seed_files(env, tree)
    return result


def seed_folders(env: Environment) -> tuple[Path, ...]:
    """Return the folders of seed files; what a later one has wins."""
    names = ("common", f"auth-{env.auth.kind}", env.name)
    return (*(env.root / "volumes" / name for name in names), *env.overlay_folders)


def seed_source(env: Environment, volume: Volume, name: str) -> Path | None:
    """Return the file that ``name`` in ``volume`` is seeded from, or None if none is."""
    found = (folder / volume.suffix / f"{name}{end}" for folder in reversed(seed_folders(env)) for end in ("", ".j2"))
    return next((path for path in found if path.is_file()), None)


def make_volumes(env: Environment, there: Container[str], engine: Engine, console: Console) -> None:
    """Make the volumes of ``env`` that aren't among ``there``, and bring changed seed files into those that are."""
    seed = seeds(env)

    def make(volume: Volume) -> list[str]:
        current: dict[str, bytes] = {}
        if volume.name not in there:
            engine.run(volume_argv(volume.name, env.labels))
        elif volume.seeded:
            current = archive.unpack(engine.run(volume_data_argv("export", volume.name)).stdout)
        if not volume.seeded:
            return []
        seeding = archive.seeding(seed[volume.name], current)
        if seeding.files:
            tar = archive.pack(seeding.files, volume.owner)
            engine.run(volume_data_argv("import", volume.name), stdin=tar)
        return [f"{volume.suffix}: {note}" for note in seeding.notes]

    notes = engine.at_once([partial(make, volume) for volume in env.volumes])
    kept = sum(volume.name in there for volume in env.volumes)
    made = len(env.volumes) - kept
    console.say("volumes", ", ".join(text for count, text in ((made, f"made {made}"), (kept, f"kept {kept}")) if count))
    for note in itertools.chain.from_iterable(notes):
        console.say("volumes", note)
