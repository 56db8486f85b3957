"""Read an environment's definition.

The layers, each over the earlier ones: envs/base.yaml, envs/<env>/env.yaml, envs/<env>/local.yaml, Invoke's
configuration (`hubenvs:` in invoke.yaml, then INVOKE_HUBENVS_… variables), an existing deployment's
ConfigMap, `--set`. An error names file, line and key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import DefinitionError, suggestion
from . import dev_users, invoke_variables
from .configmap import ConfigMap, read_config_map
from .environment import Environment
from .layers import KeyPath, Layer, check_keys, merge, parse_set, parse_yaml, read_text, shown
from .names import environment_names
from .rules import check_names, check_rules

# Plain words for errors that pydantic describes in Python's words.
PROBLEMS = {
    "model_type": "should be a mapping of keys to values",
    "mapping_type": "should be a mapping of keys to values",
    "tuple_type": "should be a list",
    "extra_forbidden": "unknown key",
}


def read_environment(
    root: Path,
    name: str,
    *,
    instance: str | None = None,
    settings: Sequence[str] = (),
    configuration: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_map: Path | None = None,
    kept_settings: Path | None = None,
) -> Environment:
    """Return the validated environment ``name`` of the checkout ``root``.

    ``instance``: name of a further deployment of the environment. ``settings``: ``a.b=c`` (``--set``).
    ``configuration``: the section `hubenvs` of Invoke's configuration. ``environ``: environment variables.
    ``config_map``: a file with an existing deployment's ConfigMap. ``kept_settings``: a file with the
    ConfigMap's settings that an earlier `up` kept. Raises DefinitionError.
    """
    folder = environment_folder(root, name)
    base = _read(root / "envs" / "base.yaml", root)
    layers = [base, _read(folder / "env.yaml", root)]
    if os.path.lexists(folder / "local.yaml"):
        layers.append(_read(folder / "local.yaml", root))
    if configuration:
        layers.append(Layer("Invoke's configuration (hubenvs)", configuration, {}))
    layers.extend(invoke_variables.layers(base.data, environ or {}))
    existing = read_config_map(config_map, root) if config_map else ConfigMap()
    if kept_settings and not config_map:
        layers.append(_read(kept_settings, root))
    layers.extend(existing.layers)
    layers.extend(parse_set(option) for option in settings)
    data, origin = merge(layers)
    check_keys(data, base.data, origin)
    accounts = dev_users.from_key(data.pop("dev_users"), origin)
    if not accounts and dev_users.are_needed(data):
        accounts = dev_users.from_file(folder / "dev_users", root)
    data |= {"name": name, "instance": instance, "root": root, "dev_users": accounts or ()}
    data["dummy_password"] = existing.password
    return _validated(data, origin, layers[1].label)


def _validated(data: Mapping[str, Any], origin: Mapping[KeyPath, str], label: str) -> Environment:
    """Return the environment with the fields ``data``; DefinitionError, see `_definition_error`."""
    try:
        env = Environment.model_validate(data)
    except ValidationError as error:
        raise _definition_error(error, origin, label) from None
    try:
        check_rules(env)
        env = env.completed()
        check_names(env)
    except ValueError as error:
        key, _, problem = str(error).partition(": ")
        raise _located(key, problem, origin, label) from None
    for overlay in env.overlay_folders:
        if not overlay.is_dir():
            problem = f"overlays: there is no folder {overlay}"
            raise DefinitionError(f"{origin['overlays',]}: {problem}", "create it, or correct the path")
    return env


def readable_environments(root: Path) -> dict[str, Environment]:
    """Return the environments of ``root`` whose definitions are valid, by name."""
    environments = {}
    for name in environment_names(root):
        with contextlib.suppress(DefinitionError):
            environments[name] = read_environment(root, name)
    return environments


def environment_folder(root: Path, name: str) -> Path:
    """Return the folder of environment ``name``; DefinitionError, with a suggestion, if there is none."""
    if name not in (names := environment_names(root)):
        raise DefinitionError(f"--env {name}: there is no such environment", suggestion(name, names))
    return root / "envs" / name


def outline(root: Path, name: str) -> dict[str, str | None]:
    """Return description, stage and auth of an environment from base.yaml and env.yaml, valid or not."""
    data: dict[str, Any] = {}
    with contextlib.suppress(DefinitionError):
        data, _ = merge(_read(root / "envs" / path, root) for path in ("base.yaml", f"{name}/env.yaml"))
    auth = data.get("auth")
    kind = auth.get("kind") if isinstance(auth, dict) else None
    values = {"description": data.get("description"), "stage": data.get("stage"), "auth": kind}
    return {key: value if isinstance(value, str) else None for key, value in values.items()}


def _definition_error(error: ValidationError, origin: Mapping[KeyPath, str], label: str) -> DefinitionError:
    """Return pydantic's first error as ``file:line: key: what is wrong``; ``label`` names the env.yaml."""
    unset = [item["loc"] for item in error.errors() if item["input"] is None and item["type"] != "model_type"]
    if unset:
        keys = ", ".join(".".join(map(str, key)) for key in unset)
        local = label.replace("env.yaml", "local.yaml")
        return DefinitionError(f"{origin.get(unset[0], label)}: {keys}: not set", f"set it in {local}")
    first = error.errors()[0]
    problem = PROBLEMS.get(first["type"], first["msg"]).removeprefix("Value error, ")
    value = first.get("input")
    shown_value = f" (not {value!r})" if isinstance(value, str | int | float | bool) else ""
    key, problem = ".".join(map(str, first["loc"])), problem[0].lower() + problem[1:]
    return _located(key, f"{problem}{shown_value}", origin, label)


def _located(key: str, problem: str, origin: Mapping[KeyPath, str], label: str) -> DefinitionError:
    """Return the error about ``key`` with its file and line, or with ``label`` if these aren't known."""
    if key == "instance":
        return DefinitionError(f"--instance: {problem}", "choose another name")
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    while path and path not in origin:
        path = path[:-1]
    return DefinitionError(f"{origin.get(path, label)}: {key}: {problem}", "correct the value")


def _read(path: Path, root: Path) -> Layer:
    return parse_yaml(read_text(path, root), shown(path, root))
