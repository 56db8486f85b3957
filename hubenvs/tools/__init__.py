"""The other tasks, one module for each. `tools.<task>` is imported at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import adopt, bundle, debug, doctor, down, envs, export_volume, load, logs, push, reload
    from . import render, shell, status, test_repo, token, verify
else:

    def __getattr__(name: str) -> Any:
        return import_module(f".{name}", __name__)
