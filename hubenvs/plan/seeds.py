"""Seed files: rendering their templates, and merging them with the files in a volume."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass

import jinja2

from ..definition.environment import Environment
from ..errors import DefinitionError
from ..files import Tree, is_program

# A file in each seeded volume: the digest of every file as it was seeded, to recognise edited ones.
SEED_DIGESTS = ".seeded.json"
# In a cluster instead: the names of the seed files, one a line, written by the pod's init container.
SEED_NAMES = ".seeded"


@dataclass(frozen=True)
class Seeding:
    """Files to write into a volume, notes about them for the user, and files to delete."""

    files: dict[str, bytes]
    notes: tuple[str, ...]
    deleted: tuple[str, ...] = ()


def render_seeds(env: Environment, templates: jinja2.Environment, tree: Tree) -> dict[str, bytes]:
    """Return the seed files of ``tree``. Files that end in ``.j2`` are rendered and lose that ending.

    Raises DefinitionError if one can't be rendered.
    """
    result: dict[str, bytes] = {}
    for name, content in tree.items():
        if not name.endswith(".j2"):
            result[name] = content
            continue
        try:
            rendered = _compiled(templates, content.decode()).render(env=env, slurm=env.slurm)
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise DefinitionError(f"seed file {name}: {error}", "correct the template") from error
        result[name.removesuffix(".j2")] = rendered.encode()
    return result


@functools.cache  # takes as long as a hundred renderings, and a task renders more than once
def _compiled(templates: jinja2.Environment, text: str) -> jinja2.Template:
    return templates.from_string(text)


def merge_seeds(seeds: Tree, existing: Tree, plain: Container[str] = ()) -> Seeding:
    """Return the changes to a volume that contains the files ``existing``.

    ``plain``: the names of those files that aren't executable.

    A seed file replaces a copy that nobody edited in the volume. An edited copy is kept; if its seed file has
    changed since, the new one is written beside it as ``<name>.new``. A program that isn't executable is
    written again: a file's mode comes from its content.
    """
    record = _read_record(existing)
    files: dict[str, bytes] = {}
    notes: list[str] = []
    for name, content in sorted(seeds.items()):
        present = existing.get(name)
        if present is None:
            files[name] = content
            if record:
                notes.append(f"added {name}")
        elif present == content:
            if name in plain and is_program(content):
                files[name] = content
                notes.append(f"made {name} executable")
        elif _sha256(present) == record.get(name):
            files[name] = content
            notes.append(f"updated {name}")
        elif record.get(name) != _sha256(content):
            files[f"{name}.new"] = content
            where = f"the new version is beside it as {name}.new"
            notes.append(f"kept {name}, which was edited in the volume; {where}")
    stale = {name: digest for name, digest in record.items() if name in existing and name not in seeds}
    notes += [f"{name} is no seed file any more; it stays until it is removed by hand" for name in stale]
    digests = {name: _sha256(content) for name, content in seeds.items()}
    new_record = json.dumps(digests | stale, indent=1, sort_keys=True)
    if files or existing.get(SEED_DIGESTS) != new_record.encode():
        files[SEED_DIGESTS] = new_record.encode()
    return Seeding(files, tuple(notes))


def replace_seeds(seeds: Tree, existing: Tree) -> Seeding:
    """Return the changes that bring ``seeds`` into a cluster's pod, whose volume contains ``existing``.

    Files that were never seed files stay.
    """
    files = {name: content for name, content in sorted(seeds.items()) if existing.get(name) != content}
    seeded = existing.get(SEED_NAMES, b"").decode(errors="replace").splitlines()
    deleted = tuple(name for name in seeded if name in existing and name not in seeds)
    notes = (*(f"updated {name}" for name in files), *(f"removed {name}" for name in deleted))
    if notes:
        files[SEED_NAMES] = "".join(f"{name}\n" for name in sorted(seeds)).encode()
    return Seeding(files, notes, deleted)


def _read_record(existing: Tree) -> Mapping[str, str]:
    """Return the recorded digests; none if the record is damaged, so that every differing file is kept."""
    try:
        record = json.loads(existing.get(SEED_DIGESTS, b"{}"))
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
