"""Every environment's Kubernetes folder: schemas, the "baseline" Pod Security Standard, and kustomize."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hubenvs.definition.read import read_environment
from hubenvs.deployment.sources import read_seeds, read_templates
from hubenvs.plan.cluster_manifest import SECRETS, cluster_manifest, kustomize_folder
from hubenvs.plan.workloads import PROXY_SETTINGS

from .test_manifests import ENVIRONMENTS, VERSIONS

# What a container may add under "baseline": https://kubernetes.io/docs/concepts/security/pod-security-standards/
CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced",
    *(f"net.ipv4.{name}" for name in (
        "ip_local_port_range", "ip_unprivileged_port_start", "tcp_syncookies", "ping_group_range",
        "ip_local_reserved_ports", "tcp_keepalive_time", "tcp_fin_timeout", "tcp_keepalive_intvl",
        "tcp_keepalive_probes",
    )),
}  # fmt: skip
SELINUX_TYPES = {"container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def beyond_baseline(template: dict[str, Any]) -> list[str]:
    """Return what of a pod template the "baseline" Pod Security Standard forbids."""
    spec = template["spec"]
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [
        f"volume {volume['name']}: hostPath" for volume in spec.get("volumes", ()) if "hostPath" in volume
    ]
    contexts = {"pod": spec.get("securityContext", {})}
    containers = [*spec.get("initContainers", ()), *spec["containers"], *spec.get("ephemeralContainers", ())]
    for container in containers:
        contexts[container["name"]] = container.get("securityContext", {})
        found += [
            f"{container['name']}: hostPort" for port in container.get("ports", ()) if port.get("hostPort")
        ]
        handlers = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += container.get("lifecycle", {}).values()
        found += [
            f"{container['name']}: a probe's host"
            for handler in handlers
            if any(handler.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket"))
        ]
    for name, context in contexts.items():
        selinux = context.get("seLinuxOptions", {})
        found += [
            f"{name}: {wrong}"
            for wrong, is_so in {
                "privileged": context.get("privileged"),
                "capabilities": set(context.get("capabilities", {}).get("add", ())) - CAPABILITIES,
                "procMount": context.get("procMount", "Default") != "Default",
                "seccomp": context.get("seccompProfile", {}).get("type") == "Unconfined",
                "AppArmor": context.get("appArmorProfile", {}).get("type") == "Unconfined",
                "hostProcess": context.get("windowsOptions", {}).get("hostProcess"),
                "sysctls": {item["name"] for item in context.get("sysctls", ())} - SYSCTLS,
                "SELinux": selinux.get("user")
                or selinux.get("role")
                or {selinux.get("type")} - SELINUX_TYPES - {None},
            }.items()
            if is_so
        ]
    annotations = template["metadata"].get("annotations", {})
    found += [key for key in annotations if key.startswith("container.apparmor.security.beta.kubernetes.io/")]
    return found


def beyond_restricted(template: dict[str, Any]) -> list[str]:
    """Return what of a pod template the "restricted" standard forbids, besides what "baseline" does."""
    spec = template["spec"]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found = [
        f"volume {volume['name']}: {kind}"
        for volume in spec.get("volumes", ())
        for kind in volume.keys() - {"name"} - allowed
    ]
    pod = spec.get("securityContext", {})
    for container in (
        *spec.get("initContainers", ()),
        *spec["containers"],
        *spec.get("ephemeralContainers", ()),
    ):
        context = container.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        seccomp = context.get("seccompProfile") or pod.get("seccompProfile") or {}
        found += [
            f"{container['name']}: {wrong}"
            for wrong, is_so in {
                "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
                "runAsNonRoot": context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True,
                "runAsUser": context.get("runAsUser", pod.get("runAsUser")) == 0,
                "seccompProfile": seccomp.get("type") not in ("RuntimeDefault", "Localhost"),
                "drop": "ALL" not in capabilities.get("drop", ()),
                "add": bool(set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}),
            }.items()
            if is_so
        ]
    return found


@pytest.fixture(params=ENVIRONMENTS)
def folder(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Path:
    """The folder that `render --target kubernetes` writes of an environment."""
    ingress = "kubernetes.ingress={host: hub.example.org, class: nginx, tls_secret: tls}"
    env = read_environment(
        root, request.param, settings=[ingress] if request.param == "dev_dummyauth" else []
    )
    images = {name: f"localhost/{name}:1" for name in env.containers}
    target = tmp_path / "folder"
    target.mkdir()
    files = kustomize_folder(cluster_manifest(env, read_templates(root), images, read_seeds(env)))
    for name, content in files.items():
        (target / name).write_text(content)
    return target


def resources(folder: Path) -> list[dict[str, Any]]:
    """Return the documents that the folder's kustomization.yaml names."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    # Nothing that only kustomize could resolve.
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}
    texts = [(folder / name).read_text() for name in kustomization["resources"]]
    return [item for text in texts for item in yaml.safe_load_all(text)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_folder_is_valid_kubernetes(folder: Path, version: str) -> None:
    """Clusters of the oldest and the newest supported minor take every document and the Secrets' template."""
    for document in (*resources(folder), *yaml.safe_load_all((folder / SECRETS).read_text())):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_pods_keep_to_the_baseline(folder: Path) -> None:
    """A namespace that enforces the "baseline" Pod Security Standard takes them."""
    kinds = ("StatefulSet", "Deployment")
    template, *others = (item["spec"]["template"] for item in resources(folder) if item["kind"] in kinds)
    assert [beyond_baseline(item) for item in (template, *others)] == [[]] * (1 + len(others))
    worse = copy.deepcopy(template)
    worse["spec"] |= {"hostNetwork": True, "volumes": [{"name": "root", "hostPath": {"path": "/"}}]}
    worse["spec"]["containers"][0] |= {
        "ports": [{"containerPort": 1, "hostPort": 1}],
        "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}},
    }
    name = worse["spec"]["containers"][0]["name"]
    assert beyond_baseline(worse) == [
        "hostNetwork",
        "volume root: hostPath",
        f"{name}: hostPort",
        f"{name}: privileged",
        f"{name}: capabilities",
    ]


def test_pods_are_restricted_where_there_is_no_slurm(folder: Path) -> None:
    """There a namespace that enforces the "restricted" standard takes them. Slurm starts as root, and has sudo."""
    kinds = ("StatefulSet", "Deployment")
    template, *others = (item["spec"]["template"] for item in resources(folder) if item["kind"] in kinds)
    assert [beyond_restricted(item) for item in others] == [[]] * len(others)
    if "slurm" in (container["name"] for container in template["spec"]["containers"]):
        assert "slurm: allowPrivilegeEscalation" in beyond_restricted(template)
        return
    assert beyond_restricted(template) == []
    worse = copy.deepcopy(template)
    worse["spec"] |= {"volumes": [{"name": "root", "hostPath": {"path": "/"}}], "securityContext": {}}
    worse["spec"]["containers"] = [
        {"name": "root", "securityContext": {"runAsUser": 0, "capabilities": {"add": ["CHOWN"]}}}
    ]
    worse["spec"]["initContainers"] = []
    wrong = ("allowPrivilegeEscalation", "runAsNonRoot", "runAsUser", "seccompProfile", "drop", "add")
    assert beyond_restricted(worse) == ["volume root: hostPath", *(f"root: {what}" for what in wrong)]


def build(folder: Path) -> str | None:
    """Return what kustomize, its own program or that in kubectl, makes of ``folder``; None if there is neither."""
    if shutil.which("kustomize"):
        command = ("kustomize", "build")
    elif shutil.which("kubectl") and "kustomizeVersion" in said("kubectl", "version", "--client", "-ojson"):
        command = ("kubectl", "kustomize")  # until 1.20 it had one that knows no `patches`
    else:
        return None
    return said(*command, str(folder))


def said(*argv: str) -> str:
    """Return what a command prints."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_kustomize_builds_the_folder(folder: Path) -> None:
    """kustomize, its own program or kubectl's, makes of the folder what our own reading of it makes."""
    built = build(folder)
    if built is None:
        pytest.skip("neither kustomize nor kubectl is here: the folder was checked by its schemas alone")

    def named(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(item["kind"], item["metadata"]["name"]): item for item in documents}

    assert named(list(yaml.safe_load_all(built))) == named(resources(folder))


def test_the_overlay_in_the_docs_builds(folder: Path) -> None:
    """Its patches are such as kustomize can read: a block list, or strict JSON. A flow list of YAML is neither."""
    page = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "patches:" in block)
    overlay = yaml.safe_load(text)
    for item in overlay["patches"]:
        patch = item["patch"]
        if patch.startswith("apiVersion:"):  # a merge patch: part of an object
            assert item["target"]["kind"] == yaml.safe_load(patch)["kind"]
            continue
        assert patch.startswith("- ") or json.loads(patch)
        assert all({"op", "path"} <= operation.keys() for operation in yaml.safe_load(patch))
    folder.rename(folder.with_name("base"))
    (folder.parent / "kustomization.yaml").write_text(text)
    built = build(folder.parent)
    if built is None:
        pytest.skip("there is no kustomize: the patches were only read")
    documents = list(yaml.safe_load_all(built))
    claims = [item for item in documents if item["kind"] == "PersistentVolumeClaim"]
    assert all(item["spec"]["storageClassName"] == "fast" for item in claims)
    assert all(item["metadata"]["namespace"] == "jupyterhub" for item in documents)
    (stateful_set,) = (item for item in documents if item["kind"] == "StatefulSet")
    memory = {
        container["name"]: container["resources"]["limits"]["memory"]
        for container in stateful_set["spec"]["template"]["spec"]["containers"]
    }
    assert memory["jupyterhub"] == "3Gi"


def test_a_hub_of_any_configuration_finds_the_proxys_pod(tmp_path: Path) -> None:
    """By its command line, which counts more than a foreign jupyterhub_config.py; else that says where it is."""
    root = Path(__file__).parents[2]
    script = tmp_path / "jupyterhub"
    text = (root / "containers/jupyterhub/services/jupyterhub").read_text()
    script.write_text(re.sub("/usr/local/lib/s6/(has-room|await-port)", "true", text))
    started = tmp_path / "s6-envdir"
    started.write_text("#!/bin/sh\ntest -e jupyterhub_config.py && printf '%s\\n' \"$@\"\n")
    started.chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "JUPYTERHUB_SRV_DIR": str(root / "tests/integration/foreign/jupyterhub-config"),
    }

    def arguments(**more: str) -> list[str]:
        shown = subprocess.run(
            ("sh", str(script)), env=variables | more, check=True, capture_output=True, text=True
        )
        return shown.stdout.splitlines()

    services = {"DEPLOY_CONFIG_PROXY_SERVICE": "192.0.2.1", "DEPLOY_CONFIG_HUB_SERVICE": "192.0.2.2"}
    alone = arguments()
    assert alone[1:4] == ["jupyterhub", "--config", "jupyterhub_config.py"]
    assert arguments(**services) == [
        *alone,
        "--ConfigurableHTTPProxy.api_url=http://192.0.2.1:8001",
        "--JupyterHub.hub_ip=0.0.0.0",
        "--JupyterHub.hub_connect_ip=192.0.2.2",
    ]


def test_the_proxys_pod_has_the_variables_that_its_programs_read() -> None:
    """And no other: a changed one replaces it, and cuts users' connections."""
    files = (
        "containers/jupyterhub/services/configurable-http-proxy",
        "containers/jupyterhub/files/usr/local/lib/proxy/guard.mjs",
        "manifests/zenith-client.sh",
    )
    root = Path(__file__).parents[2]
    text = "".join((root / file).read_text() for file in files)
    read = set(re.findall(r"DEPLOY_CONFIG_([A-Z_]+)", text)) - {"HUB_SERVICE"}
    assert read == set(PROXY_SETTINGS)
