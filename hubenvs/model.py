"""What an environment is: frozen data, and the names of everything made from it.

Every resource's name is derived here and nowhere else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool, StrictInt, field_validator, model_validator

PART_OF = "jupyterhub-slurm"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_ENVIRONMENT = "app.kubernetes.io/name"
LABEL_CHECKOUT = "jupyterhub-slurm/checkout"
LABEL_DIGEST = "jupyterhub-slurm/digest"
# The digest without what `reload` can bring into a running pod: working copies and seed files.
LABEL_RECIPE = "jupyterhub-slurm/recipe"

# Which image carries which development repository.
REPOSITORIES = {"bricsauthenticator": "jupyterhub", "slurmspawner_wrappers": "slurm"}
# The containers that stand in for an identity provider elsewhere, and where each container listens in the pod. The
# provider's port is that of its URL, which must be the same for a browser outside the pod and for the hub inside.
IDENTITY = ("oidc-provider", "gateway")
TUNNEL = "zenith-client"
ACCOUNTING = "accounting"  # there when slurm.accounting is set
CONTAINERS = ("jupyterhub", "slurm", *IDENTITY, ACCOUNTING, TUNNEL)
PORTS = {"jupyterhub": 8000, "gateway": 8080, "hub-api": 8081}
# The files that a site puts beside env.yaml, and the key of the Secret that each becomes.
SITE_FILES = {"ssh_key": "ssh_client_key", "known_hosts": "ssh_known_hosts"}
TUNNEL_FILES = {"zenith_key": "zenith_client_key", "zenith_config": "zenith_client.yaml"}
WORKING_COPIES = "_dev_build_data"

# Debian's useradd takes 32 characters at most (LOGIN_NAME_MAX in utmp is 32).
ACCOUNT_LENGTH = 32
# They all reach the containers in one environment variable, for which Linux has 128 KiB (MAX_ARG_STRLEN).
MOST_USERS = 3000
# The pod's name is the value of a label, a Service's name and a host's name: 63 characters at most.
POD_NAME_LENGTH = 63

_NAME_PART = re.compile(r"[a-z][a-z0-9_-]*\Z")
_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
# node7 or node[3-8], as Slurm writes them.
_NODES = r"node([1-9]\d*|\[[1-9]\d*-[1-9]\d*\])"
# Minutes, or hours and minutes, …, as Slurm writes lengths of time.
_LENGTH = r"^(\d+-)?\d+(:\d\d){0,2}$|^UNLIMITED$"
_HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"
_LINE = r"^[^\x00-\x1f\x7f]+$"


class Frozen(BaseModel):
    """Base of the models: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DevUser(Frozen):
    """A user's account in one project: ``<user>.<project>``, a Linux account of that name in the Slurm container."""

    user: str
    project: str

    @property
    def account(self) -> str:
        """Return the Linux account's name."""
        return f"{self.user}.{self.project}"

    @classmethod
    def parse(cls, text: str) -> DevUser:
        """Return the dev user written as ``text``; raise ValueError saying what is wrong with it."""
        parts = text.split(".")
        if len(parts) != 2 or not all(_NAME_PART.match(part) for part in parts):
            raise ValueError(
                f"{text!r} is not <user>.<project> (each part lower-case letters, digits, '-', '_', a letter first)"
            )
        if len(text) > ACCOUNT_LENGTH:
            raise ValueError(f"{text!r} has {len(text)} characters, an account has {ACCOUNT_LENGTH} at most")
        user, project = parts
        return cls(user=user, project=project)


ENDPOINT_FORM = "should be address:port, like 127.0.0.1:8000"


class Endpoint(Frozen):
    """An address and a port on this host; written ``address:port`` or just ``port`` (then on 127.0.0.1)."""

    address: str
    port: Annotated[StrictInt, Field(ge=1, le=65535)]

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | str):
            if isinstance(value, dict) and value.keys() == {"address", "port"}:
                return value
            raise ValueError(ENDPOINT_FORM)
        address, _, port = str(value).rpartition(":")
        if not port.isdecimal():
            raise ValueError(ENDPOINT_FORM)
        return {"address": address.strip("[]") or "127.0.0.1", "port": int(port)}

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        # podman takes no host names here.
        return str(ipaddress.ip_address(value))

    def meets(self, other: Endpoint) -> bool:
        """Return whether one of the two leaves no room for the other."""
        everywhere = ("0.0.0.0", "::")
        same = self.address == other.address or self.address in everywhere or other.address in everywhere
        return self.port == other.port and same

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class Auth(Frozen):
    kind: Literal["dummy", "oidc"]
    user: str | None
    provider: Literal["bundled", "external"]
    oidc_server: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$")] | None
    platform: Annotated[str, Field(pattern=_LINE)]
    portal: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    audience: Annotated[str, Field(pattern=_LINE)]
    token_lifetime: Annotated[StrictInt, Field(ge=60)]

    @property
    def at_provider(self) -> bool:
        """Return whether users log in at a provider elsewhere."""
        return self.kind == "oidc" and self.provider == "external"


class Hub(Frozen):
    admin_users: tuple[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")], ...]
    cookie_max_age_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)]
    named_servers: StrictBool
    # Under 0.1 s the hub would do little else than ask.
    start_poll_interval: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)]
    poll_interval: Annotated[StrictInt, Field(gt=0, le=86400)]
    job_log: Annotated[str, Field(pattern=r"^(~/)?[\w./%@+-]+$")]  # it is a line of a script


class OnNodes(Frozen):
    """Base of what has a name and is of some of the nodes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    nodes: Annotated[str, Field(pattern=rf"^(all|{_NODES}(,{_NODES})*)$")] = "all"

    def unknown_nodes(self, nodes: int) -> str | None:
        """Return the first part of ``nodes`` that isn't among node1 to node<nodes>, or None."""
        for part in self.nodes.split(",") if self.nodes != "all" else ():
            numbers = [int(number) for number in re.findall(r"\d+", part)]
            if not 1 <= numbers[0] <= numbers[-1] <= nodes:
                return part
        return None


class Partition(OnNodes):
    max_time: Annotated[str, Field(pattern=_LENGTH)] = "UNLIMITED"
    default: StrictBool = False

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value.upper() == "DEFAULT":
            raise ValueError("to Slurm this isn't a partition, but what the lines after it start from")
        return value


class Reservation(OnNodes):
    # As the spawn form takes it, which sends it on as an option's value.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    start: str = "now"
    duration: Annotated[str, Field(pattern=_LENGTH)] = "UNLIMITED"

    @field_validator("start", mode="before")
    @classmethod
    def _start(cls, value: Any) -> Any:
        if isinstance(value, datetime):  # which YAML makes of one without quotes
            value = value.isoformat()
        if not isinstance(value, str) or re.fullmatch(r"now(\+[1-9]\d*(minutes|hours|days|weeks))?", value):
            return value
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S").isoformat()
        except ValueError:
            raise ValueError("should be now, like now+2hours, or like 2030-01-31T09:00:00") from None


class HostAlias(Frozen):
    """A line of the pod's /etc/hosts, as Kubernetes writes it."""

    ip: str
    hostnames: Annotated[tuple[Annotated[str, Field(pattern=_HOST)], ...], Field(min_length=1)]

    @field_validator("ip")
    @classmethod
    def _ip(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))


class Slurm(Frozen):
    # Slurm itself takes more; past this one container has no use (about 10 MB of memory a node).
    nodes: Annotated[StrictInt, Field(ge=1, le=512)]
    # Slurm keeps the one in 16 bits, the other in 64.
    cpus_per_node: Annotated[StrictInt, Field(ge=1, le=65533)]
    memory_mb: Annotated[StrictInt, Field(ge=256, le=2**40)]
    gpus_per_node: Annotated[StrictInt, Field(ge=0, le=64)]  # each is a line of gres.conf
    partitions: Annotated[tuple[Partition, ...], Field(min_length=1)]
    reservations: tuple[Reservation, ...]
    accounting: StrictBool
    ssh_hostname: Annotated[str, Field(pattern=_HOST)]
    ssh_port: Annotated[StrictInt, Field(ge=1, le=65535)]
    wrappers_bin: Annotated[str, Field(pattern=r"^/[\w./-]*$")]
    # No leading "-": the value reaches sudo's command line.
    query_many_as: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None
    env_prefix: Annotated[str, Field(pattern=r"^/[\w./-]*$")]
    jupyter_data_dir: Annotated[str, Field(pattern=r"^/[\w./-]*$")]
    hub_connect_url: Annotated[str, Field(pattern=r"^https?://[\w.:\[\]-]+(/[\w./-]*)?$")]
    host_aliases: tuple[HostAlias, ...]

    @field_validator("hub_connect_url")
    @classmethod
    def _url(cls, value: str) -> str:
        urlsplit(value)  # which says what is wrong with brackets
        return value

    @property
    def node_names(self) -> tuple[str, ...]:
        """Return the virtual nodes' names, as slurm.conf has them and as they resolve in the pod."""
        return tuple(f"node{number}" for number in range(1, self.nodes + 1))


class Zenith(Frozen):
    # No leading "-": the value reaches podman's command line.
    image: Annotated[str, Field(pattern=r"^[^-\s]\S*$")]
    server_address: Annotated[str, Field(pattern=_HOST)] | None
    server_port: Annotated[StrictInt, Field(ge=1, le=65535)]


class Publish(Frozen):
    jupyterhub: Endpoint | None
    gateway: Endpoint | None
    hub_api: Annotated[Endpoint | None, Field(alias="hub-api")]
    oidc_provider: Annotated[Endpoint | None, Field(alias="oidc-provider")]

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Return what is published, by the name that it has in `publish`."""
        every = {
            "jupyterhub": self.jupyterhub,
            "gateway": self.gateway,
            "hub-api": self.hub_api,
            "oidc-provider": self.oidc_provider,
        }
        return {name: endpoint for name, endpoint in every.items() if endpoint is not None}

    def on(self, ports: Mapping[str, int]) -> Publish:
        """Return the same addresses on other ``ports``, by name."""
        moved = {
            name.replace("-", "_"): endpoint.model_copy(update={"port": ports.get(name, endpoint.port)})
            for name, endpoint in self.endpoints.items()
        }
        return self.model_copy(update=moved)


class Port(Frozen):
    """A port that a container listens on: its name in `publish`, and where it is published, if it is."""

    name: str
    container: str
    number: int
    endpoint: Endpoint | None


class Debian(Frozen):
    release: Annotated[str, Field(pattern=r"^[a-z]+$")]
    mirror: Annotated[str, Field(pattern=r"^https?://\S+$")]
    security_mirror: Annotated[str, Field(pattern=r"^https?://\S+$")]
    snapshot: Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z$")] | None


class ImageSource(Frozen):
    # No leading "-": the value reaches podman's command line.
    base: Annotated[str, Field(pattern=r"^[^-\s]\S*$")] | None


class ProductSource(ImageSource):
    # By digest: a tag could be another image tomorrow.
    image: Annotated[str, Field(pattern=r"^[^-\s@][^\s@]*@sha256:[0-9a-f]{64}$")] | None


class Images(Frozen):
    debian_base: Annotated[ImageSource, Field(alias="debian-base")]
    tools: ImageSource
    jupyterhub_base: Annotated[ImageSource, Field(alias="jupyterhub-base")]
    slurm_base: Annotated[ImageSource, Field(alias="slurm-base")]
    jupyterhub: ProductSource
    slurm: ProductSource
    oidc_provider: Annotated[ProductSource, Field(alias="oidc-provider")]
    gateway: ProductSource
    accounting: ProductSource

    def image(self, name: str) -> str | None:
        """Return the finished image that container ``name`` runs, or None for the one built here."""
        source: ImageSource = getattr(self, name.replace("-", "_"))
        return source.image if isinstance(source, ProductSource) else None

    def base(self, name: str) -> str | None:
        """Return the image that the definition puts under image ``name``, or None for the one built here."""
        source: ImageSource = getattr(self, name.replace("-", "_"))
        return source.base


class Repository(Frozen):
    # No leading "-": the value reaches git's command line.
    url: Annotated[str, Field(pattern=r"^[^-\s]\S*$")]
    ref: Annotated[str, Field(pattern=r"^[^-\s]\S*$")] | None

    @model_validator(mode="after")
    def _no_password(self) -> Repository:
        # Of the whole, not of the URL: what is wrong with a key is shown with its value.
        if re.match(r"[a-z+]+://[^/@]*:[^/@]*@", self.url):
            raise ValueError("its url has a password in it: leave that to Git's credential helper")
        return self


class Repositories(Frozen):
    bricsauthenticator: Repository
    slurmspawner_wrappers: Repository

    def source(self, name: str) -> Repository:
        """Return where the development repository ``name`` comes from."""
        repository: Repository = getattr(self, name)
        return repository


class Volume(Frozen):
    """A named volume: where it is mounted, who owns what it is seeded with, and whether it is seeded at all."""

    name: str
    suffix: str
    container: str
    path: str
    owner: int
    seeded: bool


class Secret(Frozen):
    """A Kubernetes Secret: its name, the container that mounts it, and the keys it holds."""

    name: str
    container: str
    keys: tuple[str, ...]

    @property
    def path(self) -> str:
        """Return where the container finds it."""
        return f"/run/credentials/{self.container}"


class Environment(Frozen):
    """A whole environment, merged and validated."""

    name: str
    instance: str | None
    root: Path
    dev_users: tuple[DevUser, ...]
    dummy_password: SecretStr | None = None  # the one that was given; None: one is made

    description: str
    containers: Annotated[
        tuple[Literal["jupyterhub", "slurm", "oidc-provider", "gateway", "accounting", "zenith-client"], ...],
        Field(min_length=1),
    ]
    stage: Literal["dev", "prod"]
    site_folder: str | None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    base_url: Annotated[str, Field(pattern=r"^(/\w[\w.-]*)*/?$")]
    auth: Auth
    hub: Hub
    slurm: Slurm
    zenith: Zenith
    publish: Publish
    overlays: tuple[str, ...]
    debian: Debian
    images: Images
    repositories: Repositories
    wait_timeout: Annotated[StrictInt, Field(gt=0, le=86400)]

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not _ENVIRONMENT_NAME.match(value):
            raise ValueError("an environment's name has lower-case letters, digits and '_', a letter first")
        return value

    @field_validator("instance")
    @classmethod
    def _instance(cls, value: str | None) -> str | None:
        check_instance(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Environment:
        if (excess := len(self.pod) - POD_NAME_LENGTH) > 0:
            raise ValueError(f"instance: {excess} characters too long (the pod would be {self.pod[:POD_NAME_LENGTH]}…)")
        if len(set(self.containers)) < len(self.containers):
            raise ValueError("containers: one of them is named twice")
        if sum(partition.default for partition in self.slurm.partitions) != 1:
            raise ValueError("slurm.partitions: exactly one partition has `default: true`")
        _consistent_nodes("partitions", self.slurm.partitions, self.slurm.nodes)
        _consistent_nodes("reservations", self.slurm.reservations, self.slurm.nodes)
        if self.slurm.reservations and "slurm" not in self.containers:
            raise ValueError("slurm.reservations: there is no Slurm in this pod to make them in")
        for index, reservation in enumerate(self.slurm.reservations):
            _consistent_reservation(f"slurm.reservations.{index}", reservation, self.dev_users, self.slurm.accounting)
        for name in REPOSITORIES.values():
            if self.stage == "dev" and self.images.image(name):
                raise ValueError(f"images.{name}.image: what is edited here isn't in it; it needs `stage: prod`")
        if ACCOUNTING in self.containers and not self.slurm.accounting:
            raise ValueError("containers: accounting comes with `slurm.accounting: true`, and only with that")
        if self.slurm.accounting and "slurm" not in self.containers:
            raise ValueError("slurm.accounting: there is no Slurm in this pod to account for")
        for one, other in itertools.combinations(without_identity(self).published.items(), 2):
            if one[1].meets(other[1]):
                raise ValueError(f"publish.{other[0]}: {other[1]} is taken by publish.{one[0]}")
        if self.slurm_elsewhere:
            _consistent_site(self.slurm, self.publish)
        if TUNNEL in self.containers and self.zenith.server_address is None:
            raise ValueError("zenith.server_address: not set; it is the tunnel's other end")
        if self.auth.kind == "oidc" and "jupyterhub" in self.containers:
            _consistent_provider(self.auth, self.publish, self.containers)
        if self.auth.user is not None and self.auth.user not in self.users:
            raise ValueError(f"auth.user: {self.auth.user!r} is not in dev_users ({', '.join(self.users)})")
        return self

    # -- names ---------------------------------------------------------------------------------------------------

    @property
    def pod(self) -> str:
        """Return the pod's name, the stem of every other name."""
        return pod_name(self.name, self.instance)

    @property
    def options(self) -> str:
        """Return the options that name this deployment to a task."""
        return f"--env {self.name}" + (f" --instance {self.instance}" if self.instance else "")

    def container(self, name: str) -> str:
        """Return podman's name for the pod's container ``name``."""
        return f"{self.pod}-{name}"

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that every resource carries."""
        return {
            LABEL_PART_OF: PART_OF,
            LABEL_INSTANCE: self.pod,
            LABEL_ENVIRONMENT: self.name,
            LABEL_CHECKOUT: checkout_id(self.root),
        }

    @property
    def config_map(self) -> str:
        """Return the ConfigMap's name."""
        return f"{self.pod}-config"

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Return the volumes of the containers that this environment has."""
        rows = (
            ("jupyterhub-config", "jupyterhub", "/srv/jupyterhub", 0, True),
            ("jupyterhub-data", "jupyterhub", "/var/lib/jupyterhub", 0, False),
            # 64030 is Debian's own number for the slurm user and group.
            ("slurm-config", "slurm", "/etc/slurm", 64030, True),
            ("slurm-data", "slurm", "/var/lib/slurm", 64030, False),
            ("home", "slurm", "/home", 0, False),
            ("accounting-data", ACCOUNTING, "/var/lib/accounting", 64030, False),
        )
        return tuple(
            Volume(name=f"{self.pod}-{suffix}", suffix=suffix, container=on, path=path, owner=owner, seeded=seeded)
            for suffix, on, path, owner, seeded in rows
            if on in self.containers
        )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Return the Secrets of the containers that this environment has."""
        keys: dict[str, tuple[str, ...]] = {
            "jupyterhub": ("ssh_key", "known_hosts", "crypt_keys", "cookie_secret"),
            "slurm": ("munge_key", "ssh_host_ed25519_key", "authorized_keys"),
            "oidc-provider": ("jwks", "client_secret", "cookie_keys"),
            "gateway": ("client_secret", "crypto_passphrase"),
            ACCOUNTING: ("munge_key",),
            TUNNEL: tuple(TUNNEL_FILES),
        }
        if self.auth.kind == "dummy":
            keys["jupyterhub"] += ("dummyauth_password",)
        return tuple(
            Secret(name=f"{self.pod}-{container}", container=container, keys=keys[container])
            for container in self.containers
        )

    @property
    def secret_keys(self) -> frozenset[str]:
        """Return the keys of all Secrets."""
        return frozenset(key for secret in self.secrets for key in secret.keys)

    @property
    def site_files(self) -> dict[str, Path]:
        """Return where the site's own files are, by the key of the Secret that each becomes."""
        names = {
            **(SITE_FILES if self.slurm_elsewhere else {}),
            **(TUNNEL_FILES if TUNNEL in self.containers else {}),
        }
        return {key: self.site_data / name for key, name in names.items()}

    @property
    def site_data(self) -> Path:
        """Return the folder of the site's own files."""
        own = self.root / "envs" / self.name
        return self.root / os.path.expanduser(self.site_folder) if self.site_folder else own

    # -- what follows from the data ------------------------------------------------------------------------------

    @property
    def slurm_elsewhere(self) -> bool:
        """Return whether the hub's Slurm is another host's."""
        return "jupyterhub" in self.containers and "slurm" not in self.containers

    @property
    def host_aliases(self) -> list[dict[str, Any]]:
        """Return the pod's own host names, as Kubernetes takes them: its Slurm's, and those of the definition."""
        own = [self.slurm.ssh_hostname, *self.slurm.node_names] if "slurm" in self.containers else []
        return [
            *([{"ip": "127.0.0.1", "hostnames": own}] if own else []),
            *(alias.model_dump(mode="json") for alias in self.slurm.host_aliases),
        ]

    @property
    def overlay_folders(self) -> tuple[Path, ...]:
        """Return the folders of seed files that the definition names, relative ones from the checkout."""
        return tuple(self.root / os.path.expanduser(overlay) for overlay in self.overlays)

    @property
    def users(self) -> tuple[str, ...]:
        """Return the dev users' names, each once."""
        return tuple(dict.fromkeys(dev_user.user for dev_user in self.dev_users))

    @property
    def user(self) -> str:
        """Return the user that dummy authentication logs in, empty where there are no dev users."""
        return self.auth.user or next(iter(self.users), "")

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return the ports that the containers serve others at."""
        endpoints = self.publish.endpoints
        # In the pod the provider listens where it is published.
        numbers = PORTS | ({"oidc-provider": endpoints["oidc-provider"].port} if "oidc-provider" in endpoints else {})
        of = {name: name for name in CONTAINERS} | ({"hub-api": "jupyterhub"} if self.slurm_elsewhere else {})
        return tuple(
            Port(name=name, container=container, number=numbers[name], endpoint=endpoints.get(name))
            for name, container in of.items()
            if container in self.containers and name in numbers
        )

    @property
    def published(self) -> dict[str, Endpoint]:
        """Return what of this pod is published on this host, by the name that it has in `publish`."""
        return {port.name: port.endpoint for port in self.ports if port.endpoint}

    @property
    def url(self) -> str | None:
        """Return where a browser finds the hub, through the gateway if there is one; None if it isn't published."""
        return self.gateway_url or self.hub_url

    @property
    def hub_url(self) -> str | None:
        """Return where the hub's own port is published, or None if it isn't."""
        return self._published("jupyterhub")

    @property
    def gateway_url(self) -> str | None:
        """Return where the gateway is published, or None if there is none."""
        return self._published("gateway")

    def _published(self, name: str) -> str | None:
        return f"http://{self.published[name]}{self.base_url.rstrip('/')}" if name in self.published else None

    @property
    def issuer(self) -> str:
        """Return the URL of the OpenID Connect provider, empty if there is none."""
        if self.auth.oidc_server or self.publish.oidc_provider is None:
            return self.auth.oidc_server or ""
        return f"http://{self.publish.oidc_provider}"

    @property
    def settings(self) -> dict[str, str]:
        """Return the ConfigMap's data: what the containers find in their environment as ``DEPLOY_CONFIG_…``."""
        values = {
            "LOG_LEVEL": self.log_level,
            "BASE_URL": self.base_url,
            "DEV_USERS": "\n".join(dev_user.account for dev_user in self.dev_users),
            "SSH_HOSTNAME": self.slurm.ssh_hostname,
            "SSH_PORT": str(self.slurm.ssh_port),
            "SLURMSPAWNER_WRAPPERS_BIN": self.slurm.wrappers_bin,
            "QUERY_MANY_AS": self.slurm.query_many_as or "",
            "CONDA_PREFIX_DIR": self.slurm.env_prefix,
            "JUPYTER_DATA_DIR": self.slurm.jupyter_data_dir,
            "HUB_CONNECT_URL": self.slurm.hub_connect_url,
            "OIDC_SERVER": self.issuer,
            "GATEWAY_URL": f"http://{self.publish.gateway}" if self.publish.gateway else "",
            "TOKEN_LIFETIME": str(self.auth.token_lifetime),
            "BRICS_PLATFORM": self.auth.platform,
            "BRICS_PORTAL": self.auth.portal,
            "JWT_AUDIENCE": self.auth.audience,
            "AUTH_USER": self.auth.user or "",
            "START_POLL_INTERVAL": f"{self.hub.start_poll_interval:g}",
            "POLL_INTERVAL": str(self.hub.poll_interval),
            "ADMIN_USERS": ",".join(self.hub.admin_users),
            "COOKIE_MAX_AGE_DAYS": f"{self.hub.cookie_max_age_days:g}",
            "NAMED_SERVERS": "true" if self.hub.named_servers else "false",
            "JOB_LOG": self.hub.job_log,
            "SLURM_NODES": str(self.slurm.nodes),
            "GPUS_PER_NODE": str(self.slurm.gpus_per_node),
            "ZENITH_SERVER_ADDRESS": self.zenith.server_address or "",
            "ZENITH_SERVER_PORT": str(self.zenith.server_port),
        }
        return {f"DEPLOY_CONFIG_{key}": value for key, value in values.items()}

    @property
    def deploy_folder(self) -> Path:
        """Return the folder that holds what only this deployment knows (its secrets, its lock, its logs)."""
        return deploy_folder(self.root, self.name, self.instance)

    def working_copy(self, repository: str) -> Path:
        """Return the folder whose content is installed for the development repository ``repository``."""
        url = self.repositories.source(repository).url
        if url == "bundled" and self.stage == "prod":
            return self.bundled(repository)  # not what somebody has edited
        if is_folder(url):
            return (self.root / os.path.expanduser(url)).resolve()
        return self.root / "containers" / REPOSITORIES[repository] / WORKING_COPIES / repository

    def bundled(self, repository: str) -> Path:
        """Return where this checkout has its own source of ``repository``."""
        return self.root / "containers" / REPOSITORIES[repository] / repository


def check_instance(name: str | None) -> None:
    """Raise ValueError unless ``name`` (None for none) can be part of Kubernetes names."""
    if name is not None and not _INSTANCE_NAME.match(name):
        raise ValueError("an instance's name has lower-case letters, digits and '-' inside")


def _consistent_nodes(key: str, items: Sequence[OnNodes], nodes: int) -> None:
    """Raise ValueError unless each of ``items`` (slurm.``key``) has a name of its own and nodes that there are."""
    for index, item in enumerate(items):
        if item.name in (earlier.name for earlier in items[:index]):
            raise ValueError(f"slurm.{key}.{index}.name: {item.name!r} is given twice")
        if unknown := item.unknown_nodes(nodes):
            raise ValueError(f"slurm.{key}.{index}.nodes: {unknown} is not among {nodes} node(s)")


def _consistent_reservation(key: str, item: Reservation, dev_users: Sequence[DevUser], accounting: bool) -> None:
    """Raise ValueError unless reservation ``item``, at ``key``, is for users or accounts that Slurm knows."""
    if bool(item.users) == bool(item.accounts):
        raise ValueError(f"{key}: say in users or in accounts whom it is for, and not in both")
    if item.accounts and not accounting:
        raise ValueError(f"{key}.accounts: there are none without `slurm.accounting: true`")
    for name in sorted(set(item.users) - {user.account for user in dev_users}):
        raise ValueError(f"{key}.users: {name!r} is not in dev_users")
    for name in sorted(set(item.accounts) - {user.project for user in dev_users}):
        raise ValueError(f"{key}.accounts: {name!r} is not a project of dev_users")


def _consistent_provider(auth: Auth, publish: Publish, containers: Sequence[str]) -> None:
    """Raise ValueError unless there is one provider, and the hub and a browser can find it."""
    if auth.user is not None:
        raise ValueError("auth.user: only dummy authentication logs a user in by itself")
    if auth.provider == "external":
        if not auth.oidc_server:
            raise ValueError("auth.oidc_server: the URL of the external provider (its issuer) is missing")
        return
    if auth.oidc_server:
        raise ValueError("auth.oidc_server: the bundled provider has its own; set auth.provider to external as well")
    for container, endpoint in (("oidc-provider", publish.oidc_provider), ("gateway", publish.gateway)):
        if container not in containers:
            raise ValueError(f"containers: {container} is missing, which the bundled provider needs")
        if endpoint is None:
            raise ValueError(f"publish.{container}: an address that a browser can open is needed")


def _consistent_site(slurm: Slurm, publish: Publish) -> None:
    """Raise ValueError unless the servers of a Slurm that isn't in the pod can find the hub."""
    if publish.hub_api is None:
        raise ValueError("publish.hub-api: an address of this host that the compute nodes reach is missing")
    if urlsplit(slurm.hub_connect_url).hostname in ("127.0.0.1", "localhost", "::1"):
        raise ValueError("slurm.hub_connect_url: on a compute node this is the node itself, not the hub")


def without_identity(env: Environment) -> Environment:
    """Return ``env`` as it is with an external provider: neither provider nor gateway, and the hub's port published.

    Where the gateway would have been, unless the definition publishes the hub itself.
    """
    if not env.auth.at_provider:
        return env
    publish = env.publish.model_copy(
        update={
            "jupyterhub": env.publish.jupyterhub or env.publish.gateway,
            "gateway": None,
            "oidc_provider": None,
        }
    )
    containers = tuple(name for name in env.containers if name not in IDENTITY)
    return env.model_copy(update={"publish": publish, "containers": containers})


def with_accounting(env: Environment) -> Environment:
    """Return ``env`` with the container that accounting runs in, if that is asked for."""
    if not env.slurm.accounting or ACCOUNTING in env.containers:
        return env
    return env.model_copy(update={"containers": (*env.containers, ACCOUNTING)})


def is_folder(url: str) -> bool:
    """Return whether a repository's ``url`` names a folder of this machine (``/…``, ``./…``, ``../…``, ``~…``)."""
    return url.startswith(("/", "./", "../", "~"))


def pod_name(environment: str, instance: str | None) -> str:
    """Return the pod's name of ``environment``, valid in Kubernetes."""
    stem = f"{PART_OF}-{environment.replace('_', '-')}"
    return f"{stem}-{instance}" if instance else stem


def checkout_id(root: Path) -> str:
    """Return a short name for the checkout at ``root``: a path isn't valid as a label's value, its digest is."""
    return digest(str(root.resolve()))


def deploy_folder(root: Path, environment: str, instance: str | None) -> Path:
    """Return the deploy folder's path of an environment (which need not exist)."""
    return root / ".deploy" / (f"{environment}-{instance}" if instance else environment)


def digest(*parts: str | bytes | Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of ``parts``; a mapping counts with its names, in order of name."""
    total = hashlib.sha256()
    for part in parts:
        chunks = [item for name in sorted(part) for item in (name, part[name])] if isinstance(part, Mapping) else [part]
        for chunk in chunks:
            data = chunk.encode() if isinstance(chunk, str) else chunk
            # The length first, so that ("ab", "c") and ("a", "bc") differ.
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]
