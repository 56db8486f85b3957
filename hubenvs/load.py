"""From what a person wrote to a validated Environment.

base.yaml, env.yaml, local.yaml, Invoke's configuration, a ConfigMap and ``--set`` are merged in that order; an error
names the file, the line and the key it came from.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import DefinitionError
from .model import MOST_USERS, DevUser, Environment, with_accounting, without_identity

KeyPath = tuple[str | int, ...]

# Bytes of a file that is read at most: far more than anybody writes, and soon read.
LARGEST = 1 << 20
# Dots in a key of --set at most: more than any key has, and far fewer than Python can follow.
DEEPEST = 20
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
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# What pydantic calls these would be said in Python's words.
PROBLEMS = {
    "model_type": "should be a mapping of keys to values",
    "tuple_type": "should be a list",
    "extra_forbidden": "unknown key",
}


@dataclass(frozen=True)
class Source:
    """One layer of a definition: its data, what to call it in an error, and the line of each key."""

    label: str
    data: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, path: KeyPath) -> str:
        """Return ``label``, with the line of ``path`` or of its nearest parent if the source has lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.label}:{self.lines[path]}" if path else self.label


class _Lines(yaml.SafeLoader):
    """A safe loader that remembers each key's line, and refuses keys given twice, aliases, and tags on collections."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[KeyPath, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Aliases of aliases make a small file endless; what there is to repeat here is little.
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"*{event.anchor}: aliases are not taken", event.start_mark)
        return super().compose_node(parent, index)

    def read(self, node: yaml.Node | None, path: KeyPath = ()) -> Any:
        if node is None:
            return None
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.CollectionNode) and node.tag not in (
            self.DEFAULT_MAPPING_TAG,
            self.DEFAULT_SEQUENCE_TAG,
        ):
            raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not known", node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            value = self.construct_object(node)
            if isinstance(value, str) and _NO_TEXT.search(value):  # by an escape: no file and no program takes it
                raise yaml.constructor.ConstructorError(None, None, f"{value!r} is no text", node.start_mark)
            return value
        result: dict[Any, Any] = {}
        for key_node, child in node.value:
            key = self.construct_object(key_node)
            if key in result:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            here = (*path, key)
            self.lines[here] = key_node.start_mark.line + 1
            result[key] = self.read(child, here)
        return result


def _documents(text: str, label: str) -> list[tuple[Any, Mapping[KeyPath, int]]]:
    """Return each YAML document in ``text`` with the lines of its keys; raise DefinitionError with the line number."""
    documents: list[tuple[Any, Mapping[KeyPath, int]]] = []
    try:
        loader = _Lines(text)
        while loader.check_node():
            loader.lines = {}
            documents.append((loader.read(loader.get_node()), loader.lines))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DefinitionError(f"{label}:{line}: {error.problem}", "correct the YAML there") from error
    except (yaml.YAMLError, TypeError, ValueError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(f"{label}: {reason}", "correct the YAML") from error
    return documents


def parse_yaml(text: str, label: str) -> Source:
    """Return the mapping that the YAML ``text`` holds, ``label`` being its name in errors.

    Raises DefinitionError with the line number if it doesn't parse, has a key twice, or isn't one mapping.
    """
    documents = _documents(text, label)
    data, lines = documents[0] if documents else (None, {})
    if data is None:
        data = {}
    if not isinstance(data, dict) or len(documents) > 1:
        raise DefinitionError(f"{label}: not one mapping of keys to values", "write it as `key: value` lines")
    return Source(label, data, lines)


def read_text(path: Path, root: Path) -> str:
    """Return the text of ``path``; raise DefinitionError (naming it relative to ``root``) if it can't be read."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise DefinitionError(f"{shown(path, root)}: more than {LARGEST} bytes", "is this the right file?")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DefinitionError(f"{shown(path, root)}: can't be read ({reason})", "check that it is there") from error


def parse_set(option: str) -> Source:
    """Return the layer that ``--set a.b=c`` stands for; the value is read as YAML.

    Raises DefinitionError if there is no ``=`` or no key.
    """
    key, separator, value = option.partition("=")
    if not separator or not all(key.split(".")) or key.count(".") > DEEPEST:
        raise DefinitionError(f"--set {option}: not of the form key.key=value", "for example --set slurm.nodes=4")
    label = f"--set {key}"
    return _layer(key, parse_value(value, label), label)


def parse_value(text: str, label: str) -> Any:
    """Return the value that is written as YAML in ``text``; raise DefinitionError, with ``label``, if none is."""
    documents = _documents(text, label)
    if len(documents) > 1:
        raise DefinitionError(f"{label}: the value is several YAML documents", "quote it")
    return documents[0][0] if documents else None


def _layer(key: str, value: Any, label: str) -> Source:
    """Return the layer that sets ``key`` (``a.b``) to ``value``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return Source(label, value, {})


@dataclass(frozen=True)
class ConfigMap:
    """What an existing deployment's ConfigMap says: layers of a definition, its dev users and its password."""

    layers: tuple[Source, ...] = ()
    dev_users: tuple[DevUser, ...] | None = None
    password: str | None = None


def parse_config_map(text: str, label: str) -> ConfigMap:
    """Return what the only ConfigMap among the YAML documents in ``text`` says.

    Raises DefinitionError with the line number for a key that stands for nothing here, or a value that isn't text.
    """
    found = [
        item for item in _documents(text, label) if isinstance(item[0], dict) and item[0].get("kind") == "ConfigMap"
    ]
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
            raise DefinitionError(f"{where}: stands for nothing here", known)
        if not isinstance(value, str) or not (value := value.strip()):
            raise DefinitionError(f"{where}: should be text", "quote it, or leave the key out")
        if key == USERS_KEY:
            dev_users = parse_dev_users(value, where)
        elif key == PASSWORD_KEY:
            password = value
        else:
            layers.append(_layer(CONFIG_MAP_KEYS[key], value, where))
    return ConfigMap(tuple(layers), dev_users, password)


def merge(layers: Iterable[Source]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return the layers laid over one another, and where each key's value was written (``file:line``).

    Mappings merge key by key; anything else, lists too, is replaced whole.
    """
    merged: dict[str, Any] = {}
    origin: dict[KeyPath, str] = {}

    def lay(target: dict[str, Any], data: Mapping[str, Any], path: KeyPath, source: Source) -> None:
        for key, value in data.items():
            here = (*path, key)
            origin[here] = source.where(here)
            if isinstance(value, Mapping):
                below = target.get(key)
                target[key] = below = dict(below) if isinstance(below, dict) else {}
                lay(below, value, here, source)
            else:
                target[key] = value

    for layer in layers:
        lay(merged, layer.data, (), layer)
    return merged, origin


def check_keys(data: Mapping[str, Any], base: Mapping[str, Any], origin: Mapping[KeyPath, str]) -> None:
    """Raise DefinitionError for the first key of ``data`` that ``base`` doesn't have, with the nearest that it has."""

    def look(given: Mapping[str, Any], known: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in given.items():
            here = (*path, key)
            name = ".".join(map(str, here))
            if key not in known:
                raise DefinitionError(f"{origin[here]}: unknown key {name!r}", suggestion(str(key), map(str, known)))
            if isinstance(known[key], Mapping) and isinstance(value, Mapping):
                look(value, known[key], here)

    look(data, base, ())


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean …?`` if one of ``known`` is near ``name``, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


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
            raise DefinitionError(f"{label}:{number}: {name!r} stands on line {found[name][1]} already", "remove one")
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
        raise DefinitionError(f"--users: {shown(path, root)} is there and has others", "edit or remove that file")
    if not path.exists():
        path.write_text("".join(f"{user.account}\n" for user in given))


def environment_names(root: Path) -> tuple[str, ...]:
    """Return the names of the environments defined under ``root``/envs."""
    return tuple(sorted(path.parent.name for path in (root / "envs").glob("*/env.yaml")))


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
        raise DefinitionError(f"{shown(path, root)}: not there", f"{how}, or `{up}`")
    return parse_dev_users(read_text(path, root), shown(path, root))


def _definition_error(error: ValidationError, origin: Mapping[KeyPath, str], label: str) -> DefinitionError:
    """Return pydantic's first complaint as ``file:line: key: what is wrong``."""
    absent = [item["loc"] for item in error.errors() if item["input"] is None and item["type"] != "model_type"]
    if absent:
        keys = ", ".join(".".join(map(str, key)) for key in absent)
        local = label.replace("env.yaml", "local.yaml")
        return DefinitionError(f"{origin.get(absent[0], label)}: {keys}: not set", f"say it in {local}")
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


def shown(path: Path, root: Path) -> str:
    """Return what to call ``path`` in an error: relative to ``root`` if it is below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _read(path: Path, root: Path) -> Source:
    return parse_yaml(read_text(path, root), shown(path, root))
