"""How the package is layered: imports go one way, and only the engines know podman."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each layer imports from itself and from those after it; those in one line don't import each other.
LAYERS = (
    ("tasks",),
    ("hubenvs.cli",),
    ("hubenvs.tools",),
    ("hubenvs.stages",),
    ("hubenvs.session",),
    ("hubenvs.deployment",),
    ("hubenvs.engines", "hubenvs.plan"),
    ("hubenvs.definition",),
    (
        "hubenvs.errors",
        "hubenvs.console",
        "hubenvs.files",
        "hubenvs.polling",
        "hubenvs.web",
        "hubenvs.__init__",
    ),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PACKAGES = {"hubenvs": ROOT, "bricsauthenticator": ROOT / "containers/jupyterhub/bricsauthenticator/src"}


def modules(package: str) -> dict[str, Path]:
    """Return the files of ``package`` by the module's name; tasks.py belongs to hubenvs."""
    root = PACKAGES[package]
    files = [*(root / package).rglob("*.py"), *([root / "tasks.py"] if package == "hubenvs" else [])]
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules among ``known`` that module ``name`` imports, in functions and for type checks too."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        nodes += ast.iter_child_nodes(node)
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
            targets += [] if {*targets} & known.keys() else [base]
        packages = [f"{target}.__init__" for target in targets]
        yield from ({*targets, *packages} & known.keys()) - {name}


def layer(name: str) -> str:
    """Return the layer of the module ``name``."""
    return next(layer for layer in RANK if name == layer or name.startswith(f"{layer}."))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_imports_go_in_a_circle(package: str) -> None:
    """Imports in functions and for type checks count too."""
    known = modules(package)
    graph = {name: {*imports(name, path, known)} for name, path in known.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def test_imports_go_one_way() -> None:
    """From the menu of tasks down to errors; imports for type checks count too."""
    known = modules("hubenvs")
    used = [(name, other) for name, path in known.items() for other in imports(name, path, known)]
    assert len(used) > 200  # the package's modules were found
    assert [
        f"{name} imports {other}" for name, other in used if not may_import(layer(name), layer(other))
    ] == []


def may_import(one: str, other: str) -> bool:
    return one == other or RANK[one] < RANK[other] or RANK[one] == RANK[other] == len(LAYERS) - 1


def test_only_the_engines_know_podman() -> None:
    """Comments may say where a definition or a stage avoids a fault of old versions: `podman<5:`."""
    lines = [
        (path.relative_to(ROOT), number, line)
        for path in sorted((ROOT / "hubenvs").rglob("*.py"))
        if path.parent.name != "engines"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "podman" in line.lower()
    ]
    tagged = {("definition", "#"), ("stages", "#")}
    rest = [
        f"{path}:{number}: {line.strip()}"
        for path, number, line in lines
        if (path.parent.name, line.partition("podman<5:")[0].strip()[:1]) not in tagged
        or "podman<5:" not in line
    ]
    assert rest == []


def test_the_package_stays_readable() -> None:
    """Lines of at most 110 columns, modules of at most 350 lines (the hub's too), a menu of at most 400."""
    for path in modules("bricsauthenticator").values():
        assert len(path.read_text().splitlines()) <= 350, path
    for path in (*sorted((ROOT / "hubenvs").rglob("*.py")), ROOT / "tasks.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= (400 if path.name == "tasks.py" else 350), path
        assert [number for number, line in enumerate(lines, start=1) if len(line) > 110] == [], path
