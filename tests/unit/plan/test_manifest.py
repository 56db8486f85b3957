"""The manifest: what Kubernetes takes, and nothing secret where it can be read."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubenvs.definition.container_settings import container_settings
from hubenvs.definition.containers import CONTAINERS
from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment.sources import read_templates
from hubenvs.errors import DefinitionError
from hubenvs.plan import keys
from hubenvs.plan import manifest as of_pod
from hubenvs.plan.manifest import Document, dump, redacted, security_context, without_limits

from ..helpers import rendered

IMAGES = {name: f"localhost/{name}:1" for name in CONTAINERS}


def manifest(env: Environment, values: dict[str, str] | None = None) -> tuple[Document, ...]:
    return of_pod.manifest(
        env, read_templates(env.root), IMAGES, values or keys.generate("slurm", 22, env.secret_keys)
    )


def label(documents: tuple[Document, ...], seeds: dict[str, bytes] | None = None) -> str:
    """Return the fingerprint of the pod in ``documents``."""
    return of_pod.fingerprint(documents, IMAGES, seeds or {}, None).label


def only(documents: tuple[Document, ...], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def test_the_manifest_has_all_that_the_pod_names(env: Environment) -> None:
    """ConfigMap, Secrets and claims come before the pod, all labelled as this environment's."""
    documents = manifest(env)
    kinds = [document["kind"] for document in documents]
    assert kinds == ["ConfigMap", "Secret", "Secret", *["PersistentVolumeClaim"] * 5, "Pod"]
    assert all(env.labels.items() <= document["metadata"]["labels"].items() for document in documents)


def test_nodes_and_the_ssh_host_resolve_in_the_pod(root: Path) -> None:
    """The hub goes to the node that squeue names, so each name is an alias of the pod's own address."""
    env = read_environment(root, "dev_dummyauth", settings=["slurm.nodes=3"])
    (pod,) = only(manifest(env), "Pod")
    assert pod["spec"]["hostAliases"] == [
        {"ip": "127.0.0.1", "hostnames": ["slurm", "node1", "node2", "node3", env.pod]}
    ]


def test_secrets_are_only_in_secrets(env: Environment) -> None:
    """No secret's value stands in any other document, and each Secret says what its encoding is."""
    values = keys.generate("slurm", 22, env.secret_keys)
    documents = manifest(env, values)
    for secret in only(documents, "Secret"):
        assert base64.b64decode(secret["data"]["format"]) == b"plain"
    rest = dump([document for document in documents if document["kind"] != "Secret"])
    assert not any(
        value in rest or base64.b64encode(value.encode()).decode() in rest for value in values.values()
    )


def test_each_container_gets_only_its_own_secrets(env: Environment) -> None:
    """The hub never has munge's key, nor Slurm the crypt key."""
    by_name = {
        document["metadata"]["name"]: set(document["data"]) for document in only(manifest(env), "Secret")
    }
    assert "munge_key" not in by_name[f"{env.pod}-jupyterhub"]
    assert not {"crypt_keys", "ssh_key"} & by_name[f"{env.pod}-slurm"]


# What Go's reader takes for a number, and PyYAML's for a text; and what both take for something else.
NUMBERS = ["2767562826e8", "1e3", "-1E+3", "089", "0_9", "1.", ".5e1", "0o17", "12", "1.5", "0x1f", "no", "~"]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_text_stays_a_text_for_every_reader(text: str) -> None:
    """A label is a digest of the checkout's path: where it looked like a number, `down` didn't know its own pod."""
    assert dump([{"label": text}]) == f"---\nlabel: '{text}'\n"


@pytest.mark.parametrize("value", [1, 1.5, True, None, "e8", "2767562826f8", "1e", "yes-no"])
def test_other_values_are_as_they_were(value: Any) -> None:
    """Numbers stay numbers, and plain words have no quotes."""
    assert "'" not in dump([{"label": value}])
    assert yaml.safe_load(dump([{"label": value}])) == {"label": value}


def test_redacting_hides_every_value(env: Environment) -> None:
    """`render` shows a manifest that can be pasted into a report."""
    values = keys.generate("slurm", 22, env.secret_keys)
    text = dump(redacted(manifest(env, values)))
    assert not any(base64.b64encode(value.encode()).decode() in text for value in values.values())


@pytest.mark.parametrize("setting", ["slurm.nodes=2", "log_level=DEBUG", "publish.jupyterhub=127.0.0.1:8123"])
def test_the_digest_changes_with_the_definition(root: Path, setting: str) -> None:
    """A pod is replaced if, and only if, what it is made of has changed."""
    values = keys.generate("slurm", 22, read_environment(root, "dev_dummyauth").secret_keys)
    plain = label(manifest(read_environment(root, "dev_dummyauth"), values))
    assert plain == label(manifest(read_environment(root, "dev_dummyauth"), values))
    assert plain != label(manifest(read_environment(root, "dev_dummyauth", settings=[setting]), values))


def test_the_digest_changes_with_secrets_and_seeds(env: Environment) -> None:
    """New keys or a new configuration file need a new pod too."""
    values = keys.generate("slurm", 22, env.secret_keys)
    digests = {label(manifest(env, values)), label(manifest(env)), label(manifest(env, values), {"a": b"1"})}
    assert len(digests) == 3


def test_nothing_is_published_unless_asked(root: Path) -> None:
    """`publish.jupyterhub: null` leaves no port on the host."""
    (pod,) = only(
        manifest(read_environment(root, "dev_dummyauth", settings=["publish.jupyterhub=null"])), "Pod"
    )
    assert not any("ports" in container for container in pod["spec"]["containers"])


def test_a_hub_alone_is_found_by_its_site_and_finds_it(root: Path) -> None:
    """Compute nodes reach the hub's API on this host; the site's names are in the pod's hosts file."""
    aliases = "slurm.host_aliases=[{ip: 192.0.2.7, hostnames: [login.example.org, node1]}]"
    env = read_environment(root, "dev_dummyauth_extslurm", settings=[aliases])
    (pod,) = only(manifest(env), "Pod")
    (container,) = pod["spec"]["containers"]
    published = {
        port["name"]: (port["containerPort"], port["hostIP"], port["hostPort"]) for port in container["ports"]
    }
    assert published == {"jupyterhub": (8000, "127.0.0.1", 8000), "hub-api": (8081, "192.0.2.10", 8081)}
    assert pod["spec"]["hostAliases"] == [{"ip": "192.0.2.7", "hostnames": ["login.example.org", "node1"]}]


def test_slurm_alone_publishes_nothing(root: Path) -> None:
    """What the definition says of containers that aren't in the pod counts for nothing."""
    env = read_environment(root, "dev_dummyauth", settings=["containers=[slurm]"])
    assert (env.published, env.url) == ({}, None)


def test_with_real_log_in_the_gateway_is_published_and_the_hub_is_not(root: Path) -> None:
    """Browsers use the gateway; the provider has the same port inside and outside, because of its URL."""
    (pod,) = only(
        manifest(read_environment(root, "dev_realauth", settings=["publish.oidc-provider=127.0.0.1:9123"])),
        "Pod",
    )
    ports = {item["name"]: item.get("ports", [{}])[0] for item in pod["spec"]["containers"]}
    assert {name: port.get("hostPort") for name, port in ports.items()} == {
        "jupyterhub": None,
        "slurm": None,
        "oidc-provider": 9123,
        "gateway": 8000,
    }
    assert ports["oidc-provider"]["containerPort"] == 9123


def test_an_external_provider_needs_no_containers(root: Path) -> None:
    """Then the hub's own port is published, where the gateway's would have been."""
    settings = ["auth.provider=external", "auth.oidc_server=https://keycloak.example/realms/x"]
    env = read_environment(root, "dev_realauth", settings=settings)
    assert env.containers == ("jupyterhub", "slurm")
    assert env.url == env.hub_url == "http://127.0.0.1:8000/jupyter"
    assert container_settings(env)["DEPLOY_CONFIG_OIDC_SERVER"] == "https://keycloak.example/realms/x"
    assert "jwks" not in env.secret_keys


def test_a_broken_template_is_named() -> None:
    """An unknown variable in a template is an error with the template's name, not an empty string."""
    broken = of_pod.compiled_templates({"pod.yaml.j2": b"name: {{ nonsense }}"})
    with pytest.raises(DefinitionError, match=r"manifests/pod\.yaml\.j2: 'nonsense' is undefined"):
        of_pod.render_template(broken, "pod.yaml.j2", {})


def test_accounting_has_a_container_with_munges_key_and_the_dev_users(root: Path) -> None:
    """Its Secret is munge's key, slurm.conf points at it, and each project has an account with its users."""
    tree = {
        name: (root / "volumes/common/slurm-config" / name).read_bytes()
        for name in ("slurm.conf.j2", "accounts.j2")
    }
    without = rendered(read_environment(root, "dev_dummyauth"), tree)
    assert b"Accounting" not in without["slurm.conf"]
    assert without["accounts"] == b""
    env = read_environment(
        root, "dev_dummyauth", settings=["slurm.accounting=true", "dev_users=[a.one, b.two, b.one]"]
    )
    secret = next(item for item in env.secrets if item.container == "accounting")
    assert secret.keys == ("munge_key",)
    assert any(
        volume["persistentVolumeClaim"]["claimName"].endswith("-accounting-data")
        for volume in only(manifest(env), "Pod")[0]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    )
    files = rendered(env, tree)
    assert b"accounting_storage/slurmdbd" in files["slurm.conf"]
    accounts = files["accounts"].decode()
    assert accounts.partition("Parent - 'root'\n")[2].splitlines() == [
        "Account - 'one'",
        "Account - 'two'",
        "Parent - 'one'",
        "User - 'a.one':DefaultAccount='one'",
        "User - 'b.one':DefaultAccount='one'",
        "Parent - 'two'",
        "User - 'b.two':DefaultAccount='two'",
    ]


# What an entrypoint needs to put its files in place and become an ordinary user.
START = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETPCAP", "SETUID", "NET_BIND_SERVICE"}
CAPABILITIES = {
    "jupyterhub": START,
    "slurm": {*START, "KILL", "SYS_CHROOT"},
    "oidc-provider": START,
    "gateway": START,
    "accounting": {*START, "KILL"},
    "zenith-client": set(),
}


def test_every_container_has_the_rights_that_it_needs(env: Environment) -> None:
    """All capabilities are dropped but those of its entrypoint; only Slurm's container can get more, by sudo."""
    contexts = {row.name: security_context(env, row, restricted=False) for row in CONTAINERS.values()}
    assert {name: set(item["capabilities"].get("add", ())) for name, item in contexts.items()} == CAPABILITIES
    assert all(item["capabilities"]["drop"] == ["ALL"] for item in contexts.values())
    assert {name for name, item in contexts.items() if item["allowPrivilegeEscalation"]} == {"slurm"}


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_only_prod_has_a_read_only_root_file_system(root: Path, stage: str) -> None:
    """Hub, provider and gateway have it; `reload` replaces files in dev, and the others' programs write there."""
    env = read_environment(root, "dev_realauth", settings=[f"stage={stage}"])
    for restricted in (False, True):
        rows = CONTAINERS.values()
        read_only = {
            row.name
            for row in rows
            if security_context(env, row, restricted).get("readOnlyRootFilesystem", False)
        }
        assert read_only == ({"jupyterhub", "oidc-provider", "gateway"} if stage == "prod" else set())


def test_limits_can_be_left_out(env: Environment) -> None:
    """Where the host can't enforce them podman refuses them: only they go."""
    documents = manifest(env)
    (pod,) = only(documents, "Pod")
    (without,) = only(tuple(without_limits(documents)), "Pod")
    assert all(container.pop("resources")["limits"] for container in pod["spec"]["containers"])
    assert without == pod
