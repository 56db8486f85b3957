"""An existing deployment's ConfigMap, as a part of a definition."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubenvs.definition.configmap import as_yaml, read_config_map
from hubenvs.definition.read import read_environment
from hubenvs.errors import DefinitionError


def config_map(data: str) -> str:
    return (
        f"kind: Pod\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: deploy-config}}\ndata:\n{data}"
    )


def test_an_existing_config_map_lies_between_the_files_and_set(root: Path) -> None:
    """Each key of an existing deployment's ConfigMap is one of ours, or its dev users or password."""
    (root / "envs/dev_dummyauth/local.yaml").write_text("log_level: DEBUG\nbase_url: /local")
    given = root / "deploy.yaml"
    given.write_text(
        config_map(
            "  logLevel: WARNING\n  baseUrl: /hub\n  devUsers: |\n    # ours\n    carol.p1\n    carol.p2\n"
            "  dummyAuthPassword: sesame\n  sshHostname: localhost\n  slurmSpawnerWrappersBin: /opt/w/bin\n"
            "  condaPrefixDir: /opt/conda\n  jupyterDataDir: /opt/data\n  hubConnectUrl: http://localhost:8081\n"
            "  oidcServer: https://idp.example.org\n  bricsPlatform: slurm.p\n  jwtAudience: aud\n"
        )
    )
    env = read_environment(root, "dev_dummyauth", config_map=given, settings=["base_url=/set"])
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
        (
            config_map("  logLevel: LOUD"),
            "deploy.yaml:7: data.logLevel: log_level: input should be 'DEBUG', 'INFO'",
        ),
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
        read_environment(root, "dev_dummyauth", config_map=given)
    assert error in str(caught.value)


def test_dev_users_may_be_on_one_line(root: Path) -> None:
    """Separated by spaces, as a quoted string has them."""
    given = root / "deploy.yaml"
    given.write_text(config_map('  devUsers: "carol.p1 carol.p2  dan.p1"'))
    env = read_environment(root, "dev_dummyauth", config_map=given)
    assert [user.account for user in env.dev_users] == ["carol.p1", "carol.p2", "dan.p1"]


def test_a_provider_in_a_config_map_is_an_external_one(root: Path) -> None:
    """The hub takes its tokens, and there is no provider of ours."""
    given = root / "deploy.yaml"
    given.write_text(config_map("  devUsers: carol.p1\n  oidcServer: https://idp.example.org/realms/site"))
    env = read_environment(root, "dev_realauth", config_map=given)
    assert (env.auth.provider, env.issuer) == ("external", "https://idp.example.org/realms/site")
    assert env.containers == ("jupyterhub", "slurm")


def test_the_files_beside_a_config_map_are_found(root: Path, tmp_path: Path) -> None:
    """Keys, the tunnel's configuration with the address in it, and dev users, by their names there."""
    folder = tmp_path / "deploy"
    folder.mkdir()
    given = folder / "deploy_config.yaml"
    given.write_text(config_map("  oidcServer: https://idp.example.org\n  jwtAudience: aud"))
    (folder / "dev_users").write_text("carol.p1\n")
    (folder / "zenith_client_config.yaml").write_text(
        "debug: true\nauthOidcIssuer: https://i.example.org\nserverAddress: z.example.org\nserverPort: 2222\n"
    )
    for name in ("ssh_zenith_client_key", "ssh_zenith_client_key.pub", "ssh_client_key", "ssh_known_hosts"):
        (folder / name).touch()
    env = read_environment(root, "dev_realauth_zenithclient", config_map=given)
    assert (env.zenith.server_address, env.zenith.server_port, env.user) == ("z.example.org", 2222, "carol")
    assert env.site_files["zenith_key"] == folder / "ssh_zenith_client_key"
    assert env.site_files["zenith_public_key"] == folder / "ssh_zenith_client_key.pub"
    assert env.site_files["zenith_config"] == folder / "zenith_client_config.yaml"


def test_settings_that_were_kept_are_those_of_the_config_map(root: Path) -> None:
    """As the text of a local.yaml, without the password."""
    given, kept = root / "deploy.yaml", root / "kept.yaml"
    given.write_text(config_map('  logLevel: INFO\n  devUsers: "carol.p1 d.p1"\n  dummyAuthPassword: sesame'))
    kept.write_text(as_yaml(read_config_map(given, root).local_yaml, "deploy.yaml"))
    assert "sesame" not in kept.read_text()
    expected = read_environment(root, "dev_dummyauth", config_map=given)
    env = read_environment(root, "dev_dummyauth", kept_settings=kept)
    assert env == expected.model_copy(update={"dummy_password": None})


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    """One that nobody writes to would hold the task for ever; a shell's `<(…)` is read."""
    os.mkfifo(root / "pipe")
    with pytest.raises(DefinitionError, match="pipe: a pipe, not a file"):
        read_config_map(root / "pipe", root)
    reader, writer = os.pipe()
    os.write(writer, config_map("  baseUrl: /piped\n").encode())
    os.close(writer)
    env = read_environment(root, "dev_dummyauth", config_map=Path(f"/dev/fd/{reader}"))
    assert env.base_url == "/piped"
