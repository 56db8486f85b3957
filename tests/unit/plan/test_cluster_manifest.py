"""The Kubernetes folder: the same containers as podman's pod, and nothing secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment.sources import read_seeds, read_templates
from hubenvs.errors import DefinitionError
from hubenvs.plan.cluster_manifest import PROXY_MEMORY, SECRETS, cluster_manifest, kustomize_folder, left_out
from hubenvs.plan.manifest import manifest

Document = dict[str, Any]


def images(env: Environment) -> dict[str, str]:
    return {name: f"localhost/{name}:1" for name in env.containers}


def folder(env: Environment, seeds: dict[str, dict[str, bytes]] | None = None) -> dict[str, list[Document]]:
    return cluster_manifest(env, read_templates(env.root), images(env), read_seeds(env) | (seeds or {}))


def resources(files: dict[str, list[Document]]) -> list[str]:
    """Return the files that applying the folder takes."""
    return list(yaml.safe_load(kustomize_folder(files)["kustomization.yaml"])["resources"])


def shape(spec: Document, config_maps: dict[str, Document]) -> dict[str, Any]:
    """Return a pod's containers with their environment, mounts (and what is behind each) and ports."""
    behind = {volume["name"]: {**volume, "name": None} for volume in spec["volumes"]}
    for volume in behind.values():
        volume.get("secret", {}).pop("defaultMode", None)  # in a cluster a pod's group may read them
    return {
        item["name"]: {
            "image": item["image"],
            "command": item.get("command"),
            "environment": [config_maps[source["configMapRef"]["name"]] for source in item["envFrom"]],
            "mounts": {
                mount["mountPath"]: behind[mount["name"]]
                for mount in item["volumeMounts"]
                if mount["mountPath"]
                not in ("/run", "/tmp")  # written to by those that aren't root's in a cluster
            },
            "ports": [port["containerPort"] for port in item.get("ports", ())],
        }
        for item in spec["containers"]
    }


def _join_proxy(in_cluster: dict[str, Any]) -> None:
    """Put a proxy that has a pod of its own back beside its hub, and check what is the proxy's alone."""
    proxy, hub = in_cluster.pop("proxy"), in_cluster["jupyterhub"]
    assert proxy["image"] == hub["image"]
    secret = hub["mounts"]["/run/credentials/jupyterhub"]["secret"]
    token = proxy["mounts"].pop("/run/credentials/jupyterhub")
    assert not proxy["mounts"]
    assert {item["key"] for item in token["secret"].pop("items")} == {"format", "proxy_token"}
    assert token["secret"] == secret
    assert proxy["ports"].pop() == 8001  # its API, on loopback where the hub is beside it
    hub["ports"] = proxy["ports"] + hub["ports"]
    (settings,) = hub["environment"]
    for container in (proxy, *(item for item in in_cluster.values() if item is not hub)):
        assert container["environment"][0].items() <= settings.items()
        container["environment"] = [settings]


@pytest.mark.parametrize("name", ["dev_dummyauth", "dev_dummyauth_extslurm", "prod"])
def test_podman_and_kubernetes_have_the_same_containers(root: Path, name: str) -> None:
    """Both pods have the same containers, commands, variables, mounts and ports."""
    env = read_environment(root, name, settings=["publish.jupyterhub=8000"])
    played = manifest(env, read_templates(root), images(env), dict.fromkeys(env.secret_keys, "secret"))
    (pod,) = (item["spec"] for item in played if item["kind"] == "Pod")
    maps = {item["metadata"]["name"]: item["data"] for item in played if item["kind"] == "ConfigMap"}
    files = folder(env)
    cluster_maps = {item["metadata"]["name"]: item.get("data") for item in files["configmaps.yaml"]}
    workloads = [*files["statefulset.yaml"], *files.get("deployment.yaml", ())]
    parts = [shape(item["spec"]["template"]["spec"], cluster_maps) for item in workloads]
    in_cluster = {name: item for part in parts for name, item in part.items()}
    assert len(in_cluster) == sum(map(len, parts))
    if env.proxy_apart:
        _join_proxy(in_cluster)
    # What holds only seed files begins empty in each pod of a cluster.
    seeded = {volume.path: volume.name for volume in env.volumes if volume.seeded}
    for item in in_cluster.values():
        for path in seeded.keys() & item["mounts"].keys():
            assert item["mounts"][path] == {"name": None, "emptyDir": {}}
            item["mounts"][path] = {"name": None, "persistentVolumeClaim": {"claimName": seeded[path]}}
    # Podman sets the size of /dev/shm in containers.conf; in a cluster it takes a volume.
    shm = {name: item["mounts"].pop("/dev/shm", None) for name, item in in_cluster.items()}
    assert {name for name, volume in shm.items() if volume} == {"slurm"} & in_cluster.keys()
    assert in_cluster == shape(pod, maps)


@pytest.mark.parametrize("name", ["dev_realauth", "prod"])
def test_memory_is_limited_as_in_the_definition(root: Path, name: str) -> None:
    """Each container has its limit of `limits`, none where that is null; a proxy in its own pod has a fixed one."""
    env = read_environment(root, name, settings=["limits.jupyterhub.memory=3Gi", "limits.slurm.memory=null"])
    files = folder(env)
    containers = [
        item
        for workload in (*files["statefulset.yaml"], *files.get("deployment.yaml", ()))
        for item in workload["spec"]["template"]["spec"]["containers"]
    ]
    memory = {item["name"]: item["resources"]["limits"].get("memory") for item in containers}
    assert memory.pop("proxy", PROXY_MEMORY) == PROXY_MEMORY
    assert memory == {name: env.limits[name].memory for name in env.containers}
    assert memory["jupyterhub"] == "3Gi"


def test_every_seed_file_is_brought_in(env: Environment) -> None:
    """Each seeded volume's files come from its ConfigMap: same paths, same owner, at the start."""
    files = folder(env)
    (stateful_set,) = files["statefulset.yaml"]
    spec = stateful_set["spec"]["template"]["spec"]
    maps = {item["metadata"]["name"]: item["data"] for item in files["configmaps.yaml"]}
    sources = {volume["name"]: volume["configMap"] for volume in spec["volumes"] if "configMap" in volume}
    brought = {}
    for container in spec["initContainers"]:
        _, path, owner, *names = container["args"]
        source = sources[container["name"]]
        contents = {item["path"]: maps[source["name"]][item["key"]].encode() for item in source["items"]}
        volume = source["name"].rpartition("-")[0]
        brought[volume] = (path, int(owner), {name: contents[name] for name in names})
    seeds = read_seeds(env)
    assert brought == {
        item.name: (item.path, item.owner, seeds[item.name]) for item in env.volumes if item.seeded
    }


def test_a_seed_that_is_a_program_stays_one(env: Environment) -> None:
    """The ConfigMap's volume has the mode that the init container copies."""
    name = f"{env.pod}-slurm-config"
    files = cluster_manifest(
        env,
        read_templates(env.root),
        images(env),
        {**read_seeds(env), name: {"prolog": b"#!/bin/sh\n", "x": b""}},
    )
    (stateful_set,) = files["statefulset.yaml"]
    volumes = {item["name"]: item for item in stateful_set["spec"]["template"]["spec"]["volumes"]}
    items = volumes["seed-slurm-config"]["configMap"]["items"]
    assert {item["path"]: item["mode"] for item in items} == {"prolog": 0o755, "x": 0o644}


def test_the_folder_names_secrets_and_has_none(env: Environment) -> None:
    """The Secrets' template has every key and no value; applying the folder leaves a site's Secrets alone."""
    files = folder(env)
    template = {item["metadata"]["name"]: item["stringData"] for item in files[SECRETS]}
    assert template == {
        item.name: {"format": "plain", **dict.fromkeys(item.keys, "REPLACE")} for item in env.secrets
    }
    assert SECRETS not in resources(files)


def test_other_content_is_another_config_map(env: Environment) -> None:
    """A changed seed file or setting replaces the pod, and a rollback refers to the ConfigMap of before."""

    def references(env: Environment, seed: bytes) -> set[str]:
        files = folder(env, {f"{env.pod}-slurm-config": {"a": seed}})
        (stateful_set,) = files["statefulset.yaml"]
        spec = stateful_set["spec"]["template"]["spec"]
        names = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
        names |= {source["configMapRef"]["name"] for item in spec["containers"] for source in item["envFrom"]}
        assert names == {item["metadata"]["name"] for item in files["configmaps.yaml"]}
        return names

    first = references(env, b"1")
    assert references(env, b"1") == first
    assert len(references(env, b"2") - first) == 1
    changed = read_environment(env.root, env.name, settings=["log_level=DEBUG"])
    assert len(references(changed, b"1") - first) == 1


def test_a_changed_secret_replaces_the_pod(env: Environment) -> None:
    """The pod's template says which versions of the Secrets it was started with."""

    def template(secrets: str) -> Document:
        files = cluster_manifest(env, read_templates(env.root), images(env), read_seeds(env), secrets=secrets)
        (stateful_set,) = files["statefulset.yaml"]
        return dict(stateful_set["spec"]["template"])

    assert template("1") == template("1") != template("2")


def test_an_older_server_gets_nothing_that_it_lacks(root: Path) -> None:
    """Before 1.22 a range of ports is unknown, and the kubelet refuses the sysctl."""
    for name in ("dev_dummyauth", "prod"):
        env = read_environment(root, name)
        old, new = (
            kustomize_folder(
                cluster_manifest(env, read_templates(root), images(env), read_seeds(env), version=version)
            )
            for version in ((1, 21), (1, 22))
        )
        for text in ("endPort", "sysctls"):
            assert text not in "".join(old.values())
        assert ("endPort" if name == "prod" else "sysctls") in "".join(new.values())


def test_what_an_older_server_lacks_is_named(root: Path) -> None:
    """Each as far as the environment needs it; a server of 1.22 lacks nothing."""
    for name, missing in (("dev_dummyauth", "sysctls"), ("prod", "endPort")):
        env = read_environment(root, name)
        assert left_out(env, (1, 20)) == left_out(env, (1, 21)) == [missing]
        assert left_out(env, (1, 22)) == []


def test_the_servers_version_is_a_setting(root: Path) -> None:
    """With its "v", without which YAML would take 1.20 for 1.2."""
    for text, version in (("v1.20", (1, 20)), ("v1.31.2", (1, 31)), ("null", None)):
        env = read_environment(root, "prod", settings=[f"kubernetes.version={text}"])
        assert env.kubernetes.server == version
    with pytest.raises(DefinitionError, match=r"kubernetes\.version"):
        read_environment(root, "prod", settings=["kubernetes.version=1.20"])


def test_an_older_server_is_not_waited_for(env: Environment) -> None:
    """Before 1.22 it first asks whether a pod is ready up to a period after the startup probe has succeeded."""
    for version, period in (((1, 21), 3), ((1, 22), 10)):
        files = cluster_manifest(env, read_templates(env.root), images(env), read_seeds(env), version=version)
        (stateful_set,) = files["statefulset.yaml"]
        for container in stateful_set["spec"]["template"]["spec"]["containers"]:
            assert container["readinessProbe"]["periodSeconds"] == period


def test_a_name_too_long_for_a_stateful_set_is_refused(root: Path) -> None:
    """Its pods' label would be too long, and none would start."""
    env = read_environment(root, "dev_dummyauth", instance="a" * 22)
    with pytest.raises(DefinitionError, match="52 characters"):
        folder(env)


def test_a_hub_that_hangs_keeps_users_servers_reachable(env: Environment) -> None:
    """The Service leads to a pod that isn't ready, and what restarts the hub's container asks its proxy alone."""
    files = folder(env)
    (service,), (stateful_set,) = files["service.yaml"], files["statefulset.yaml"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    hub, slurm = stateful_set["spec"]["template"]["spec"]["containers"]
    assert hub["livenessProbe"]["httpGet"]["path"] == "/_chp_healthz"
    assert "livenessProbe" not in slurm


@pytest.mark.parametrize(
    "files", [{"a b": b""}, {"a/b": b"1", "a__b": b"2"}, {"a": "ü".encode() * (2**19) + b"x"}]
)
def test_seeds_that_no_config_map_takes_are_refused(env: Environment, files: dict[str, bytes]) -> None:
    """A name or a size that the cluster would refuse is named here."""
    with pytest.raises(DefinitionError, match="slurm-config: "):
        folder(env, {f"{env.pod}-slurm-config": files})


def test_a_config_map_is_as_large_as_its_files(env: Environment) -> None:
    """The cluster counts the bytes of what isn't text, and not its base64."""
    folder(env, {f"{env.pod}-slurm-config": {"a": b"\xff" * 2**20}})


def test_a_sites_hub_reaches_what_the_site_has_and_nothing_else(root: Path) -> None:
    """In: servers' calls. Out: names, SSH to Slurm, servers in its jobs, people's tunnel, the provider.

    Between the two pods: the proxy's API for the hub alone, and for the proxy that comes next.
    """
    settings = [
        "slurm.ssh_port=2201",
        "zenith.server_port=2202",
        "auth.oidc_server=https://idp.example.org:8443",
    ]
    files = folder(read_environment(root, "prod", settings=settings))
    (_, hub, proxy), services = files["networkpolicy.yaml"], files["service.yaml"]

    def ports(policy: Document, way: str) -> list[tuple[int, int | None]]:
        rules = policy["spec"][way]
        return [(port["port"], port.get("endPort")) for rule in rules for port in rule["ports"]]

    assert {
        item["metadata"]["name"].rpartition("-")[2]: item["spec"]["ports"][0]["port"] for item in services
    } == {"jupyterhub": 8081, "proxy": 8001}
    assert ports(hub, "ingress") == [(8081, None)]
    assert ports(hub, "egress") == [(53, None), (53, None), (2201, None), (1024, 65535), (8443, None)]
    assert ports(proxy, "ingress") == [(8001, None)] * 2
    sources = [rule["from"][0]["podSelector"]["matchLabels"] for rule in proxy["spec"]["ingress"]]
    assert sources == [policy["spec"]["podSelector"]["matchLabels"] for policy in (hub, proxy)]
    assert ports(proxy, "egress") == [(53, None), (53, None), (1024, 65535), (2202, None)]
    by_proxy = [*settings, "auth.proxy=http://proxy.example.org:3128"]
    policies = folder(read_environment(root, "prod", settings=by_proxy))["networkpolicy.yaml"]
    assert ports(policies[1], "egress")[-1] == (3128, None)


def test_without_a_tunnel_people_come_to_the_proxys_pod(root: Path) -> None:
    """Only while it is ready, since a second one may be starting. The hub's pod is for servers' calls."""
    files = folder(read_environment(root, "dev_dummyauth_extslurm"))
    (service,) = (item for item in files["service.yaml"] if item["spec"]["ports"][0]["port"] == 8000)
    (deployment,) = files["deployment.yaml"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["publishNotReadyAddresses"] is False
    _, hub, proxy = files["networkpolicy.yaml"]
    assert proxy["spec"]["podSelector"] == deployment["spec"]["selector"]
    assert proxy["spec"]["ingress"][0] == {"ports": [{"protocol": "TCP", "port": 8000}]}
    assert hub["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8081}]}]


def test_where_nobody_comes_in_the_policy_says_so(root: Path) -> None:
    """Only the tunnel leads to the hub: no Service, and no rule, which without ports would allow all."""
    files = folder(read_environment(root, "dev_realauth_zenithclient"))
    _, allow = files["networkpolicy.yaml"]
    assert allow["spec"]["ingress"] == []
    assert "service.yaml" not in files
    assert "service.yaml" not in resources(files)


def test_people_come_to_the_gateway_or_else_to_the_hub(root: Path) -> None:
    """Without a tunnel the Service and the policy have the port that people come to, and no other."""
    for name, ports in (("dev_dummyauth", [8000]), ("dev_realauth", [9000, 8080])):
        files = folder(read_environment(root, name))
        (service,), (_, allow) = files["service.yaml"], files["networkpolicy.yaml"]
        assert sorted(port["port"] for port in service["spec"]["ports"]) == sorted(ports)
        assert sorted(port["port"] for rule in allow["spec"]["ingress"] for port in rule["ports"]) == sorted(
            ports
        )


def test_an_ingress_leads_to_the_hub(root: Path) -> None:
    """Under its host name and base URL, by TLS; where users come another way it is refused."""
    ingress = "kubernetes.ingress={host: hub.example.org, class: nginx, tls_secret: tls}"
    (document,) = folder(read_environment(root, "dev_dummyauth", settings=[ingress]))["ingress.yaml"]
    (rule,), (path,) = document["spec"]["rules"], document["spec"]["rules"][0]["http"]["paths"]
    assert (rule["host"], path["path"]) == ("hub.example.org", "/jupyter")
    assert document["spec"]["ingressClassName"] == "nginx"
    assert document["spec"]["tls"] == [{"hosts": ["hub.example.org"], "secretName": "tls"}]
    assert "ingress.yaml" not in folder(read_environment(root, "dev_dummyauth"))
    for name in ("dev_realauth", "prod"):
        with pytest.raises(DefinitionError, match=r"kubernetes\.ingress: users come"):
            read_environment(root, name, settings=[ingress])


def test_a_proxy_on_loopback_is_probed_from_inside(root: Path) -> None:
    """Where people come through a tunnel nothing else reaches the proxy, Kubernetes neither."""

    def hub(name: str) -> Document:
        (stateful_set,) = folder(read_environment(root, name))["statefulset.yaml"]
        containers = stateful_set["spec"]["template"]["spec"]["containers"]
        return next(dict(item) for item in containers if item["name"] == "jupyterhub")

    assert hub("dev_realauth_zenithclient")["readinessProbe"]["exec"] == {"command": ["hub-health"]}
    assert "httpGet" in hub("dev_dummyauth")["readinessProbe"]


def test_with_slurm_elsewhere_a_proxy_outlives_its_hub(root: Path) -> None:
    """It has a Deployment of its own, each is probed for itself, and their addresses come without DNS."""
    files = folder(read_environment(root, "prod"))
    (stateful_set,), (deployment,) = files["statefulset.yaml"], files["deployment.yaml"]
    (hub,) = stateful_set["spec"]["template"]["spec"]["containers"]
    proxy, tunnel = deployment["spec"]["template"]["spec"]["containers"]
    assert (hub["name"], proxy["name"], tunnel["name"]) == ("jupyterhub", "proxy", "zenith-client")
    assert "livenessProbe" not in hub  # a backup stops the hub
    assert hub["readinessProbe"]["httpGet"] == {"path": "/jupyter/hub/health", "port": 8081}
    assert proxy["livenessProbe"]["exec"]["command"] == ["hub-health", "/_chp_healthz"]
    services = {item["metadata"]["name"].upper().replace("-", "_") for item in files["service.yaml"]}
    values = {item["value"] for item in (*hub["env"], *proxy["env"])}
    assert values == {f"$({name}_SERVICE_HOST)" for name in services}


def test_no_disruption_budget_blocks_a_drain(root: Path) -> None:
    """Each pod has one of its own that lets the one pod go."""
    for name, count in (("dev_dummyauth", 1), ("prod", 2)):
        files = folder(read_environment(root, name))
        budgets = files["poddisruptionbudget.yaml"]
        assert [item["spec"]["maxUnavailable"] for item in budgets] == [1] * count
        workloads = [*files["statefulset.yaml"], *files.get("deployment.yaml", ())]
        assert [item["spec"]["selector"] for item in budgets] == [
            item["spec"]["selector"] for item in workloads
        ]
