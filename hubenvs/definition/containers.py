"""Every fact about a container, in one table: `CONTAINERS`.

To add a container: a row here, its lines in envs/base.yaml, a folder under containers/, and seed files in
volumes/common/<volume>/ for each volume that is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# When something applies. `dummy`, `external`: with that log-in (auth.kind, auth.provider). `site`: with Slurm
# on another host.
When = Literal["always", "dummy", "external", "site"]
# Fixed numbers of users and groups, so that files on volumes keep their owner: Debian's for slurm, the next
# one for the hub, Debian's for web servers.
SLURM_ID, HUB_ID, WEB_ID = 64030, 64031, 33
# Keys of Secrets, not passwords themselves: of the dummy authenticator's and the bundled provider's password.
PASSWORD_KEY = "dummyauth_password"
PROVIDER_PASSWORD_KEY = "provider_password"
# Capabilities of an entrypoint. It puts files and secrets in place, then becomes an ordinary user and keeps
# only NET_BIND_SERVICE, for ports that jobs can't use.
START = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETPCAP", "SETUID", "NET_BIND_SERVICE")


@dataclass(frozen=True)
class Page:
    """A path that a ready container serves, and the HTTP status of its answer by kind of log-in.

    ``below_base_url``: the path comes after the environment's base_url.
    """

    path: str
    status: Mapping[str, int]
    below_base_url: bool = True


@dataclass(frozen=True)
class Port:
    """A port that can be published as ``publish.<name>``.

    ``number`` is where the container listens. None: on the published port, because its URL must be the same
    inside and outside the pod.
    """

    name: str
    number: int | None
    page: Page | None = None
    when: When = "always"


@dataclass(frozen=True)
class Volume:
    """A volume of the container: its name after the pod's, its mount point, the owner of its seed files."""

    name: str
    path: str
    owner: int = 0
    seeded: bool = False


@dataclass(frozen=True)
class Key:
    """A key of the container's Secret.

    ``file``: the site's file that contains the value (None: the value is generated). ``file_when``: when that
    file is read; otherwise the value is generated. ``other_file``: the file's name in
    isambard-sc/brics_jupyterhub_envs.
    """

    name: str
    when: When = "always"
    file: str | None = None
    file_when: When = "always"
    other_file: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names that the site's file can have."""
        return tuple(name for name in (self.file, self.other_file) if name)


@dataclass(frozen=True)
class Probe:
    """How Kubernetes probes the container: ``command``, an HTTP GET of ``path``, or a connection to ``port``.

    ``port`` is a name in `ports`. ``command`` stands in for a GET where only the container reaches its port.
    """

    port: str | None = None
    path: str | None = None
    below_base_url: bool = True
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """Kubernetes' requests for the container, and its CPU limit. The memory limit is in `limits`."""

    cpu: str = "50m"
    memory: str = "64Mi"
    cpu_limit: str = "1"


@dataclass(frozen=True)
class Container:
    """A row of the table.

    ``below``: the image that the container's image is built on (None: its image is pulled).
    ``repository``: the development repository in it, installed for the interpreter ``python``.
    ``identity``: it stands in for the site's identity provider.
    ``ready``: the readiness probe.
    ``alive``: the liveness probe. Kubernetes restarts the container if it fails, so it tests this one alone.
    ``uid``: user and group of all its programs, unless it needs root. Started as root it becomes that user.
    ``capabilities``: the capabilities that it gets if it is started as root.
    ``privilege_escalation``: whether a program may get more rights than the one that starts it.
    """

    name: str
    below: str | None = "debian-base"
    repository: str | None = None
    python: str | None = None
    identity: bool = False
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    keys: tuple[Key, ...] = ()
    ready: Probe | None = None
    alive: Probe | None = None
    resources: Resources = Resources()
    uid: int = 0
    capabilities: tuple[str, ...] = START
    privilege_escalation: bool = False


_TABLE = (
    Container(
        "jupyterhub",
        below="jupyterhub-base",
        repository="bricsauthenticator",
        python="python3",
        ports=(
            # Without a token the log-in page of an OpenID Connect environment answers 401.
            Port("jupyterhub", 8000, Page("/hub/login", {"dummy": 200, "oidc": 401})),
            Port("hub-api", 8081, when="site"),
        ),
        volumes=(
            Volume("jupyterhub-config", "/srv/jupyterhub", HUB_ID, seeded=True),
            Volume("jupyterhub-data", "/var/lib/jupyterhub", HUB_ID),
        ),
        keys=(
            Key("ssh_key", file="ssh_client_key", file_when="site"),
            Key("known_hosts", file="ssh_known_hosts", file_when="site"),
            Key("crypt_keys"),
            Key("cookie_secret"),
            Key("proxy_token", when="site"),
            Key(PASSWORD_KEY, when="dummy"),
            Key("ca_certificates", when="external", file="ca.pem"),
        ),
        ready=Probe("jupyterhub", "/hub/health", command=("hub-health",)),
        # The proxy's own page: a hub that hangs must not end the connections to users' servers.
        alive=Probe("jupyterhub", "/_chp_healthz", False, ("hub-health", "/_chp_healthz")),
        resources=Resources("250m", "512Mi", "2"),
        uid=HUB_ID,
    ),
    Container(
        "slurm",
        below="slurm-base",
        repository="slurmspawner_wrappers",
        python="/opt/slurmspawner_wrappers/bin/python",
        volumes=(
            Volume("slurm-config", "/etc/slurm", SLURM_ID, seeded=True),
            Volume("slurm-data", "/var/lib/slurm", SLURM_ID),
            Volume("home", "/home"),
        ),
        keys=(Key("munge_key"), Key("ssh_host_ed25519_key"), Key("authorized_keys")),
        # None for `alive`: users' jobs would end with the container, and s6 restarts its programs.
        ready=Probe(command=("slurm-health",)),
        resources=Resources("500m", "1Gi", "4"),
        capabilities=(*START, "KILL", "SYS_CHROOT"),  # for daemons of several users, and sshd's
        privilege_escalation=True,  # jobs are submitted by way of sudo
    ),
    Container(
        "oidc-provider",
        identity=True,
        ports=(Port("oidc-provider", None, Page("/.well-known/openid-configuration", {"oidc": 200}, False)),),
        keys=(Key("jwks"), Key("client_secret"), Key("cookie_keys"), Key(PROVIDER_PASSWORD_KEY)),
        ready=Probe("oidc-provider"),
        alive=Probe("oidc-provider"),
        uid=WEB_ID,
    ),
    Container(
        "gateway",
        identity=True,
        # A browser that isn't signed in is redirected to the provider.
        ports=(Port("gateway", 8080, Page("/hub/login", {"oidc": 302})),),
        keys=(Key("client_secret"), Key("crypto_passphrase")),
        ready=Probe("gateway"),
        alive=Probe("gateway"),
        uid=WEB_ID,
    ),
    Container(
        "accounting",
        volumes=(Volume("accounting-data", "/var/lib/accounting", SLURM_ID),),
        keys=(Key("munge_key"),),
        capabilities=(*START, "KILL"),
    ),
    Container(
        "zenith-client",
        below=None,
        keys=(
            Key("zenith_key", file="zenith_client_key", other_file="ssh_zenith_client_key"),
            Key("zenith_public_key", file="zenith_client_key.pub", other_file="ssh_zenith_client_key.pub"),
            Key("zenith_config", file="zenith_client.yaml", other_file="zenith_client_config.yaml"),
        ),
        capabilities=(),
    ),
)

CONTAINERS: Mapping[str, Container] = {row.name: row for row in _TABLE}
# Images that no container runs, each with the image below it, in an order in which they can be built.
BASE_IMAGES: Mapping[str, str | None] = {
    "debian-base": None,
    "tools": "debian-base",
    "jupyterhub-base": "debian-base",
    "slurm-base": "debian-base",
}
# Images with Slurm's programs from Debian: slurm.release decides which Debian is below them.
# slurmdbd must not be older than slurmctld.
SLURM_IMAGES = ("slurm-base", "accounting")
SOURCES = "/usr/src"  # folder of a container with its development repository
# Which container carries which development repository.
REPOSITORIES = {row.repository: row.name for row in _TABLE if row.repository}
PORTS: Mapping[str, Port] = {port.name: port for row in _TABLE for port in row.ports}
IDENTITY = tuple(row.name for row in _TABLE if row.identity)
FRONT_ENDS = ("gateway", "zenith-client")  # containers that pass users on to the hub in their pod
TUNNEL = "zenith-client"  # people reach a hub that isn't published through this container
PROXY = "proxy"  # a cluster's container for the hub's proxy, where that is in a pod of its own
ACCOUNTING = "accounting"  # exists when slurm.accounting is set
