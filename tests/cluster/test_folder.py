"""The folder that `invoke render` writes, by the commands of docs/kubernetes.md as they are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.helpers import ROOT, START, free_port, http_status, invoke, wait_until

from .conftest import KINDS, Cluster, Deployed

NAME = "jupyterhub-slurm-dev-dummyauth"  # of the page's deployment; ours has an instance's
Bash = Callable[[str], str]


def page_commands() -> list[str]:
    """Return the blocks of commands in the page's section about the folder."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    section = page.partition("## By a folder\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"(?:^ {4,}\S.*\n)+", section, re.MULTILINE)
    return ["\n".join(line.strip() for line in block.splitlines()) for block in blocks]


@pytest.fixture
def folder(cluster: Cluster) -> Iterator[Deployed]:
    """What the folder will bring up: its images are built, and its secrets generated."""
    deployed = Deployed(cluster, "dev_dummyauth", "folder", f"{NAME}-folder", ())
    invoke("build", *deployed.named)
    invoke("secrets", *deployed.named)
    try:
        yield deployed
    finally:
        invoke("down", *deployed.named)
        # If the test has failed, more than claims is left.
        cluster.kubectl("delete", f"{KINDS},persistentvolumeclaims", deployed.selector, "--wait=false")


@pytest.fixture
def bash(folder: Deployed, tmp_path: Path) -> Bash:
    """Runs commands of the page: `kubectl` is about the tests' namespace, `invoke` about this checkout."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(folder.cluster.kubectl("config", "view", "--flatten", "--minify"))

    def run(commands: str) -> str:
        commands = commands.replace(NAME, folder.pod).replace("--env dev_dummyauth", " ".join(folder.named))
        if commands.startswith("invoke "):
            return invoke(*commands.replace("site/base", f"{tmp_path}/site/base").split()[1:]).stdout
        argv, variables = ("bash", "-euc", commands), os.environ | {"KUBECONFIG": str(kubeconfig)}
        done = subprocess.run(argv, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(f"kubectl config set-context --current --namespace={folder.cluster.namespace}")
    return run


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents in the file ``path``."""
    return list(yaml.safe_load_all(path.read_text()))


def fill_in(template: Path, target: Path, named: tuple[str, ...], *, without: str | None = None) -> None:
    """Write ``template`` with the generated secrets to ``target``; the key ``without`` stays as it is."""
    values = ROOT / ".deploy" / f"{named[1]}-{named[3]}" / "secrets"
    filled = documents(template)
    for secret in filled:
        data = secret["stringData"]
        for key in data.keys() - {"format", without}:
            data[key] = (values / key).read_text()
    target.write_text(yaml.safe_dump_all(filled))


def test_the_folder_is_applied_as_the_page_says(folder: Deployed, bash: Bash, tmp_path: Path) -> None:
    """A Secret with a placeholder is named in a log; with all of them the hub answers; the claims outlive it."""
    render, secrets, apply, prune, down = page_commands()
    cluster, base = folder.cluster, tmp_path / "site/base"
    pod = f"{folder.pod}-0"
    version = json.loads(cluster.kubectl("version", "--output=json"))["serverVersion"]
    render += f" --set kubernetes.version=v{version['major']}.{version['minor'].rstrip('+')}"
    (tmp_path / "seeds/jupyterhub-config").mkdir(parents=True)
    # Too large for the annotation of a client-side apply.
    (tmp_path / "seeds/jupyterhub-config/large.txt").write_text("x" * 300_000)
    render += f" --set overlays=[{tmp_path}/seeds]"
    bash(f"{render} --set log_level=DEBUG")
    (stateful_set,) = documents(base / "statefulset.yaml")
    cluster.take(*(item["image"] for item in stateful_set["spec"]["template"]["spec"]["containers"]))
    fill_in(base / "secrets.template.yaml", tmp_path / "secrets.yaml", folder.named, without="munge_key")
    bash(secrets)
    bash(apply.splitlines()[0])
    refused = "Secret of slurm: munge_key is not filled in"
    logs = ("logs", pod, "--container=slurm")
    wait_until(lambda: refused in cluster.kubectl(*logs, check=False), START, "the placeholder is not named")

    bash(render)
    fill_in(base / "secrets.template.yaml", tmp_path / "secrets.yaml", folder.named)
    bash(secrets)
    bash(apply.splitlines()[0])
    cluster.kubectl("delete", "pod", pod)  # the rollout waits for it
    bash(apply)
    port = free_port()
    forward = cluster.command("port-forward", f"service/{folder.pod}", f"{port}:8000")
    with subprocess.Popen(forward, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/jupyter/hub/login"
        try:
            wait_until(lambda: http_status(url) == 200, START, "the hub does not answer")
        finally:
            process.terminate()
    size = ("exec", pod, "--container=jupyterhub", "--", "stat", "--format=%s", "/srv/jupyterhub/large.txt")
    assert cluster.kubectl(*size).strip() == "300000"

    before = cluster.get("configmaps", folder.selector)
    bash(prune)
    assert cluster.get("configmaps", folder.selector) == before
    oldest = min(cluster.get("controllerrevisions", folder.selector), key=lambda item: int(item["revision"]))
    cluster.kubectl("delete", "controllerrevision", oldest["metadata"]["name"])
    bash(prune)
    assert len(cluster.get("configmaps", folder.selector)) == len(before) - 1

    bash(f"{prune.splitlines()[0]}\n{down}")
    wait_until(lambda: folder.left() == set(), START, "something is left")
    assert cluster.get("persistentvolumeclaims", folder.selector)


def kubectl_with_patches() -> str | None:
    """Return the kubectl whose kustomize knows `patches`, which came with 1.21; None if there is none."""
    for folder in os.get_exec_path():
        if program := shutil.which("kubectl", path=folder):
            command = (program, "version", "--client", "--output=json")
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if "kustomizeVersion" in shown:
                return program
    return None


def page_overlay() -> tuple[str, str]:
    """Return the page's overlay, and the command that applies it."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    ((text, rest),) = re.findall(r"```yaml\n(# site/kustomization.yaml\n.*?)```(.*)", page, re.DOTALL)
    (command,) = re.findall(r"^ {4}(kubectl apply .* -k site)$", rest, re.MULTILINE)
    return text, command


@pytest.fixture
def site_namespace(cluster: Cluster) -> Iterator[Cluster]:
    """Another namespace, which nothing but the overlay names."""
    place = replace(cluster, namespace=f"{cluster.namespace}-site")
    cluster.kubectl("create", "namespace", place.namespace)
    yield place
    cluster.kubectl("delete", "namespace", place.namespace)


def test_the_overlay_is_applied_as_the_page_says(
    folder: Deployed, site_namespace: Cluster, bash: Bash, tmp_path: Path
) -> None:
    """Its namespace, labels, image, resources and storage class are those of what runs then."""
    program = kubectl_with_patches()
    if not program:
        pytest.skip("needs kubectl 1.21 or newer, whose kustomize knows `patches`")
    render, secrets, *_ = page_commands()
    text, apply = page_overlay()
    version = json.loads(folder.cluster.kubectl("version", "--output=json"))["serverVersion"]
    bash(f"{render} --set kubernetes.version=v{version['major']}.{version['minor'].rstrip('+')}")
    base = tmp_path / "site/base"
    (stateful_set,) = documents(base / "statefulset.yaml")
    images = {item["name"]: item["image"] for item in stateful_set["spec"]["template"]["spec"]["containers"]}
    folder.cluster.take(*images.values())
    # That no node has; the overlay names the one that was loaded.
    repository, _, tag = images["jupyterhub"].partition(":")
    written = (base / "statefulset.yaml").read_text()
    (base / "statefulset.yaml").write_text(written.replace(images["jupyterhub"], f"{repository}:none"))
    text = text.replace("namespace: jupyterhub", f"namespace: {site_namespace.namespace}")
    text = text.replace("registry.example.org/jupyterhub", repository).replace(NAME, folder.pod)
    text = re.sub("digest: .*", f"newTag: {tag}", text).replace("value: fast", 'value: ""')
    (tmp_path / "site/kustomization.yaml").write_text(text)
    fill_in(base / "secrets.template.yaml", tmp_path / "secrets.yaml", folder.named)
    bash(secrets.replace("kubectl", f"kubectl --namespace {site_namespace.namespace}"))
    bash(apply.replace("kubectl", program))

    site_namespace.kubectl("rollout", "status", f"statefulset/{folder.pod}", f"--timeout={START}s")
    (pod,) = site_namespace.get("pods", folder.selector)
    (hub,) = (item for item in pod["spec"]["containers"] if item["name"] == "jupyterhub")
    assert pod["metadata"]["labels"]["example.org/team"] == "research"
    assert (hub["image"], hub["resources"]["limits"]["memory"]) == (images["jupyterhub"], "3Gi")
    assert {item["spec"]["storageClassName"] for item in site_namespace.get("persistentvolumeclaims")} == {""}
    assert folder.left() == set()
