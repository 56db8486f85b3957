"""An existing deployment's ConfigMap, as a part of a definition."""

from __future__ import annotations

from pathlib import Path

import pytest

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
