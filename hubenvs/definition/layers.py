"""The layers of a definition, one for each file or option, and how they are merged."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import DefinitionError, suggestion

KeyPath = tuple[str | int, ...]
# Largest file that is read, in bytes; far more than anybody writes.
LARGEST = 1 << 20
# Most dots in a key of --set: more than any key has, and far below the recursion limit.
DEEPEST = 20
# Most bits of a whole number: Python refuses to print one of more than 4300 digits.
LONGEST = 64
# Escapes in YAML can make text that no program accepts.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Layer:
    """One layer of a definition: the name that errors give it, its data, and the line of each key."""

    label: str
    data: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, path: KeyPath) -> str:
        """Return ``label``, with the line of ``path`` or of its nearest parent if it is known."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.label}:{self.lines[path]}" if path else self.label


class _Lines(yaml.SafeLoader):
    """A safe loader that records each key's line, and refuses repeated keys, aliases and unknown tags."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[KeyPath, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Aliases of aliases let a small file grow without end, and definitions have little to repeat.
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"*{event.anchor}: aliases are not taken"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def read(self, node: yaml.Node | None, path: KeyPath = ()) -> Any:
        if node is None:
            return None
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            value = self.construct_object(node)
            if isinstance(value, str) and _NO_TEXT.search(value):
                raise _refused(f"{value!r} is no text", node)
            if isinstance(value, int) and value.bit_length() > LONGEST:
                raise _refused("no number here is that long", node)
            return value
        if node.tag not in (self.DEFAULT_MAPPING_TAG, self.DEFAULT_SEQUENCE_TAG):
            raise _refused(f"the tag {node.tag} is not known", node)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        result: dict[Any, Any] = {}
        for key_node, child in node.value:
            key = self.construct_object(key_node)
            if key in result:
                raise _refused(f"the key {key!r} is given twice", key_node)
            here = (*path, key)
            self.lines[here] = key_node.start_mark.line + 1
            result[key] = self.read(child, here)
        return result


def _refused(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


@functools.lru_cache(maxsize=16)  # every environment starts from base.yaml, the longest file
def parse_yaml(text: str, label: str) -> Layer:
    """Return the mapping in the YAML ``text``. The result is cached: don't change it.

    Raises DefinitionError with ``label`` and the line if it isn't YAML, repeats a key, or isn't one mapping.
    """
    documents = parse_documents(text, label) or [(None, {})]
    data, lines = documents[0]
    if not isinstance(data, dict | None) or len(documents) > 1:
        raise DefinitionError(f"{label}: not one mapping of keys to values", "write it as `key: value` lines")
    return Layer(label, data or {}, lines)


def read_text(path: Path, root: Path) -> str:
    """Return the text of ``path``; DefinitionError, with the path below ``root``, if it can't be read."""
    name = shown(path, root)
    # A named pipe may never get a writer. The shell's <(...), in /dev/fd, has one.
    if path.is_fifo() and path.parent != Path("/dev/fd"):
        raise DefinitionError(f"{name}: a pipe, not a file", "name a file")
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise DefinitionError(f"{name}: more than {LARGEST} bytes", "is this the right file?")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DefinitionError(f"{name}: can't be read ({reason})", "check that it is there") from error


def parse_set(option: str) -> Layer:
    """Return the layer of the option ``--set a.b=c``; the value is parsed as YAML.

    Raises DefinitionError without ``=`` or a key.
    """
    key, separator, value = option.partition("=")
    if not separator or not all(key.split(".")) or key.count(".") > DEEPEST:
        hint = "for example --set slurm.nodes=4"
        raise DefinitionError(f"--set {option}: not of the form key.key=value", hint)
    label = f"--set {key}"
    return single_key(key, parse_value(value, label), label)


def parse_value(text: str, label: str) -> Any:
    """Return the value of the YAML ``text``; DefinitionError, with ``label``, if it doesn't parse."""
    documents = parse_documents(text, label)
    if len(documents) > 1:
        raise DefinitionError(f"{label}: the value is several YAML documents", "quote it")
    return documents[0][0] if documents else None


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Merge ``layers`` in order. Return the data, and where each key's value was written (``file:line``).

    Mappings merge key by key. Any other value, a list too, replaces the earlier one.
    """
    merged: dict[str, Any] = {}
    origin: dict[KeyPath, str] = {}

    def merge_into(target: dict[str, Any], data: Mapping[str, Any], path: KeyPath, layer: Layer) -> None:
        for key, value in data.items():
            here = (*path, key)
            origin[here] = layer.where(here)
            if isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    target[key] = {}
                merge_into(target[key], value, here, layer)
            else:
                target[key] = value

    for layer in layers:
        merge_into(merged, layer.data, (), layer)
    return merged, origin


def check_keys(
    data: Mapping[str, Any], base: Mapping[str, Any], origin: Mapping[KeyPath, str], path: KeyPath = ()
) -> None:
    """Raise DefinitionError, with the most similar key, for the first key of ``data`` not in ``base``."""
    for key, value in data.items():
        here = (*path, key)
        if key not in base:
            name, hint = ".".join(map(str, here)), suggestion(str(key), map(str, base))
            raise DefinitionError(f"{origin[here]}: unknown key {name!r}", hint)
        if isinstance(base[key], Mapping) and isinstance(value, Mapping):
            check_keys(value, base[key], origin, here)


def parse_documents(text: str, label: str) -> list[tuple[Any, Mapping[KeyPath, int]]]:
    """Return the YAML documents in ``text``, each with the lines of its keys.

    Raises DefinitionError, with ``label`` and the line number, if one doesn't parse.
    """
    documents: list[tuple[Any, Mapping[KeyPath, int]]] = []
    try:
        loader = _Lines(text)
        while loader.check_node():
            loader.lines = {}
            documents.append((loader.read(loader.get_node()), loader.lines))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DefinitionError(f"{label}:{line}: {error.problem}", "correct the YAML there") from error
    except (yaml.YAMLError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(f"{label}: {reason}", "correct the YAML") from error
    return documents


def single_key(key: str, value: Any, label: str) -> Layer:
    """Return a layer that sets ``key`` (``a.b``) to ``value``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return Layer(label, value, {})


def shown(path: Path, root: Path) -> str:
    """Return ``path`` as errors show it: relative to ``root`` if it is below that."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
