"""What CONTRIBUTING and the documents say that a person can do, done in a copy of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("containers", "envs", "hubenvs", "manifests", "volumes")
needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="a dry run asks podman what exists")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout that a test may change."""
    ignored = shutil.ignore_patterns("__pycache__", "_dev_build_data", "local.yaml")
    for name in PARTS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "tasks.py", tmp_path)
    return tmp_path


def invoke(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a task in ``checkout``, with further environment ``variables``."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = (sys.executable, "-m", "invoke", *arguments)
    return subprocess.run(
        command, cwd=checkout, env=own | variables, capture_output=True, text=True, check=False
    )


def insert(path: Path, before: str, text: str) -> None:
    """Insert ``text`` in the file at ``path`` in front of ``before``."""
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before))


def pod_containers(documents: list[dict[str, Any]]) -> list[str]:
    """Return the names of the containers of the pod or the StatefulSet among ``documents``."""
    (found,) = (item["spec"] for item in documents if item["kind"] in ("Pod", "StatefulSet"))
    return [container["name"] for container in found.get("template", {}).get("spec", found)["containers"]]


@needs_podman
def test_a_container_can_be_added(checkout: Path, tmp_path: Path) -> None:
    """A row in the table, its lines in base.yaml and a folder: no other file names the container."""
    row = '    Container("extra", ports=(Port("extra", 7000),), keys=(Key("munge_key"),)),\n'
    insert(checkout / "hubenvs/definition/containers.py", '    Container(\n        "zenith-client",', row)
    base = checkout / "envs/base.yaml"
    insert(base, "  gateway: {base: null", "  extra: {base: null, image: null}\n")
    insert(base, "  gateway: null\n", "  extra: null\n")
    (checkout / "containers/extra").mkdir()
    (checkout / "containers/extra/Containerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    settings = ("--set", "containers=[jupyterhub, slurm, extra]", "--set", "publish.extra=127.0.0.1:7123")
    named = ("--env", "dev_dummyauth", *settings)

    planned = invoke(checkout, "up", *named, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "localhost/jupyterhub-slurm/extra:" in planned.stdout
    assert "jupyterhub-slurm-dev-dummyauth-extra: munge_key" in planned.stdout

    rendered = invoke(checkout, "render", *named)
    assert rendered.returncode == 0, rendered.stderr
    documents = list(yaml.safe_load_all(rendered.stdout))
    assert pod_containers(documents) == ["jupyterhub", "slurm", "extra"]
    assert "hostPort: 7123" in rendered.stdout

    folder = tmp_path / "kubernetes"
    rendered = invoke(checkout, "render", *named, "--target", "kubernetes", "--output", str(folder))
    assert rendered.returncode == 0, rendered.stderr
    documents = list(yaml.safe_load_all((folder / "statefulset.yaml").read_text()))
    assert pod_containers(documents) == ["jupyterhub", "slurm", "extra"]
    assert "7000" in (folder / "service.yaml").read_text()


@needs_podman
def test_a_variable_wins_over_invoke_yaml(checkout: Path, tmp_path: Path) -> None:
    """Also a list: Invoke converts a variable to the type of the value in its file, and crashes on lists."""
    for name in ("file", "variable"):
        (tmp_path / name / "slurm-config").mkdir(parents=True)
        (tmp_path / name / "slurm-config" / name).write_text("x")
    (checkout / "invoke.yaml").write_text(f"hubenvs: {{overlays: [{tmp_path}/file], slurm: {{nodes: 3}}}}\n")
    folder = tmp_path / "kubernetes"
    render = ("render", "--env", "dev_dummyauth", "--target", "kubernetes", "--output", str(folder))

    def seeds(**variables: str) -> set[str]:
        done = invoke(checkout, *render, **variables)
        assert done.returncode == 0, done.stderr
        maps = {
            item["metadata"]["name"].rpartition("-")[0]: item
            for item in yaml.safe_load_all((folder / "configmaps.yaml").read_text())
        }
        found = maps["jupyterhub-slurm-dev-dummyauth-slurm-config"]["data"]
        assert "3 virtual node(s)" in found["slurm.conf"]
        return {"file", "variable"} & found.keys()

    assert seeds() == {"file"}
    assert seeds(INVOKE_HUBENVS_OVERLAYS=f"[{tmp_path}/variable]") == {"variable"}

    wrong = invoke(checkout, *render, INVOKE_HUBENVS_OVERLAYS="[/not-there]")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(
        "error: INVOKE_HUBENVS_OVERLAYS: overlays: there is no folder /not-there\n"
    )
