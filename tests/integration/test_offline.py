"""A machine without a network: an engine that has nothing, a fresh checkout, and the bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import ROOT, Deployment, copy_files, invoke, working_files

pytestmark = pytest.mark.environments("dev_dummyauth")

# In one network namespace, since the pod's port is published in it.
SCRIPT = """
task() { "$python" -m invoke "$@"; }
python=$1 bundle=$2; shift 2
ip link set lo up
task load "$bundle"
trap 'task down "$@"' EXIT
task up "$@"
task verify "$@"
"""


@pytest.fixture
def elsewhere(tmp_path: Path, deployment: Deployment) -> Iterator[Path]:
    """A folder with a checkout of its own, and the storage of an engine that has no images."""
    copy_files(working_files(deployment.engine.programs, ROOT), tmp_path / "checkout")
    driver = deployment.engine.run(("podman", "info", "--format={{.Store.GraphDriverName}}")).text
    lines = (
        "[storage]",
        f'driver = "{driver}"',
        f'graphroot = "{tmp_path}/graph"',
        f'runroot = "{tmp_path}/run"',
    )
    (tmp_path / "storage.conf").write_text("\n".join(lines))
    yield tmp_path
    shutil.rmtree(tmp_path)  # pytest would keep some GB


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own is root's to make")
def test_a_bundle_is_all_that_up_needs(deployment: Deployment, elsewhere: Path) -> None:
    """With no network, `load` and `up` end in a computing notebook; a checkout of other images is refused."""
    bundle = elsewhere / "site.tar"
    invoke("bundle", "--env", deployment.env, str(bundle))

    def offline(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ("unshare", "--net", "sh", "-euc", script, "sh", sys.executable, str(bundle), *arguments),
            cwd=elsewhere / "checkout",
            env=os.environ | {"CONTAINERS_STORAGE_CONF": str(elsewhere / "storage.conf")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    here = deployment.engine.architecture()
    other = next(name for name in ("arm64", "amd64") if name != here)
    refused = offline('"$1" -m invoke load "$2" --set "debian.architecture=$3"', other)
    assert refused.returncode == 1
    assert f"its images are for {here}, and those for {other} are needed here" in refused.stderr
    assert not (elsewhere / "checkout/.deploy" / deployment.env).exists()

    changed = elsewhere / "checkout/containers/slurm/Containerfile"
    original = changed.read_bytes()
    changed.write_bytes(original + b"\n")
    refused = offline('"$1" -m invoke load "$2"')
    assert refused.returncode == 1
    assert "this checkout needs localhost/jupyterhub-slurm/slurm:" in refused.stderr
    assert not (elsewhere / "checkout/containers/slurm/_dev_build_data/slurmspawner_wrappers").exists()
    changed.write_bytes(original)

    done = offline(SCRIPT, "--env", deployment.env, "--instance", f"{deployment.instance}-off")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images are up to date" in done.stdout
    assert "all well" in done.stdout
