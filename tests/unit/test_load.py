"""What a person writes: merged, validated, and refused with the file, the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubenvs.definition import DevUser
from hubenvs.errors import DefinitionError
from hubenvs.load import describe, load, parse_dev_users
from hubenvs.names import environment_names

OVERLAY = "envs/dev_dummyauth/local.yaml"


def write_local(root: Path, text: str) -> None:
    (root / OVERLAY).write_text(text)


def test_every_environment_of_this_checkout_loads(root: Path) -> None:
    """Each env.yaml in the tree is valid."""
    assert [load(root, name).name for name in environment_names(root)] == list(environment_names(root))


def test_later_layers_win_key_by_key(root: Path) -> None:
    """local.yaml lies over env.yaml, Invoke's configuration over that, --set over all; other keys stay."""
    write_local(root, "slurm: {nodes: 2, memory_mb: 4096}\nlog_level: DEBUG\n")
    env = load(root, "dev_dummyauth", configuration={"slurm": {"nodes": 3}}, settings=["slurm.nodes=4"])
    assert (env.slurm.nodes, env.slurm.memory_mb, env.log_level) == (4, 4096, "DEBUG")
    assert env.slurm.cpus_per_node == 16


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("slurm: {nods: 2}", "local.yaml:1: unknown key 'slurm.nods': did you mean 'nodes'?"),
        ("zzzzzz: 1", "local.yaml:1: unknown key 'zzzzzz': known: auth, base_url"),
        ("\nslurm:\n  nodes: many", "local.yaml:3: slurm.nodes: input should be a valid integer (not 'many')"),
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
        ("slurm: !!python/object:os.system {}", "local.yaml:1: the tag tag:yaml.org,2002:python/object:os.system"),
        ("[" * 500, "local.yaml: maximum recursion depth"),
        ("a: " + "x" * (1 << 20), "local.yaml: more than 1048576 bytes"),
        ("containers: [slurm, slurm]", "containers: one of them is named twice"),
        ("hub: {start_poll_interval: .inf}", "hub.start_poll_interval: input should be a finite number"),
        ("publish: {jupyterhub: 'localhost:8000'}", "'localhost' does not appear to be an IPv4 or IPv6 address"),
        ("overlays: [/not-there]", "local.yaml:1: overlays: there is no folder /not-there"),
        ("base_url: /jupyter/../hub", "local.yaml:1: base_url: string should match pattern"),
        ('auth: {platform: "a\\nb"}', "auth.platform: string should match pattern"),
        ('hub: {job_log: "/tmp/\'%j"}', "hub.job_log: string should match pattern"),
        ("hub: {cookie_max_age_days: 1.0e+300}", "hub.cookie_max_age_days: input should be less than or equal to 3650"),
        (
            "repositories: {bricsauthenticator: {url: 'https://u:secret@h/x.git'}}",
            "local.yaml:1: repositories.bricsauthenticator: its url has a password or token in it: leave",
        ),
        ("publish: {jupyterhub: nowhere}", "publish.jupyterhub: should be address:port"),
        ("publish: {jupyterhub: {127.0.0.1: }}", "publish.jupyterhub: should be address:port"),
        ("publish: {jupyterhub: 127.0.0.1:99999}", "less than or equal to 65535"),
        ("auth: {user: carol}", "local.yaml:1: auth.user: 'carol' is not in dev_users (alice, bob)"),
        ("containers: [jupyterhub]\nslurm: {accounting: true}", "local.yaml:2: slurm.accounting: there is no Slurm"),
        ("containers: [jupyterhub, slurm, accounting]", "local.yaml:1: containers: accounting comes with"),
        ("slurm: {partitions: [{name: a}]}", "exactly one partition has `default: true`"),
        ("slurm: {partitions: [{name: a, default: true}, {name: b, default: true}]}", "exactly one partition"),
        ("slurm: {partitions: [{name: a, default: true}, {name: a}]}", "local.yaml:1: slurm.partitions.1.name: 'a'"),
        ("slurm: {partitions: [{name: Default, default: true}]}", "slurm.partitions.0.name"),
        (
            "slurm: {nodes: 4, partitions: [{name: a, nodes: 'node1,node99', default: true}]}",
            "local.yaml:1: slurm.partitions.0.nodes: node99 is not among 4 node(s)",
        ),
        ("slurm: {nodes: 4, partitions: [{name: a, nodes: 'node[3-5]', default: true}]}", "node[3-5] is not among 4"),
        ("slurm: {nodes: 4, partitions: [{name: a, nodes: 'node[3-2]', default: true}]}", "node[3-2] is not among 4"),
        ("slurm: {partitions: [{name: a, max_time: tomorrow, default: true}]}", "slurm.partitions.0.max_time"),
        ("slurm: {reservations: [{name: a b}]}", "local.yaml:1: slurm.reservations.0.name"),
        ("slurm: {reservations: [{name: a}]}", "slurm.reservations.0: say in users or in accounts whom it is for"),
        ("slurm: {reservations: [{name: a, users: [x.y]}]}", "slurm.reservations.0.users: 'x.y' is not in dev_users"),
        ("slurm: {reservations: [{name: a, accounts: [project1]}]}", "slurm.reservations.0.accounts: there are none"),
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
        ("containers: [jupyterhub]\nslurm: {reservations: [{name: a, users: [bob.project1]}]}", "there is no Slurm"),
        ("slurm: {host_aliases: [{ip: here, hostnames: [a]}]}", "slurm.host_aliases.0.ip: 'here' does not appear"),
        ("repositories: {bricsauthenticator: {url: 'https://token@h/x.git'}}", "password or token in it"),
        ("debian: {mirror: 'http://u:secret@h/debian'}", "local.yaml:1: debian.mirror"),
        ("slurm: {gpus_per_node: -1}", "local.yaml:1: slurm.gpus_per_node"),
        ("repositories: {bricsauthenticator: {url: --upload-pack=x}}", "repositories.bricsauthenticator.url"),
        ("images: {slurm: {image: example.org/slurm:1}}", "local.yaml:1: images.slurm.image: "),
        (
            f"images: {{slurm: {{image: 'example.org/slurm@sha256:{'0' * 64}'}}}}",
            "local.yaml:1: images.slurm.image: what is edited here isn't in it; it needs `stage: prod`",
        ),
        ("{? [a] : b}", "local.yaml"),
        ("slurm: {accounting: !!bool maybe}", "local.yaml: 'maybe'"),
        ('auth: {platform: "a\\0b"}', "local.yaml:1: 'a\\x00b' is no text"),
        ("overlays: [~nobody-of-that-name/seeds]", "local.yaml:1: overlays: there is no folder"),
        ("slurm: {hub_connect_url: 'http://[x'}", "local.yaml:1: slurm.hub_connect_url: invalid IPv6 URL"),
        ("wait_timeout: 99999999999", "local.yaml:1: wait_timeout: input should be less than"),
    ],
)
def test_a_bad_definition_names_file_line_and_key(root: Path, text: str, error: str) -> None:
    """Each mistake is refused with one line that says where it is."""
    write_local(root, text)
    with pytest.raises(DefinitionError) as caught:
        load(root, "dev_dummyauth")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "",
            "extslurm/env.yaml:4: slurm.ssh_hostname, slurm.hub_connect_url: not set: set it in envs/",
        ),
        ("slurm: {ssh_hostname: a, hub_connect_url: http://b:8081}", "publish.hub-api: an address of this host that"),
        (
            "{slurm: {ssh_hostname: a, hub_connect_url: 'http://localhost:1'}, publish: {hub-api: 192.0.2.1:1}}",
            "local.yaml:1: slurm.hub_connect_url: on a compute node this is the node itself, not the hub",
        ),
    ],
)
def test_what_only_a_site_knows_is_asked_for(root: Path, text: str, error: str) -> None:
    """Nothing is guessed about a Slurm elsewhere; all that is missing is named at once."""
    (root / "envs/dev_dummyauth_extslurm/local.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load(root, "dev_dummyauth_extslurm")
    assert error in str(caught.value)


def test_prod_guesses_nothing(root: Path) -> None:
    """Every address, path and name that is the site's is asked for; nobody is made up to log in."""
    assert load(root, "prod").dev_users == ()
    local = root / "envs/prod/local.yaml"
    example = local.read_text()
    local.unlink()
    with pytest.raises(DefinitionError, match=r"auth\.platform, auth\.audience, slurm\.ssh_hostname, .*: not set"):
        load(root, "prod")
    (row,) = (row for row in describe(root) if row["env"] == "prod")
    assert (row["stage"], row["auth"], row["can_run"]) == ("prod", "oidc", False)
    assert "not set: set it in envs/prod/local.yaml" in row["why_not"]
    local.write_text(example.replace("server_address", "# server_address"))
    with pytest.raises(DefinitionError, match=r"zenith\.server_address: not set"):
        load(root, "prod")


def test_two_things_are_not_published_at_one_address(root: Path) -> None:
    """The second is refused by its key, also where one of them is everywhere; a port on two addresses is fine."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(DefinitionError, match=r"publish\.gateway: 127\.0\.0\.1:8000 is taken by"):
            load(root, "dev_realauth", settings=[f"publish.jupyterhub={address}:8000"])
    assert load(root, "dev_realauth", settings=["publish.jupyterhub=192.0.2.1:8000"]).hub_url


def test_an_unknown_environment_is_refused_with_the_nearest(root: Path) -> None:
    """A typing mistake in --env gets a suggestion."""
    with pytest.raises(DefinitionError, match=r"did you mean 'dev_dummyauth'\?"):
        load(root, "dev_dumyauth")


def test_a_bad_instance_is_refused(root: Path) -> None:
    """An instance becomes part of Kubernetes names, so it must be valid in them."""
    for instance in ("Not Valid", "../x", "", "-a", "a-", "a" * 33, "a" * 5000):
        with pytest.raises(DefinitionError, match="--instance: "):
            load(root, "dev_dummyauth", instance=instance)


def config_map(data: str) -> str:
    return f"kind: Pod\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: deploy-config}}\ndata:\n{data}"


def test_an_existing_config_map_lies_between_the_files_and_set(root: Path) -> None:
    """Each key of an existing deployment's ConfigMap is one of ours, or its dev users or password."""
    write_local(root, "log_level: DEBUG\nbase_url: /local")
    given = root / "deploy.yaml"
    given.write_text(
        config_map(
            "  logLevel: WARNING\n  baseUrl: /hub\n  devUsers: |\n    # ours\n    carol.p1\n    carol.p2\n"
            "  dummyAuthPassword: sesame\n  sshHostname: localhost\n  slurmSpawnerWrappersBin: /opt/w/bin\n"
            "  condaPrefixDir: /opt/conda\n  jupyterDataDir: /opt/data\n  hubConnectUrl: http://localhost:8081\n"
            "  oidcServer: https://idp.example.org\n  bricsPlatform: slurm.p\n  jwtAudience: aud\n"
        )
    )
    env = load(root, "dev_dummyauth", config_map=given, settings=["base_url=/set"])
    assert (env.log_level, env.base_url, env.user) == ("WARNING", "/set", "carol")
    assert [user.account for user in env.dev_users] == ["carol.p1", "carol.p2"]
    assert env.dummy_password is not None
    assert env.dummy_password.get_secret_value() == "sesame"
    assert "sesame" not in repr(env)
    assert (env.slurm.ssh_hostname, env.slurm.wrappers_bin) == ("localhost", "/opt/w/bin")
    assert (env.slurm.env_prefix, env.slurm.jupyter_data_dir) == ("/opt/conda", "/opt/data")
    assert env.slurm.hub_connect_url == "http://localhost:8081"
    assert (env.auth.oidc_server, env.auth.platform) == ("https://idp.example.org", "slurm.p")
    assert env.auth.audience == "aud"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            config_map("  loglevel: INFO"),
            "deploy.yaml:7: data.loglevel: has no meaning here: did you mean 'logLevel'?",
        ),
        (config_map("  logLevel: LOUD"), "deploy.yaml:7: data.logLevel: log_level: input should be 'DEBUG', 'INFO'"),
        (config_map("  logLevel: 10"), "deploy.yaml:7: data.logLevel: should be text"),
        (config_map("  baseUrl: ''"), "deploy.yaml:7: data.baseUrl: should be text"),
        (config_map("  devUsers: bad;name.p1"), "deploy.yaml:7: data.devUsers:1: 'bad;name.p1' is not"),
        (config_map("  logLevel: INFO\n---\nkind: ConfigMap"), "deploy.yaml: 2 ConfigMaps in it"),
        ("kind: Secret", "deploy.yaml: 0 ConfigMaps in it"),
        ("kind: ConfigMap\ndata: [a]", "deploy.yaml: its ConfigMap should have text in `data`"),
    ],
)
def test_a_config_map_that_cannot_be_mapped_is_refused(root: Path, text: str, error: str) -> None:
    """The error has the file, the line and the key; nothing in it is passed over."""
    given = root / "deploy.yaml"
    given.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load(root, "dev_dummyauth", config_map=given)
    assert error in str(caught.value)


def test_dev_users_are_listed_in_order_without_comments() -> None:
    """Comments and blank lines count for nothing; the order stays, the first one logs in."""
    users = parse_dev_users("# first\nbob.p1 # his\n\nalice.p2\n", "dev_users")
    assert [user.account for user in users] == ["bob.p1", "alice.p2"]


@pytest.mark.parametrize(
    "name",
    ["bad;name.p1", "$(id).p1", "a.b.c", "Alice.p1", "alice", ".p1", "alice.", "1a.p1", "-a.p1", "a b.p1", "root"],
)
def test_a_malformed_dev_user_is_refused(name: str) -> None:
    """Only <user>.<project> of safe characters becomes an account."""
    with pytest.raises(DefinitionError, match=r"dev_users:2: .*is not <user>\.<project>"):
        parse_dev_users(f"# users\n{name}\n", "dev_users")


def test_a_long_dev_user_is_refused() -> None:
    """An account's name has 32 characters at most."""
    assert parse_dev_users(f"{'a' * 29}.p1", "dev_users")
    with pytest.raises(DefinitionError, match="33 characters"):
        parse_dev_users(f"{'a' * 30}.p1", "dev_users")


def test_a_repeated_or_missing_dev_user_is_refused() -> None:
    """A name given twice names both lines; an empty list says what to add, and there is an end to a long one."""
    with pytest.raises(DefinitionError, match=r"dev_users:3: 'a\.p1' is on line 1"):
        parse_dev_users("a.p1\nb.p1\na.p1\n", "dev_users")
    with pytest.raises(DefinitionError, match="no dev user in it"):
        parse_dev_users("# nobody\n", "dev_users")
    with pytest.raises(DefinitionError, match="dev_users: 3001 dev users"):
        parse_dev_users("\n".join(f"u{number}.p" for number in range(3001)), "dev_users")


@given(st.text())
def test_a_dev_user_that_parses_is_safe_in_a_shell(text: str) -> None:
    """No name that is accepted has a character that a shell would read."""
    try:
        user = DevUser.parse(text)
    except ValueError:
        return
    assert user.account == text
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
