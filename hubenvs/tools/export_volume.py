"""Task `export-volume`: a volume as a tar file."""

from __future__ import annotations

from pathlib import Path

from ..errors import DefinitionError, StateError, suggestion
from ..files import writing
from ..session import Session


def export_volume(session: Session, volume: str, output: Path) -> None:
    """Write the environment's ``volume``, such as jupyterhub-data, to the tar ``output``."""
    names = {item.suffix: item.name for item in session.env.volumes}
    if volume not in names:
        hint = suggestion(volume, names)
        raise DefinitionError(f"--volume {volume}: {session.env.name} has no such volume", hint)
    name = names[volume]
    if name not in session.engine.listing().volume_names:
        raise StateError(f"volume {name} is not there", f"invoke volumes {session.env.options}")
    with writing(output) as stream:
        session.engine.run(session.engine.export_volume_command(name), timeout=None, stdout=stream)
    session.console.say("export", f"{name} to {output}")
