"""A site in a pod of its own: its Slurm, its identity provider, and the far end of a tunnel."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .helpers import (
    KEYS,
    ROOT,
    START,
    Engine,
    ca_bundle,
    free_port,
    image_of,
    invoke,
    ssh_key_pair,
    write_private,
)

# The site's containers, by the hub's environment.
SITES = {
    "dev_realauth": ("oidc-provider",),
    "dev_dummyauth_extslurm": ("slurm",),
    "dev_realauth_zenithclient": ("oidc-provider",),
    "prod": ("slurm", "oidc-provider"),
}
# How the site is reached; its sshd listens on that port.
HOST, PORT = "login.site.example", 2222
USERS = "dev_users=[alice.project1, alice.project2, bob.project1]"
# Both ends of a tunnel.
TUNNEL = "localhost/jupyterhub-slurm-tests/tunnel:1"
# Seconds until a tunnel is up, or up again: the client waits 5 before it tries again.
CONNECTED = START
# The beginning of a ConfigMap as isambard-sc/brics_jupyterhub_envs has it.
CONFIG_MAP = """\
apiVersion: core/v1
kind: ConfigMap
metadata:
  name: deploy-config
immutable: true
data:  # of this site"""
PASSWORD = "a password of before"


def options(*settings: str) -> tuple[str, ...]:
    """Return the options that make these settings."""
    return tuple(part for setting in settings for part in ("--set", setting))


def address(engine: Engine, container: str) -> str:
    """Return the address that others find ``container`` at."""
    return engine.run(engine.exec_command(container, "hostname", "-I")).text.split()[0]


@dataclass(frozen=True)
class Site:
    """The site's administrator: allows a key, publishes the host keys, issues tokens."""

    named: tuple[str, ...]
    issuer: str
    network: str
    engine: Engine

    @property
    def slurm(self) -> str:
        """Return the container with the site's Slurm."""
        return f"jupyterhub-slurm-dev-realauth-{self.named[-1]}-slurm"

    @property
    def known_hosts(self) -> str:
        """Return the line with the server's host key."""
        command = ("ssh-keygen", "-y", "-f", "/etc/ssh/ssh_host_ed25519_key")
        return f"[{HOST}]:{PORT} {self.engine.run(self.engine.exec_command(self.slurm, *command)).text}\n"

    def let_in(self, line: str) -> None:
        """Allow the key in ``line`` to log in, and no other."""
        command = ("tee", "/etc/ssh/authorized_keys/jupyterspawner")
        self.engine.run(self.engine.exec_command(self.slurm, *command, interactive=True), stdin=line.encode())


@dataclass(frozen=True)
class FarEnd:
    """The server at the far end of the tunnel."""

    container: str
    engine: Engine

    def url(self, before: str | None = None) -> str:
        """Return the tunnel's public address, once it differs from ``before``."""
        deadline = time.monotonic() + CONNECTED
        while True:
            told = self.engine.run(
                self.engine.exec_command(self.container, "cat", "/tmp/configuration.json"), check=False
            ).text
            url = (
                f"http://{address(self.engine, self.container)}:{json.loads(told)['allocated_port']}"
                if told
                else None
            )
            if url and url != before:
                return url
            assert time.monotonic() < deadline, self.engine.logs(self.container)
            time.sleep(0.2)


@dataclass(frozen=True)
class Hub:
    """The hub's deployment: how to name it to a task, its settings (as of `--set`), the folder of the site's files."""

    named: tuple[str, ...]
    values: tuple[str, ...]
    folder: Path

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the options with its settings."""
        return options(*self.values)

    @property
    def up(self) -> tuple[str, ...]:
        """Return the task that brings it up."""
        return ("up", *self.named, *self.settings, "--yes")

    def moved(self) -> tuple[str, ...]:
        """Return the task that brings it up as a deployment of isambard-sc/brics_jupyterhub_envs.

        Its ConfigMap is among the site's files, and has all that such a one can say. In one environment the
        accounts are in a file of their own beside it.
        """
        values = dict(value.split("=", 1) for value in self.values)
        data = {theirs: values.pop(ours) for theirs, ours in KEYS.items() if ours in values}
        if users := values.pop("dev_users", ""):
            accounts = users.strip("[]").split(", ")
            data["dummyAuthPassword"] = PASSWORD
            if "dev_dummyauth_extslurm" in self.named:
                (self.folder / "dev_users").write_text("\n".join(accounts) + "\n")
            else:
                data["devUsers"] = " ".join(accounts)
        lines = (
            f'  {key}: "{value}"'
            for key, value in {"logLevel": "DEBUG", "baseUrl": "/jupyter", **data}.items()
        )
        (self.folder / "deploy_config.yaml").write_text("\n".join((CONFIG_MAP, *lines)) + "\n")
        for known in ("site_folder", "zenith.server_address"):  # the files beside the ConfigMap set these
            values.pop(known, None)
        rest = options(*(f"{key}={value}" for key, value in values.items()))
        return ("up", *self.named, "--configmap", str(self.folder / "deploy_config.yaml"), *rest, "--yes")


@pytest.fixture(scope="module", name="site")
def site_fixture(env_name: str, instance: str, here: str, engine: Engine) -> Iterator[Site]:
    """The site, up."""
    provider = f"{here}:{free_port(here)}"
    named = ("--env", "dev_realauth", "--instance", f"{instance}-site")
    containers = f"containers=[{', '.join(SITES[env_name])}]"
    published = ("publish.gateway=null", f"publish.oidc-provider={provider}")
    network = f"site-{instance}"
    sshd = (f"slurm.ssh_hostname={HOST}", f"slurm.ssh_port={PORT}")
    with contextlib.ExitStack() as teardown:
        engine.run(("podman", "network", "create", "--disable-dns", network))
        # Fails if `down` left something in it.
        teardown.callback(engine.run, ("podman", "network", "rm", network))
        teardown.callback(invoke, "down", *named)
        invoke("up", *named, *options(containers, USERS, *published, *sshd, f"network={network}"))
        yield Site(named, f"http://{provider}", network, engine)


@pytest.fixture(scope="module", name="far_end")
def far_end_fixture(instance: str, site: Site, engine: Engine) -> Iterator[FarEnd]:
    """A server that accepts the tunnel."""
    command = engine.build_command(
        tag=TUNNEL, context=ROOT / "tests/integration/tunnel", base=image_of("slurm"), ca_bundle=ca_bundle()
    )
    engine.run(command)
    name = f"tunnel-{instance}"
    run = ("podman", "run", "--detach", "--user=root", f"--network={site.network}", "--name", name, TUNNEL)
    try:
        engine.run(run)
        yield FarEnd(name, engine)
    finally:
        engine.run(("podman", "rm", "--force", "--ignore", "--time=0", name))


@pytest.fixture(scope="module", name="tunnel")
def tunnel_fixture(hub: Hub, far_end: FarEnd, engine: Engine) -> None:
    """The key that the far end knows, and the client's configuration, among the site's files, by their other names."""
    private, public = ssh_key_pair("tunnel")
    for name, content in (("ssh_zenith_client_key", private), ("ssh_zenith_client_key.pub", public)):
        write_private(hub.folder / name, content)
    configuration = {
        "serverAddress": address(engine, far_end.container),
        "serverPort": 22,
        "authOidcIssuer": "https://idp.example.org/realms/site",
        "authOidcClientId": "jupyterhub",
        "debug": True,
        "backend_protocol": "http",
        "skip_auth": True,
    }
    (hub.folder / "zenith_client_config.yaml").write_text(json.dumps(configuration))
    known = ("tee", "/etc/ssh/tunnel_authorized_keys")
    engine.run(engine.exec_command(far_end.container, *known, interactive=True), stdin=public.encode())
