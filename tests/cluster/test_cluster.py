"""A deployment in a real cluster: `nox -s kubernetes`. The tests build on one another, in this order."""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.helpers import ROOT, invoke, wait_until

from .conftest import Deployed

pytestmark = pytest.mark.usefixtures("deployed")
# What is alike in both environments.
once = pytest.mark.environments("dev_dummyauth")
# Seconds that a pod may take to be replaced.
REPLACED = 180


def setting(deployed: Deployed, name: str) -> str:
    """Return the value of a setting in the hub's container."""
    pod = f"{deployed.pod}-0"
    return deployed.cluster.kubectl("exec", pod, "--container=jupyterhub", "--", "printenv", name).strip()


def seed_files(deployed: Deployed) -> dict[str, tuple[str, int]]:
    """Return mode and size of each of the tests' seed files in the hub's container."""
    find = ("find", "/srv/jupyterhub", "-maxdepth", "1", "-name", "*.txt", "-printf", "%f %m %s\n")
    pod = f"{deployed.pod}-0"
    listed = deployed.cluster.kubectl("exec", pod, "--container=jupyterhub", "--", *find).splitlines()
    return {name: (mode, int(size)) for name, mode, size in map(str.split, listed)}


def wait_ready(deployed: Deployed) -> None:
    """Wait until the rollout is complete."""
    deployed.cluster.kubectl("rollout", "status", f"statefulset/{deployed.pod}", f"--timeout={REPLACED}s")


@contextlib.contextmanager
def another_checkout(deployed: Deployed) -> Iterator[None]:
    """Have no deploy folder during the block, as another operator."""
    folder = ROOT / ".deploy" / f"{deployed.env}-{deployed.instance}"
    ours = folder.rename(folder.with_name(f"{folder.name}.ours"))
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        ours.rename(folder)


def test_a_user_computes(deployed: Deployed) -> None:
    """All that `verify` and `check` prove of podman's pods holds here."""
    assert "all well" in invoke("verify", *deployed.named).stdout
    assert "FAIL" not in invoke("check", *deployed.named).stdout


@once
def test_another_checkout_changes_nothing(deployed: Deployed) -> None:
    """A second operator's `up` has no secrets of its own: those in the cluster stay, and so does the pod."""
    before = deployed.pod_uid(), deployed.secrets()
    with another_checkout(deployed):
        assert "load" not in deployed.up()
        assert (deployed.pod_uid(), deployed.secrets()) == before


def test_tasks_find_it(deployed: Deployed, tmp_path: Path) -> None:
    """`status`, `logs`, `slurm`, `shell` and `export-volume` work as with podman."""
    listing = json.loads(invoke("status", *deployed.cluster.options, "--json").stdout)["environments"]
    (entry,) = (item for item in listing if item["instance"] == deployed.instance)
    assert (entry["env"], entry["state"]) == (deployed.env, "up")
    assert "idle" in invoke("slurm", *deployed.named).stdout
    shell = ("shell", *deployed.named, "--user", "alice.project1", "--command", "id -un")
    assert invoke(*shell).stdout.strip() == "alice.project1"
    home = tmp_path / "home.tar"
    invoke("export-volume", *deployed.named, "--volume", "home", "--output", str(home))
    with tarfile.open(home) as tar:
        assert "./project1/alice.project1" in tar.getnames()
    assert (
        "JupyterHub" in invoke("logs", *deployed.named, "--container", "jupyterhub", "--lines", "100").stdout
    )


@once
def test_an_edit_is_live_in_the_same_pod(deployed: Deployed) -> None:
    """`reload` replaces the file, removes another and restarts the hub."""
    before = deployed.pod_uid()
    assert deployed.seeds is not None
    (deployed.seeds / "jupyterhub-config/site.txt").write_text("after\n")
    (deployed.seeds / "jupyterhub-config/large.txt").unlink()
    assert "the hub has restarted" in invoke("reload", *deployed.named).stdout
    assert seed_files(deployed).keys() == {"site.txt", "tool.txt"}
    shell = ("shell", *deployed.named, "--container", "jupyterhub", "--command")
    assert invoke(*shell, "cat /srv/jupyterhub/site.txt").stdout == "after\n"
    assert "nothing has been edited" in invoke("reload", *deployed.named).stdout
    assert deployed.pod_uid() == before


@once
def test_the_database_comes_back_from_a_backup(deployed: Deployed, tmp_path: Path) -> None:
    """As docs/kubernetes.md says it; nothing restarts the container while the hub is stopped."""
    before = deployed.pod_uid()
    shell = ("shell", *deployed.named, "--container", "jupyterhub", "--command")
    copy, database = tmp_path / "data.tar", "/var/lib/jupyterhub/jupyterhub.sqlite"
    digest = invoke(*shell, f"sh -c 's6-svc -wD -d /run/service/jupyterhub; sha256sum {database}'").stdout
    invoke("export-volume", *deployed.named, "--volume", "jupyterhub-data", "--output", str(copy))
    invoke(*shell, f"rm {database}")
    restore = ("exec", "--stdin", f"{deployed.pod}-0", "--container=jupyterhub", "--")
    untar = ("tar", "-C", "/var/lib/jupyterhub", "-xf", "-")
    with copy.open("rb") as tar:
        deployed.cluster.kubectl(*restore, *untar, stdin=tar)
    assert invoke(*shell, f"sha256sum {database}").stdout == digest
    invoke(*shell, "s6-svc -u /run/service/jupyterhub")
    invoke("wait", *deployed.named)
    (pod,) = deployed.cluster.get("pods", deployed.selector)
    restarts = [item["restartCount"] for item in pod["status"]["containerStatuses"]]
    assert (pod["metadata"]["uid"], set(restarts)) == (before, {0})


@once
def test_a_killed_container_comes_back(deployed: Deployed) -> None:
    """In the same pod, without the others."""
    before = deployed.pod_uid()
    kill = ("shell", *deployed.named, "--container", "jupyterhub", "--command", "sh -c 'kill 1'")
    invoke(*kill, check=False)  # it may end before it can say so

    def restarts() -> dict[str, int]:
        (pod,) = deployed.cluster.get("pods", deployed.selector)
        return {item["name"]: item["restartCount"] for item in pod["status"]["containerStatuses"]}

    wait_until(lambda: restarts() == {"jupyterhub": 1, "slurm": 0}, REPLACED, "it isn't started again")
    wait_ready(deployed)
    invoke("wait", *deployed.named)
    assert deployed.pod_uid() == before


@once
def test_a_deleted_pod_comes_back(deployed: Deployed) -> None:
    """Never two at a time, and with the same database."""
    before = deployed.pod_uid()
    deployed.cluster.kubectl("delete", "pod", f"{deployed.pod}-0", "--wait=false")

    def is_replaced() -> bool:
        pods = deployed.cluster.get("pods", deployed.selector)
        assert len(pods) < 2
        return [pod["metadata"]["uid"] for pod in pods] not in ([before], [])

    wait_until(is_replaced, REPLACED, "there is no new pod")
    wait_ready(deployed)
    invoke("wait", *deployed.named)


@once
def test_a_setting_rolls_forth_and_back(deployed: Deployed, operator: Path) -> None:
    """A rollback has the settings and seed files of before, since their ConfigMaps are still there.

    A removed seed file is gone from the pod. The Role in the docs is enough.
    """
    assert deployed.seeds is not None
    before = deployed.pod_uid()
    (deployed.seeds / "jupyterhub-config/large.txt").unlink(missing_ok=True)
    # That may not see which images the node has.
    deployed.up("--set", "log_level=DEBUG", "--set", "kubernetes.load=/bin/true", path=operator)
    assert deployed.pod_uid() != before
    assert setting(deployed, "DEPLOY_CONFIG_LOG_LEVEL") == "DEBUG"
    assert seed_files(deployed).keys() == {"site.txt", "tool.txt"}
    deployed.cluster.kubectl("rollout", "undo", f"statefulset/{deployed.pod}")
    wait_ready(deployed)
    assert setting(deployed, "DEPLOY_CONFIG_LOG_LEVEL") == "INFO"
    files = {"site.txt": ("644", 7), "large.txt": ("644", 300_000), "tool.txt": ("755", 10)}
    assert seed_files(deployed) == files


def test_new_secrets_replace_the_pod(deployed: Deployed) -> None:
    """And a user computes with them."""
    before = deployed.pod_uid()
    invoke("secrets", *deployed.named, "--rotate")
    assert deployed.pod_uid() != before
    assert "all well" in invoke("verify", *deployed.named).stdout


@once
def test_a_broken_rollout_is_explained_and_mended(deployed: Deployed) -> None:
    """`up` over a pod that can't start replaces it; a StatefulSet would wait for it for ever."""
    image = "localhost/not-there:1"
    deployed.cluster.kubectl("set", "image", f"statefulset/{deployed.pod}", f"jupyterhub={image}")

    def is_broken() -> bool:
        pods = deployed.cluster.get("pods", deployed.selector)
        return any(item["image"] == image for pod in pods for item in pod["spec"]["containers"])

    wait_until(is_broken, REPLACED, "the broken image isn't rolled out")
    deployed.up()
    invoke("wait", *deployed.named)


@once
def test_down_keeps_the_claims_and_the_key_to_the_database(deployed: Deployed, operator: Path) -> None:
    """Nothing else is left, and `up` goes on with them, but not without the key. The Role in the docs is enough."""
    secret = f"{deployed.pod}-jupyterhub"

    def crypt_key() -> str:
        (found,) = deployed.cluster.get("secret", secret)
        return str(found["data"]["crypt_keys"])

    before = crypt_key()
    assert f"Ingress/{deployed.pod}" in deployed.left()
    invoke("down", *deployed.named, path=operator)
    assert deployed.left() == set()
    assert deployed.cluster.get("persistentvolumeclaims", deployed.selector)
    with another_checkout(deployed):
        options = (*deployed.named, *deployed.cluster.options, *deployed.options)
        refused = invoke("up", *options, check=False).stderr
    assert f"claim {deployed.pod}-jupyterhub-data has a database, and its crypt key is neither" in refused
    assert deployed.left() == set()
    deployed.up()
    assert crypt_key() == before
    assert "all well" in invoke("verify", *deployed.named).stdout


@once
def test_a_claim_that_is_being_deleted_stops_up(deployed: Deployed) -> None:
    """Replacing the pod would end its data. The hint says how to save it."""
    claim, before = f"{deployed.pod}-home", deployed.pod_uid()
    deployed.cluster.kubectl("delete", "persistentvolumeclaim", claim, "--wait=false")
    options = (*deployed.named, *deployed.cluster.options, *deployed.options, "--set", "log_level=DEBUG")
    refused = invoke("up", *options, check=False)
    assert f"error: claim {claim} is being deleted" in refused.stderr
    assert f"invoke export-volume {' '.join(deployed.named)} --volume home" in refused.stderr
    assert deployed.pod_uid() == before
    assert deployed.cluster.get("persistentvolumeclaim", claim)
