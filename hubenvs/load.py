"""From what a person wrote to a validated Environment.

base.yaml, env.yaml, local.yaml, Invoke's configuration, a ConfigMap and ``--set`` are merged in that order; an error
names the file, the line and the key it came from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import state
from .definition import DevUser
from .errors import DefinitionError, suggestion
from .layers import KeyPath, Source, check_keys, layer, merge, parse_documents, parse_set, parse_yaml, read_text, shown
from .model import Environment, with_accounting, without_identity
from .names import environment_names

# They all reach the containers in one environment variable, for which Linux has 128 KiB (MAX_ARG_STRLEN).
MOST_USERS = 3000
# What the keys of an existing deployment's ConfigMap are in a definition; its accounts and password are no keys of it.
CONFIG_MAP_KEYS = {
    "logLevel": "log_level",
    "baseUrl": "base_url",
    "sshHostname": "slurm.ssh_hostname",
    "slurmSpawnerWrappersBin": "slurm.wrappers_bin",
    "condaPrefixDir": "slurm.env_prefix",
    "jupyterDataDir": "slurm.jupyter_data_dir",
    "hubConnectUrl": "slurm.hub_connect_url",
    "oidcServer": "auth.oidc_server",
    "bricsPlatform": "auth.platform",
    "jwtAudience": "auth.audience",
}
USERS_KEY, PASSWORD_KEY = "devUsers", "dummyAuthPassword"
# What pydantic calls these would be said in Python's words.
PROBLEMS = {
    "model_type": "should be a mapping of keys to values",
    "tuple_type": "should be a list",
    "extra_forbidden": "unknown key",
}


@dataclass(frozen=True)
class ConfigMap:
    """What an existing deployment's ConfigMap says: layers of a definition, its dev users and its password."""

    layers: tuple[Source, ...] = ()
    dev_users: tuple[DevUser, ...] | None = None
    password: str | None = None


def parse_config_map(text: str, label: str) -> ConfigMap:
    """Return what the only ConfigMap among the YAML documents in ``text`` says.

    Raises DefinitionError with the line number for a key that has no meaning here, or a value that isn't text.
    """
    documents = parse_documents(text, label)
    found = [item for item in documents if isinstance(item[0], dict) and item[0].get("kind") == "ConfigMap"]
    if len(found) != 1:
        raise DefinitionError(f"{label}: {len(found)} ConfigMaps in it", "give a file with exactly one")
    document, lines = found[0]
    data = document.get("data")
    if not isinstance(data, dict) or document.get("binaryData"):
        raise DefinitionError(f"{label}: its ConfigMap should have text in `data`, and nothing else", "correct it")
    layers, dev_users, password = [], None, None
    for key, value in data.items():
        where = f"{label}:{lines['data', key]}: data.{key}"
        if key not in (*CONFIG_MAP_KEYS, USERS_KEY, PASSWORD_KEY):
            known = suggestion(str(key), (*CONFIG_MAP_KEYS, USERS_KEY, PASSWORD_KEY))
            raise DefinitionError(f"{where}: has no meaning here", known)
        if not isinstance(value, str) or not (value := value.strip()):
            raise DefinitionError(f"{where}: should be text", "quote it, or leave the key out")
        if key == USERS_KEY:
            dev_users = parse_dev_users(value, where)
        elif key == PASSWORD_KEY:
            password = value
        else:
            layers.append(layer(CONFIG_MAP_KEYS[key], value, where))
    return ConfigMap(tuple(layers), dev_users, password)


def parse_dev_users(text: str, label: str) -> tuple[DevUser, ...]:
    """Return the dev users listed in ``text``: ``<user>.<project>``, one a line, ``#`` starts a comment.

    Raises DefinitionError with ``label`` and the line number for a malformed or repeated name, or if there is none.
    """
    found: dict[str, tuple[DevUser, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        try:
            dev_user = DevUser.parse(name)
        except ValueError as error:
            raise DefinitionError(f"{label}:{number}: {error}", "correct the line") from error
        if name in found:
            raise DefinitionError(f"{label}:{number}: {name!r} is on line {found[name][1]} already", "remove one")
        found[name] = (dev_user, number)
    if not found:
        raise DefinitionError(f"{label}: no dev user in it", "add a line such as alice.project1")
    if len(found) > MOST_USERS:
        raise DefinitionError(f"{label}: {len(found)} dev users", f"one pod takes {MOST_USERS} at most")
    return tuple(dev_user for dev_user, _ in found.values())


def write_dev_users(root: Path, name: str, users: str) -> None:
    """Make the dev_users of environment ``name`` of ``users``, separated by commas.

    Raises DefinitionError if one of them is malformed, there is no such environment, or it has other dev_users already.
    """
    given = parse_dev_users(users.replace(",", "\n"), "--users")
    path = known(root, name) / "dev_users"
    if path.exists() and parse_dev_users(read_text(path, root), shown(path, root)) != given:
        raise DefinitionError(
            f"--users: {shown(path, root)} already exists, with other accounts", "edit or remove that file"
        )
    if not path.exists():
        path.write_text("".join(f"{user.account}\n" for user in given))


def definitions(root: Path) -> dict[str, Environment]:
    """Return the environments of ``root`` that load, by name; `invoke envs` says what is wrong with the others."""
    found = {}
    for name in environment_names(root):
        with contextlib.suppress(DefinitionError):
            found[name] = load(root, name)
    return found


def known(root: Path, name: str) -> Path:
    """Return the folder of environment ``name``; raise DefinitionError if there is no such environment."""
    names = environment_names(root)
    if name not in names:
        raise DefinitionError(f"--env {name}: there is no such environment", suggestion(name, names))
    return root / "envs" / name


def outline(root: Path, name: str) -> dict[str, Any]:
    """Return what env.yaml says of environment ``name`` before a person has said the rest; None where it isn't said."""
    try:
        layers = [_read(path, root) for path in (root / "envs/base.yaml", known(root, name) / "env.yaml")]
    except DefinitionError:
        return dict.fromkeys(("description", "stage", "auth"))
    data, _ = merge(layers)
    auth = data["auth"]
    return {
        "description": data["description"],
        "stage": data["stage"],
        "auth": auth.get("kind") if isinstance(auth, dict) else None,
    }


def describe(root: Path) -> list[dict[str, Any]]:
    """Return what `envs --json` prints: each environment, and why one can't run here."""
    rows = []
    for name in environment_names(root):
        try:
            env = load(root, name)
            said = {"description": env.description, "stage": env.stage, "auth": env.auth.kind}
            row = {**said, "can_run": True, "why_not": None}
        except DefinitionError as error:
            row = {**outline(root, name), "can_run": False, "why_not": str(error)}
        rows.append({"env": name, **row})
    return rows


def load(
    root: Path,
    name: str,
    *,
    instance: str | None = None,
    settings: Sequence[str] = (),
    configuration: Mapping[str, Any] | None = None,
    config_map: Path | None = None,
) -> Environment:
    """Return the validated environment ``name`` of the checkout ``root``.

    ``instance`` tells several deployments of one environment apart; ``settings`` are ``a.b=c`` strings (``--set``);
    ``configuration`` is the ``hubenvs`` section of Invoke's configuration; ``config_map`` is a file with an existing
    deployment's ConfigMap. Raises DefinitionError.
    """
    folder = known(root, name)
    base = _read(root / "envs" / "base.yaml", root)
    layers = [base, _read(folder / "env.yaml", root)]
    if os.path.lexists(folder / "local.yaml"):
        layers.append(_read(folder / "local.yaml", root))
    if configuration:
        layers.append(Source("Invoke's configuration (hubenvs)", configuration, {}))
    given = parse_config_map(read_text(config_map, root), shown(config_map, root)) if config_map else ConfigMap()
    layers.extend(given.layers)
    layers.extend(parse_set(option) for option in settings)
    data, origin = merge(layers)
    check_keys(data, base.data, origin)
    dev_users = _named_users(data.pop("dev_users"), origin) or given.dev_users
    if not dev_users and _needs_dev_users(data):
        dev_users = _read_dev_users(folder / "dev_users", root)
    try:
        env = Environment.model_validate(
            {
                **data,
                "name": name,
                "instance": instance,
                "root": root,
                "dev_users": dev_users or (),
                "dummy_password": given.password,
            }
        )
    except ValidationError as error:
        raise _definition_error(error, origin, layers[1].label) from None
    for overlay in env.overlay_folders:
        if not overlay.is_dir():
            raise DefinitionError(
                f"{origin['overlays',]}: overlays: there is no folder {overlay}", "make it, or correct it"
            )
    return with_accounting(without_identity(env))


def brought_up(folder: Path) -> Environment | None:
    """Return the definition kept in a deploy ``folder``; None if there is none, or another version wrote it."""
    try:
        text = state.read_definition(folder)
        return Environment.model_validate_json(text) if text else None
    except (OSError, ValueError):  # pydantic's is one, and that of what isn't text
        return None


def _named_users(given: object, origin: Mapping[KeyPath, str]) -> tuple[DevUser, ...]:
    """Return the dev users that the definition itself names: none, if ``given`` is None."""
    if given is None:
        return ()
    where = f"{origin['dev_users',]}: dev_users"
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise DefinitionError(f"{where}: not a list of names", "for example [alice.project1, bob.project1]")
    return parse_dev_users("\n".join(given), where)


def _needs_dev_users(data: Mapping[str, Any]) -> bool:
    """Return whether accounts or users are made of dev_users, not where Slurm and the provider are a site's."""
    auth, containers = data["auth"], data["containers"]
    if not isinstance(auth, dict) or not isinstance(containers, list):
        return False  # to be refused for that
    return (auth.get("kind"), auth.get("provider")) != ("oidc", "external") or "slurm" in containers


def _read_dev_users(path: Path, root: Path) -> tuple[DevUser, ...]:
    """Return the dev users of the file at ``path``."""
    if not path.exists():
        example = path.with_name(f"{path.name}.example")
        how = f"`cp {shown(example, root)} {shown(path, root)}`" if example.exists() else "make it"
        up = f"invoke up --env {path.parent.name} --users alice.project1,bob.project1"
        raise DefinitionError(f"{shown(path, root)}: does not exist", f"{how}, or `{up}`")
    return parse_dev_users(read_text(path, root), shown(path, root))


def _definition_error(error: ValidationError, origin: Mapping[KeyPath, str], label: str) -> DefinitionError:
    """Return pydantic's first complaint as ``file:line: key: what is wrong``."""
    absent = [item["loc"] for item in error.errors() if item["input"] is None and item["type"] != "model_type"]
    if absent:
        keys = ", ".join(".".join(map(str, key)) for key in absent)
        local = label.replace("env.yaml", "local.yaml")
        return DefinitionError(f"{origin.get(absent[0], label)}: {keys}: not set", f"set it in {local}")
    first = error.errors()[0]
    problem = PROBLEMS.get(first["type"], first["msg"]).removeprefix("Value error, ")
    key = ".".join(map(str, first["loc"]))
    if not key:  # a rule about several keys names the one to blame itself
        key, _, problem = problem.partition(": ")
    problem = problem[0].lower() + problem[1:]
    given = first.get("input")
    value = f" (not {given!r})" if isinstance(given, str | int | float | bool) else ""
    if key == "instance":
        return DefinitionError(f"--instance: {problem}{value}", "choose another name")
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    while path and path not in origin:
        path = path[:-1]
    return DefinitionError(f"{origin.get(path, label)}: {key}: {problem}{value}", "correct the value")


def _read(path: Path, root: Path) -> Source:
    return parse_yaml(read_text(path, root), shown(path, root))
