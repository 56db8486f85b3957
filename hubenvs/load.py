"""From what a person wrote to a validated Environment.

base.yaml, env.yaml, local.yaml, Invoke's configuration and ``--set`` are merged in that order; an error names the file,
the line and the key it came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import DefinitionError
from .model import DevUser, Environment

KeyPath = tuple[str | int, ...]


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
    """A safe loader that remembers each key's line and refuses a key given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[KeyPath, int] = {}

    def read(self, node: yaml.Node | None, path: KeyPath = ()) -> Any:
        if node is None:
            return None
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.construct_object(node)
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


def parse_yaml(text: str, label: str) -> Source:
    """Return the mapping that the YAML ``text`` holds, ``label`` being its name in errors.

    Raises DefinitionError with the line number if it doesn't parse, has a key twice, or isn't a mapping.
    """
    try:
        loader = _Lines(text)
        data = loader.read(loader.get_single_node())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DefinitionError(f"{label}:{line}: {error.problem}", "correct the YAML there") from error
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(f"{label}: {reason}", "correct the YAML") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise DefinitionError(f"{label}: not a mapping of keys to values", "write it as `key: value` lines")
    return Source(label, data, loader.lines)


def read_text(path: Path, root: Path) -> str:
    """Return the text of ``path``; raise DefinitionError (naming it relative to ``root``) if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DefinitionError(f"{_label(path, root)}: can't be read ({reason})", "check that it is there") from error


def parse_set(option: str) -> Source:
    """Return the layer that ``--set a.b=c`` stands for; the value is read as YAML.

    Raises DefinitionError if there is no ``=`` or no key.
    """
    label = f"--set {option.partition('=')[0]}"
    key, separator, value = option.partition("=")
    if not separator or not all(key.split(".")):
        raise DefinitionError(f"--set {option}: not of the form key.key=value", "for example --set slurm.nodes=4")
    try:
        data: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise DefinitionError(f"{label}: the value isn't YAML", "quote it") from error
    for part in reversed(key.split(".")):
        data = {part: data}
    return Source(label, data, {})


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
    return tuple(dev_user for dev_user, _ in found.values())


def environment_names(root: Path) -> tuple[str, ...]:
    """Return the names of the environments defined under ``root``/envs."""
    return tuple(sorted(path.parent.name for path in (root / "envs").glob("*/env.yaml")))


def load(
    root: Path,
    name: str,
    *,
    instance: str | None = None,
    settings: Sequence[str] = (),
    configuration: Mapping[str, Any] | None = None,
) -> Environment:
    """Return the validated environment ``name`` of the checkout ``root``.

    ``instance`` tells several deployments of one environment apart; ``settings`` are ``a.b=c`` strings (``--set``);
    ``configuration`` is the ``hubenvs`` section of Invoke's configuration. Raises DefinitionError.
    """
    known = environment_names(root)
    if name not in known:
        raise DefinitionError(f"--env {name}: there is no such environment", suggestion(name, known))
    folder = root / "envs" / name
    base = _read(root / "envs" / "base.yaml", root)
    layers = [base, _read(folder / "env.yaml", root)]
    if (folder / "local.yaml").exists():
        layers.append(_read(folder / "local.yaml", root))
    if configuration:
        layers.append(Source("Invoke's configuration (hubenvs)", configuration, {}))
    layers.extend(parse_set(option) for option in settings)
    data, origin = merge(layers)
    check_keys(data, base.data, origin)
    users = folder / "dev_users"
    if not users.exists():
        raise DefinitionError(f"{_label(users, root)}: not there", "make it, with a line such as alice.project1")
    dev_users = parse_dev_users(read_text(users, root), _label(users, root))
    try:
        return Environment.model_validate(
            {**data, "name": name, "instance": instance, "root": root, "dev_users": dev_users}
        )
    except ValidationError as error:
        raise _definition_error(error, origin, layers[1].label) from None


def _definition_error(error: ValidationError, origin: Mapping[KeyPath, str], label: str) -> DefinitionError:
    """Return pydantic's first complaint as ``file:line: key: what is wrong``."""
    first = error.errors()[0]
    path: KeyPath = first["loc"]
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[0].lower() + problem[1:]
    while path and path not in origin:
        path = path[:-1]
    given = first.get("input")
    value = f" (not {given!r})" if isinstance(given, str | int | float | bool) else ""
    if path == ("instance",) or first["loc"][:1] == ("instance",):
        return DefinitionError(f"--instance: {problem}{value}", "choose another name")
    where = origin[path] if path else label
    key = ".".join(map(str, first["loc"]))
    return DefinitionError(f"{where}: {f'{key}: ' if key else ''}{problem}{value}", "correct the value")


def _label(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _read(path: Path, root: Path) -> Source:
    return parse_yaml(read_text(path, root), _label(path, root))
