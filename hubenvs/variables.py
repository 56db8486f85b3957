"""Invoke's own configuration as a layer of a definition: its section `hubenvs`, and INVOKE_HUBENVS_… variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invoke.config import DataProxy

from .errors import DefinitionError, suggestion

PREFIX = "INVOKE_HUBENVS"  # of the environment variables that Invoke takes for keys of its section `hubenvs`


class Variable:
    """A key of Invoke's configuration that no file sets, with the ``text`` of its environment variable if there is one.

    Invoke calls the class of what it has for a key with that text; a list's, or a number's with what is none, ends in
    a traceback. What this keeps is read as `--set` reads it.
    """

    def __init__(self, text: str | None = None) -> None:
        self.text = text


def unset(definition: Any) -> Any:
    """Return ``definition`` with a Variable for each of its keys, for Invoke to take variables by."""
    if not isinstance(definition, dict):
        return Variable()
    return {key: unset(value) for key, value in definition.items()}


def given(configuration: Any, name: str = PREFIX) -> dict[str, Any]:
    """Return what files and variables set in ``configuration``, the part of Invoke's whose variable is ``name``."""
    from . import layers

    result: dict[str, Any] = {}
    for key, value in dict(configuration).items():
        variable = f"{name}_{key}".upper()
        if isinstance(value, dict | DataProxy):
            if inner := given(value, variable):
                result[key] = inner
        elif not isinstance(value, Variable):
            result[key] = value
        elif value.text is not None:
            result[key] = layers.parse_value(value.text, variable)
    return result


def refuse_unknown(definition: Mapping[str, Any], variables: Iterable[str]) -> None:
    """Raise DefinitionError for the first of ``variables`` that has our prefix and no key; Invoke passes it over."""
    known = set(_names(definition))
    for name in sorted(variables):
        if name.startswith(f"{PREFIX}_") and name not in known:
            raise DefinitionError(f"{name}: no key of the definition has this variable", suggestion(name, known))


def _names(definition: Mapping[str, Any], prefix: str = PREFIX) -> Iterator[str]:
    """Return the names of the environment variables that stand for the keys of ``definition``."""
    for key, value in definition.items():
        name = f"{prefix}_{key}".upper()
        yield from _names(value, name) if isinstance(value, dict) else (name,)
