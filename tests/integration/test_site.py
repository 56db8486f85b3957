"""A hub whose Slurm is a site's: a pod of its own under another host name, which knows nothing of the hub's pod."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubenvs.engine import Engine, exec_argv, rootless

from .conftest import entry, invoke

pytestmark = [
    pytest.mark.environments("dev_dummyauth_extslurm"),
    pytest.mark.skipif(rootless(), reason="without root, pods have no network in which they could find each other"),
]
# How the site is reached; its sshd listens on that port.
HOST, PORT = "login.site.example", 2222
USERS = "dev_users=[alice.project1, alice.project2, bob.project1]"


def options(*settings: str) -> tuple[str, ...]:
    """Return the options that make these settings."""
    return tuple(part for setting in settings for part in ("--set", setting))


@dataclass(frozen=True)
class Site:
    """What a site's administrator does: lets a key in, and says which host keys are the site's."""

    slurm: str
    engine: Engine

    @property
    def address(self) -> str:
        """Return the site's address, which is that of its only node too."""
        return self.engine.run(exec_argv(self.slurm, "hostname", "-I")).text.split()[0]

    @property
    def known_hosts(self) -> str:
        """Return the line with the server's host key."""
        command = ("ssh-keygen", "-y", "-f", "/etc/ssh/ssh_host_ed25519_key")
        return f"[{HOST}]:{PORT} {self.engine.run(exec_argv(self.slurm, *command)).text}\n"

    def let_in(self, line: str) -> None:
        """Let who has the key in ``line`` in, and nobody else."""
        command = ("tee", "/etc/ssh/authorized_keys/jupyterspawner")
        self.engine.run(exec_argv(self.slurm, *command, interactive=True), stdin=line.encode())


@dataclass(frozen=True)
class Hub:
    """The hub's deployment: how to name it to a task, and the settings that it is brought up with."""

    named: tuple[str, ...]
    settings: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module")
def gateway(engine: Engine) -> str:
    """This host's address as pods see it."""
    network = json.loads(engine.run(("podman", "network", "inspect", "podman")).text)[0]
    return str(network["subnets"][0]["gateway"])


@pytest.fixture(scope="module")
def site(instance: str, engine: Engine) -> Iterator[Site]:
    """A site with Slurm, up."""
    named = ("--env", "dev_dummyauth", "--instance", f"{instance}-site")
    its = options("containers=[slurm]", USERS, f"slurm.ssh_hostname={HOST}", f"slurm.ssh_port={PORT}")
    try:
        invoke("up", *named, *its)
        yield Site(f"jupyterhub-slurm-dev-dummyauth-{instance}-site-slurm", engine)
    finally:
        invoke("down", *named)


@pytest.fixture(scope="module")
def hub(
    env_name: str, instance: str, site: Site, gateway: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hub]:
    """The environment with its hub's key let in at the site; not up yet."""
    with socket.create_server((gateway, 0)) as free:
        endpoint = f"{gateway}:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("site")
    named = ("--env", env_name, "--instance", instance)
    settings = options(
        f"site_folder={folder}",
        USERS,
        f"slurm.ssh_hostname={HOST}",
        f"slurm.ssh_port={PORT}",
        f"slurm.host_aliases=[{{ip: {site.address}, hostnames: [{HOST}, node1]}}]",
        f"slurm.hub_connect_url=http://{endpoint}",
        f"publish.hub-api={endpoint}",
        "hub.poll_interval=2",
    )
    try:
        yield Hub(named, settings, folder)
    finally:
        invoke("down", *named)


def test_what_a_site_must_have_is_asked_for_one_after_the_other(hub: Hub, site: Site) -> None:
    """Keys, then host keys: each `up` names what is missing and how to get it, and makes nothing."""
    up = ("up", *hub.named, *hub.settings)
    refused = invoke(*up, check=False)
    assert f"invoke secrets {' '.join(hub.named)} --init" in refused.stderr
    line = invoke("secrets", *hub.named, *hub.settings, "--init").stdout.splitlines()[-1]
    assert line.startswith("restrict ssh-ed25519 ")
    site.let_in(f"{line}\n")
    refused = invoke(*up, check=False)
    assert f"`ssh-keyscan -p {PORT} {HOST}`" in refused.stderr
    (hub.folder / "ssh_known_hosts").write_text(site.known_hosts)
    assert entry(hub.named[-1]) is None
    assert "SSH from the hub to Slurm: 8 of 8 hold" in invoke(*up).stdout


def test_a_user_works_at_the_site(hub: Hub) -> None:
    """Log-in, a job on the site's node, a kernel in it that the hub's proxy reaches, and the job gone after a stop."""
    walked = invoke("verify", *hub.named).stdout
    assert "42 alice.project1" in walked
    assert "all well" in walked


def test_check_notices_that_the_site_has_shut_the_key_out(hub: Hub, site: Site) -> None:
    """What the site decides is told as that, with where to look."""
    before = (hub.folder / "ssh_client_key.pub").read_text()
    site.let_in("")
    try:
        refused = invoke("check", *hub.named, check=False)
    finally:
        site.let_in(f"restrict {before}")
    assert refused.returncode == 1
    assert "AuthenticationException" in refused.stderr
    assert f"the logs of sshd and sudo on {HOST} show why" in refused.stderr
