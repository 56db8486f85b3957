"""Environment variables that set keys of a definition: INVOKE_HUBENVS_SLURM_NODES=4 sets slurm.nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import DefinitionError, suggestion
from .layers import Layer, parse_value, single_key

PREFIX = "INVOKE_HUBENVS_"


def layers(base: Mapping[str, Any], variables: Mapping[str, str]) -> tuple[Layer, ...]:
    """Return a layer for each of ``variables`` with our prefix; ``base`` is the content of base.yaml.

    Values are YAML, like those of --set. Raises DefinitionError for a variable that matches no key.
    """
    keys = dict(_names(base, PREFIX))
    result = []
    for name in sorted(variables):
        if not name.startswith(PREFIX):
            continue
        if name not in keys:
            problem = "no key of the definition has this variable"
            raise DefinitionError(f"{name}: {problem}", suggestion(name, keys))
        result.append(single_key(keys[name], parse_value(variables[name], name), name))
    return tuple(result)


def _names(base: Mapping[str, Any], prefix: str, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the variable of each key below ``base``, with the key."""
    for key, value in base.items():
        name = f"{prefix}{key}".upper().replace("-", "_")  # no shell sets a variable with "-"
        if isinstance(value, dict):
            yield from _names(value, f"{name}_", f"{path}{key}.")
        else:
            yield name, f"{path}{key}"
