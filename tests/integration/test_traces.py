"""Where secrets are: with the daemons that need them, and in no image, log or manifest.

The log is that of the tests before this file.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from .helpers import Deployment, invoke, once

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


def test_containers_see_their_secrets_and_nobody_else_does(deployment: Deployment) -> None:
    """The daemons have the very bytes of the deploy folder; a user's job can read none of them."""
    secrets = deployment.secrets
    munge = deployment.run_in("slurm", "base64", "--wrap=0", "/etc/munge/munge.key")
    assert base64.b64decode(munge).decode() == secrets["munge_key"].read_text()
    assert deployment.run_in("jupyterhub", "cat", "/srv/jupyterhub/ssh_key") == secrets[
        "ssh_key"
    ].read_text().rstrip("\n")
    for path in (
        "/run/credentials/slurm/munge_key",
        "/etc/munge/munge.key",
        "/run/credentials/slurm/ssh_host_ed25519_key",
    ):
        command = (
            "podman",
            "exec",
            "--user",
            "alice.project1",
            f"{deployment.status['pod']}-slurm",
            "cat",
            path,
        )
        assert deployment.engine.run(command, check=False).returncode != 0
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets.values())
    assert secrets["ssh_key"].parent.stat().st_mode & 0o777 == 0o700


# Prints the files that have a private key or one of the deployment's secrets in them: the image's, and those of
# /canary, where the secrets are, so that they are seen to be found.
SEARCH = r"""
files() { find / /canary -xdev -type f -print0; }
files | xargs -0 grep --text --files-with-matches --fixed-strings --file=/search/patterns
files | xargs -0 grep --null --text --files-with-matches --fixed-strings 'PRIVATE KEY-----' |
    xargs -0 --no-run-if-empty grep --text --files-with-matches --null-data --perl-regexp \
    -e '-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\r?\n[A-Za-z0-9+/]{32}'
true
"""
# Where packages have keys for tests of their own.
PUBLISHED_KEYS = ("/tornado/test/test.key", "/libgnutls.so.")


def telltale(secret: Path) -> str:
    """Return the line of ``secret`` by which it can be told wherever it is."""
    return max(secret.read_text().splitlines(), key=len)


def test_images_hold_no_secret(deployment: Deployment, tmp_path: Path) -> None:
    """Neither an image's history nor any of its files has a key; those of a deployment come by Secrets."""
    telltales = [telltale(path) for path in deployment.secrets.values()]
    (tmp_path / "patterns").write_text("\n".join(telltales))
    folders = {"/canary": deployment.secrets["crypt_keys"].parent, "/search": tmp_path}
    volumes = [part for path, folder in folders.items() for part in ("--volume", f"{folder}:{path}:ro")]
    options = (
        "--rm",
        "--network=none",
        "--security-opt=label=disable",
        "--user=0",
        "--entrypoint=",
        *volumes,
    )
    for container in deployment.status["containers"]:
        image = deployment.engine.run(
            ("podman", "inspect", "--format", "{{.ImageName}}", container["name"])
        ).text
        history = deployment.engine.run(("podman", "history", "--no-trunc", image)).text
        assert not [line for line in telltales if line in history]
        found = set(
            deployment.engine.run(("podman", "run", *options, image, "sh", "-c", SEARCH)).text.split("\n")
        )
        assert {path for path in found if not any(known in path for known in PUBLISHED_KEYS)} == {
            f"/canary/{key}" for key in deployment.secrets
        }


@once
def test_render_shows_no_secret(deployment: Deployment) -> None:
    """The manifest that `render` prints can be pasted into a report."""
    printed = invoke("render", *deployment.options).stdout
    encoded = base64.b64encode(deployment.password.encode()).decode()
    assert "kind: Pod" in printed
    assert deployment.password not in printed
    assert encoded not in printed


def test_no_secret_is_in_a_log(deployment: Deployment) -> None:
    """What was typed at the log-in page and the keys are in no container's log."""
    deployment.user().close()
    printed = invoke("logs", *deployment.options, "--lines", "10000").stdout
    assert printed
    assert not [key for key, path in deployment.secrets.items() if telltale(path) in printed]
