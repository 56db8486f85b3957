"""What a person writes: merged, validated, and refused with the file, the line and the key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubenvs.definition.names import environment_names
from hubenvs.definition.read import read_environment
from hubenvs.errors import DefinitionError
from hubenvs.tools.envs import describe_environments

OVERLAY = "envs/dev_dummyauth/local.yaml"


@pytest.fixture(scope="module")
def one_root(tmp_path_factory: pytest.TempPathFactory, pristine_root: Path) -> Path:
    """A checkout for all cases of a test that writes the same file each time: copying takes longer than reading."""
    return Path(shutil.copytree(pristine_root, tmp_path_factory.mktemp("one") / "root", symlinks=True))


def write_local(root: Path, text: str) -> None:
    (root / OVERLAY).write_text(text)


def test_every_environment_of_this_checkout_loads(root: Path) -> None:
    """Each env.yaml in the tree is valid."""
    assert [read_environment(root, name).name for name in environment_names(root)] == list(
        environment_names(root)
    )


def test_later_layers_win_key_by_key(root: Path) -> None:
    """local.yaml lies over env.yaml, Invoke's configuration over that, --set over all; other keys stay."""
    write_local(root, "slurm: {nodes: 2, memory_mb: 4096}\nlog_level: DEBUG\n")
    env = read_environment(
        root, "dev_dummyauth", configuration={"slurm": {"nodes": 3}}, settings=["slurm.nodes=4"]
    )
    assert (env.slurm.nodes, env.slurm.memory_mb, env.log_level) == (4, 4096, "DEBUG")
    assert env.slurm.cpus_per_node == 16


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("slurm: {nods: 2}", "local.yaml:1: unknown key 'slurm.nods': did you mean 'nodes'?"),
        ("zzzzzz: 1", "local.yaml:1: unknown key 'zzzzzz': known: auth, base_url"),
        (
            "\nslurm:\n  nodes: many",
            "local.yaml:3: slurm.nodes: input should be a valid integer (not 'many')",
        ),
        ("slurm: 5", "local.yaml:1: slurm: should be a mapping of keys to values (not 5)"),
        ("slurm:", "local.yaml:1: slurm: should be a mapping of keys to values"),
        ("slurm: {partitions: {a: 1}}", "local.yaml:1: slurm.partitions: should be a list"),
        ("slurm: {partitions: [{name: a, defualt: true}]}", "slurm.partitions.0.defualt: unknown key"),
        ("slurm: {nodes: true}", "slurm.nodes: input should be a valid integer"),
        ("slurm: {nodes: 0}", "slurm.nodes: input should be greater than or equal to 1 (not 0)"),
        ("stage: test", "stage: input should be 'dev' or 'prod' (not 'test')"),
        ("a: [1\nb: 2", "local.yaml:2: "),
        ("a: 1\na: 2", "local.yaml:2: the key 'a' is given twice"),
        ("- a", "local.yaml: not one mapping"),
        ("a: 1\n---\nb: 2", "local.yaml: not one mapping"),
        ("slurm:\n\tnodes: 2", "local.yaml:2: found character '\\t'"),
        ("hub: &a\n  b: *a", "local.yaml:2: *a: aliases are not taken"),
        (
            "slurm: !!python/object:os.system {}",
            "local.yaml:1: the tag tag:yaml.org,2002:python/object:os.system",
        ),
        ("[" * 500, "local.yaml: maximum recursion depth"),
        ("slurm: {nodes: !!float ''}", "local.yaml: string index out of range"),
        ("slurm: {nodes: !!timestamp x}", "local.yaml: "),
        ("slurm:\n  nodes: 0x" + "f" * 5000, "local.yaml:2: no number here is that long"),
        ("a: " + "x" * (1 << 20), "local.yaml: more than 1048576 bytes"),
        ("containers: [slurm, slurm]", "containers: one of them is named twice"),
        ("hub: {start_poll_interval: .inf}", "hub.start_poll_interval: input should be a finite number"),
        (
            "publish: {jupyterhub: 'localhost:8000'}",
            "'localhost' does not appear to be an IPv4 or IPv6 address",
        ),
        ("overlays: [/not-there]", "local.yaml:1: overlays: there is no folder /not-there"),
        ("base_url: /jupyter/../hub", "local.yaml:1: base_url: string should match pattern"),
        (f"base_url: /{'x' * 200}", "local.yaml:1: base_url: string should have at most 200 characters"),
        ("base_url: /jüpyter", "local.yaml:1: base_url: string should match pattern"),
        ("auth: {oidc_server: 'https://jüpyter.example.org'}", "auth.oidc_server: string should match"),
        ("debian: {mirror: 'http://jüpyter.example.org'}", "debian.mirror: string should match pattern"),
        ("slurm: {env_prefix: /opt/jüpyter}", "slurm.env_prefix: string should match pattern"),
        ("slurm: {hub_connect_url: 'http://jüpyter:8081'}", "slurm.hub_connect_url: string should match"),
        ("hub: {job_log: ~/jüpyter-%j.log}", "hub.job_log: string should match pattern"),
        (
            "hub: {form: {durations: ['\u0660\u0661:00:00']}}",
            "hub.form.durations.0: string should match pattern",
        ),
        ('auth: {platform: "a\\nb"}', "auth.platform: string should match pattern"),
        ('hub: {job_log: "/tmp/\'%j"}', "hub.job_log: string should match pattern"),
        (
            "hub: {cookie_max_age_days: 1.0e+300}",
            "hub.cookie_max_age_days: input should be less than or equal to 3650",
        ),
        (
            "repositories: {bricsauthenticator: {url: 'https://u:secret@h/x.git'}}",
            "local.yaml:1: repositories.bricsauthenticator: its url contains a password or token: leave",
        ),
        ("publish: {jupyterhub: nowhere}", "publish.jupyterhub: should be address:port"),
        ("publish: {jupyterhub: {127.0.0.1: }}", "publish.jupyterhub: should be address:port"),
        (
            "publish: {jupyterhub: 224.0.0.1:8000}",
            "publish.jupyterhub.address: should be the address of one host",
        ),
        ("publish: {jupyterhub: 127.0.0.1:99999}", "less than or equal to 65535"),
        ("auth: {user: carol}", "local.yaml:1: auth.user: 'carol' is not in dev_users (alice, bob)"),
        (
            "containers: [jupyterhub]\nslurm: {accounting: true}",
            "local.yaml:2: slurm.accounting: there is no Slurm",
        ),
        ("containers: [jupyterhub, slurm, accounting]", "local.yaml:1: containers: accounting comes with"),
        ("slurm: {partitions: [{name: -a, default: true}]}", "slurm.partitions.0.name: string should match"),
        ("hub: {start_poll_interval: true}", "hub.start_poll_interval: "),
        ("slurm: {partitions: [{name: a}]}", "exactly one partition has `default: true`"),
        (
            "slurm: {partitions: [{name: a, default: true}, {name: b, default: true}]}",
            "exactly one partition",
        ),
        (
            "slurm: {partitions: [{name: a, default: true}, {name: a}]}",
            "local.yaml:1: slurm.partitions.1.name: 'a'",
        ),
        ("slurm: {partitions: [{name: Default, default: true}]}", "slurm.partitions.0.name"),
        (
            "slurm: {nodes: 4, partitions: [{name: a, nodes: 'node1,node99', default: true}]}",
            "local.yaml:1: slurm.partitions.0.nodes: node99 is not among 4 node(s)",
        ),
        (
            "slurm: {nodes: 4, partitions: [{name: a, nodes: 'node[3-5]', default: true}]}",
            "node[3-5] is not among 4",
        ),
        (
            "slurm: {nodes: 4, partitions: [{name: a, nodes: 'node[3-2]', default: true}]}",
            "node[3-2] is not among 4",
        ),
        (
            "slurm: {partitions: [{name: a, max_time: tomorrow, default: true}]}",
            "slurm.partitions.0.max_time",
        ),
        ("slurm: {reservations: [{name: a b}]}", "local.yaml:1: slurm.reservations.0.name"),
        (
            "slurm: {reservations: [{name: a}]}",
            "slurm.reservations.0: say in users or in accounts whom it is for",
        ),
        (
            "slurm: {reservations: [{name: a, users: [x.y]}]}",
            "slurm.reservations.0.users: 'x.y' is not in dev_users",
        ),
        (
            "slurm: {reservations: [{name: a, accounts: [project1]}]}",
            "slurm.reservations.0.accounts: there are none",
        ),
        (
            "slurm: {reservations: [{name: a, nodes: node2, users: [bob.project1]}]}",
            "slurm.reservations.0.nodes: node2",
        ),
        (
            "slurm: {reservations: [{name: a, start: '2030-02-30T09:00:00'}]}",
            "reservations.0.start: should be now",
        ),
        ("slurm: {reservations: [{name: a, duration: long}]}", "slurm.reservations.0.duration"),
        (
            "slurm: {accounting: true, reservations: [{name: a, accounts: [alice.project1]}]}",
            "slurm.reservations.0.accounts: 'alice.project1' is not a project of dev_users",
        ),
        (
            "containers: [jupyterhub]\nslurm: {reservations: [{name: a, users: [bob.project1]}]}",
            "there is no Slurm",
        ),
        (
            "slurm: {host_aliases: [{ip: here, hostnames: [a]}]}",
            "slurm.host_aliases.0.ip: 'here' does not appear",
        ),
        (
            "repositories: {bricsauthenticator: {url: 'https://token@h/x.git'}}",
            "contains a password or token",
        ),
        ("debian: {mirror: 'http://u:secret@h/debian'}", "local.yaml:1: debian.mirror"),
        ("slurm: {gpus_per_node: -1}", "local.yaml:1: slurm.gpus_per_node"),
        ("repositories: {bricsauthenticator: {url: --upload-pack=x}}", "repositories.bricsauthenticator.url"),
        ("images: {slurm: {image: example.org/slurm:1}}", "local.yaml:1: images.slurm.image: "),
        (
            f"images: {{slurm: {{image: 'example.org/slurm@sha256:{'0' * 64}'}}}}",
            "local.yaml:1: images.slurm.image: a prebuilt image can't contain your working copy; "
            "use `stage: prod`",
        ),
        ("{? [a] : b}", "local.yaml"),
        ("slurm: {accounting: !!bool maybe}", "local.yaml: 'maybe'"),
        ('auth: {platform: "a\\0b"}', "local.yaml:1: 'a\\x00b' is no text"),
        ("overlays: [~nobody-of-that-name/seeds]", "local.yaml:1: overlays: there is no folder"),
        ("slurm: {hub_connect_url: 'http://[x'}", "local.yaml:1: slurm.hub_connect_url: invalid IPv6 URL"),
        ("wait_timeout: 99999999999", "local.yaml:1: wait_timeout: input should be less than"),
    ],
)
def test_a_bad_definition_names_file_line_and_key(one_root: Path, text: str, error: str) -> None:
    """Each mistake is refused with one line that says where it is."""
    write_local(one_root, text)
    with pytest.raises(DefinitionError) as caught:
        read_environment(one_root, "dev_dummyauth")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "extslurm/env.yaml:4: slurm.ssh_hostname, slurm.hub_connect_url: not set: set it in envs/"),
        (
            "slurm: {ssh_hostname: a, hub_connect_url: http://b:8081}",
            "publish.hub-api: an address of this host that",
        ),
        (
            "{slurm: {ssh_hostname: a, hub_connect_url: 'http://localhost:1'}, "
            "publish: {hub-api: 192.0.2.1:1}}",
            "local.yaml:1: slurm.hub_connect_url: on a compute node this is the node itself, not the hub",
        ),
    ],
)
def test_what_only_a_site_knows_is_asked_for(root: Path, text: str, error: str) -> None:
    """Nothing is guessed about a Slurm elsewhere; all that is missing is named at once."""
    (root / "envs/dev_dummyauth_extslurm/local.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        read_environment(root, "dev_dummyauth_extslurm")
    assert error in str(caught.value)


def test_a_hub_in_a_cluster_needs_no_port_of_this_host(root: Path) -> None:
    """A Service has the hub's API there."""
    text = "slurm: {ssh_hostname: a, hub_connect_url: http://b:8081}"
    (root / "envs/dev_dummyauth_extslurm/local.yaml").write_text(text)
    cluster = ["engine=kubernetes", "kubernetes.context=a", "kubernetes.namespace=b"]
    assert read_environment(root, "dev_dummyauth_extslurm", settings=cluster).proxy_container == "proxy"


def test_prod_guesses_nothing(root: Path) -> None:
    """Every address, path and name that is the site's is asked for; nobody is made up to log in."""
    assert read_environment(root, "prod").dev_users == ()
    local = root / "envs/prod/local.yaml"
    example = local.read_text()
    local.unlink()
    with pytest.raises(
        DefinitionError, match=r"auth\.platform, auth\.audience, slurm\.ssh_hostname, .*: not set"
    ):
        read_environment(root, "prod")
    (row,) = (row for row in describe_environments(root) if row["env"] == "prod")
    assert (row["stage"], row["auth"], row["can_run"]) == ("prod", "oidc", False)
    assert "not set: set it in envs/prod/local.yaml" in row["why_not"]
    local.write_text(example.replace("server_address", "# server_address"))
    with pytest.raises(DefinitionError, match=r"zenith\.server_address: not set"):
        read_environment(root, "prod")


def test_two_things_are_not_published_at_one_address(root: Path) -> None:
    """The second is refused by its key, also if one is bound everywhere; a port on two addresses is fine."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(DefinitionError, match=r"publish\.gateway: 127\.0\.0\.1:8000 is taken by"):
            read_environment(root, "dev_realauth", settings=[f"publish.jupyterhub={address}:8000"])
    assert read_environment(root, "dev_realauth", settings=["publish.jupyterhub=192.0.2.1:8000"]).hub_url


def test_the_bundled_gateway_has_no_other_name(root: Path) -> None:
    """Its provider sends people back to the published address; with a provider elsewhere the key is the site's."""
    outside = "hub.external_url=https://hub.example.org"
    with pytest.raises(DefinitionError, match=r"hub\.external_url: the bundled provider's gateway"):
        read_environment(root, "dev_realauth", settings=[outside])
    external = ["auth.provider=external", "auth.oidc_server=https://id.example.org"]
    env = read_environment(root, "dev_realauth", settings=[outside, *external])
    assert env.url == "https://hub.example.org/jupyter"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dev_realauth", []),
        ("dev_realauth_zenithclient", []),
        ("dev_dummyauth", ["kubernetes.ingress={host: hub.example.org}"]),
    ],
)
def test_users_have_no_domains_behind_one_host_name(root: Path, name: str, settings: list[str]) -> None:
    """`hub.subdomain_host` is refused with the gateway, the tunnel or an ingress, and taken without them."""
    domain = "hub.subdomain_host=https://hub.example.org"
    with pytest.raises(DefinitionError, match=r"hub\.subdomain_host: gateway, tunnel and ingress"):
        read_environment(root, name, settings=[*settings, domain])
    assert read_environment(root, "dev_dummyauth", settings=[domain]).hub.subdomain_host


def test_a_web_proxy_leads_to_a_provider_elsewhere_alone(root: Path) -> None:
    """The bundled one is in the pod. A password in the proxy's URL would be readable for everybody there."""
    proxy = "auth.proxy=http://proxy.example.org:3128"
    with pytest.raises(DefinitionError, match=r"auth\.proxy: the bundled provider"):
        read_environment(root, "dev_realauth", settings=[proxy])
    external = ["auth.provider=external", "auth.oidc_server=https://id.example.org"]
    assert read_environment(root, "dev_realauth", settings=[proxy, *external]).auth.proxy
    with pytest.raises(DefinitionError, match=r"auth\.proxy: "):
        read_environment(root, "dev_realauth", settings=["auth.proxy=http://me:word@proxy:3128", *external])


def test_a_cluster_is_named_whole(root: Path) -> None:
    """What is missing is named by its key; the kubeconfig's current context and namespace are never taken."""
    settings = ["engine=kubernetes"]
    for key in ("context", "namespace"):
        with pytest.raises(DefinitionError, match=rf"kubernetes\.{key}: "):
            read_environment(root, "dev_dummyauth", settings=settings)
        settings.append(f"kubernetes.{key}=lab")
    assert read_environment(root, "dev_dummyauth", settings=settings).kubernetes.namespace == "lab"


def test_an_unknown_environment_is_refused_with_the_nearest(root: Path) -> None:
    """A typing mistake in --env gets a suggestion."""
    with pytest.raises(DefinitionError, match=r"did you mean 'dev_dummyauth'\?"):
        read_environment(root, "dev_dumyauth")


def test_a_bad_instance_is_refused(root: Path) -> None:
    """An instance becomes part of Kubernetes names, so it must be valid in them."""
    for instance in ("Not Valid", "../x", "", "-a", "a-", "a" * 33, "a" * 5000):
        with pytest.raises(DefinitionError, match="--instance: "):
            read_environment(root, "dev_dummyauth", instance=instance)


def test_the_longest_name_counts_that_a_setting_brings(root: Path) -> None:
    """Accounting adds a container, whose Secret's name podman 4.3 would refuse."""
    settings = ["containers=[slurm]", "slurm.accounting=true"]
    with pytest.raises(DefinitionError, match="instance: 3 characters too long"):
        read_environment(root, "dev_dummyauth", instance="a" * 25, settings=settings)
