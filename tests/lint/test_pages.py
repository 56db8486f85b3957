"""What pages, hints and help texts name: tasks, their options, Nox sessions, keys and links that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from invoke import Collection

import tasks

ROOT = Path(__file__).parents[2]
MENU = Collection.from_module(tasks)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("containers/*/*/README.md")])
CODE = sorted([ROOT / "tasks.py", ROOT / "noxfile.py", *(ROOT / "hubenvs").rglob("*.py")])


def options(task: str) -> set[str]:
    """Return the options of a task, as they are typed."""
    names = [name for each in MENU[task].get_arguments() for name in each.names]
    return {f"{'--' if len(name) > 1 else '-'}{name.replace('_', '-')}" for name in names}


def test_every_command_exists() -> None:
    """Of `invoke TASK --option …` the task and its options; of `nox -s SESSION` the session."""
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.M))
    unknown, seen = [], 0
    for file in (*PAGES, *CODE):
        text = file.read_text().replace("\\\n", " ")
        for task, rest in re.findall(r"(?<!from )\binvoke ([a-z][a-z-]*)([^`;#\n]*)", text):
            typed = re.sub(r""""[^"]*"|'[^']*'""", "", rest.partition(" -- ")[0])
            named = re.findall(r"(?<!\S)-{1,2}[a-z][a-z-]*", typed)
            seen += 1
            if task not in MENU.task_names or not set(named) <= options(task):
                unknown.append(f"{file.name}: invoke {task} {' '.join(named)}")
        for name in re.findall(r'\bnox -s "?(\w+)', text):
            if name not in sessions:
                unknown.append(f"{file.name}: nox -s {name}")
    assert unknown == []
    assert seen > 100


def test_every_key_exists() -> None:
    """A key of the definition in a page, such as `hub.version` or `slurm.nodes=4`, is in base.yaml."""
    base = yaml.safe_load((ROOT / "envs/base.yaml").read_text())

    def is_known(value: Any, path: list[str]) -> bool:
        if not path or not isinstance(value, dict) or not value:
            return not path or not isinstance(value, bool | int | float | str)
        return path[0] in value and is_known(value[path[0]], path[1:])

    unknown, seen = [], 0
    for file in PAGES:
        for key in re.findall(r"(?:`|--set )([a-z]+\.[a-z_.-]+)", file.read_text()):
            if key.partition(".")[0] in base and not key.endswith((".py", ".md", ".conf")):
                seen += 1
                if not is_known(base, key.split(".")):
                    unknown.append(f"{file.name}: {key}")
    assert unknown == []
    assert seen > 80


def test_every_link_leads_somewhere() -> None:
    """A link to a file or a heading of this checkout; README links every page of docs/."""

    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.name}: {link}")
    assert broken == []
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []
