"""The layers of a definition: what one file or option says, with the line of each key, and laying them over another."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import DefinitionError, suggestion

KeyPath = tuple[str | int, ...]
# Bytes of a file that is read at most: far more than anybody writes, and soon read.
LARGEST = 1 << 20
# Dots in a key of --set at most: more than any key has, and far fewer than Python can follow.
DEEPEST = 20
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


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


@functools.lru_cache(maxsize=16)  # base.yaml is below every environment, and takes longest of all
def parse_yaml(text: str, label: str) -> Source:
    """Return the mapping that the YAML ``text`` holds, ``label`` being its name in errors; nobody may change it.

    Raises DefinitionError with the line number if it doesn't parse, has a key twice, or isn't one mapping.
    """
    documents = parse_documents(text, label)
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
    return layer(key, parse_value(value, label), label)


def parse_value(text: str, label: str) -> Any:
    """Return the value that is written as YAML in ``text``; raise DefinitionError, with ``label``, if none is."""
    documents = parse_documents(text, label)
    if len(documents) > 1:
        raise DefinitionError(f"{label}: the value is several YAML documents", "quote it")
    return documents[0][0] if documents else None


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


def parse_documents(text: str, label: str) -> list[tuple[Any, Mapping[KeyPath, int]]]:
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


def layer(key: str, value: Any, label: str) -> Source:
    """Return the layer that sets ``key`` (``a.b``) to ``value``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return Source(label, value, {})


def shown(path: Path, root: Path) -> str:
    """Return what to call ``path`` in an error: relative to ``root`` if it is below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
