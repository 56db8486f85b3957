"""The stages of `invoke up`, one module for each. `stages.<stage>` is imported at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import build, check, clone, dry_run, play, secrets, up, volumes, wait
else:

    def __getattr__(name: str) -> Any:
        return import_module(f".{name}", __name__)
