"""What an environment is: its merged, validated definition, frozen, and all that follows from it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StrictInt, field_validator, model_validator

from .definition import (
    Auth,
    Debian,
    DevUser,
    Endpoint,
    Frozen,
    Hub,
    Images,
    OnNodes,
    Publish,
    Repositories,
    Reservation,
    Slurm,
    Zenith,
)
from .names import (
    ACCOUNTING,
    CONTAINERS,
    IDENTITY,
    LABEL_CHECKOUT,
    LABEL_ENVIRONMENT,
    LABEL_INSTANCE,
    LABEL_PART_OF,
    PART_OF,
    POD_NAME_LENGTH,
    REPOSITORIES,
    SERVICE_ACCOUNT,
    TUNNEL,
    WORKING_COPIES,
    check_instance,
    checkout_id,
    deploy_folder,
    part_name,
    pod_name,
)

# Where each container listens in the pod. The provider's port is that of its URL, which must be the same for a browser
# outside the pod and for the hub inside.
PORTS = {"jupyterhub": 8000, "gateway": 8080, "hub-api": 8081}
# The files that a site puts beside env.yaml, and the key of the Secret that each becomes.
SITE_FILES = {"ssh_key": "ssh_client_key", "known_hosts": "ssh_known_hosts"}
TUNNEL_FILES = {"zenith_key": "zenith_client_key", "zenith_config": "zenith_client.yaml"}
PROVIDER_FILES = {"ca_certificates": "ca.pem"}  # this one need not be there
PASSWORD_KEY = "dummyauth_password"  # the name of a Secret's key, not a password

_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Port(Frozen):
    """A port that a container listens on: its name in `publish`, and where it is published, if it is."""

    name: str
    container: str
    number: int
    endpoint: Endpoint | None


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
        return part_name(self.pod, name)

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
            keys["jupyterhub"] += (PASSWORD_KEY,)
        if self.auth.at_provider:
            keys["jupyterhub"] += tuple(PROVIDER_FILES)
        return tuple(
            Secret(name=part_name(self.pod, container), container=container, keys=keys[container])
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
            **(PROVIDER_FILES if self.auth.at_provider and "jupyterhub" in self.containers else {}),
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
    def ssh_target(self) -> str:
        """Return what the hub's ssh connects to; port, key and known hosts are in its container's configuration."""
        return f"{SERVICE_ACCOUNT}@{self.slurm.ssh_hostname}"

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
            "LOGOUT_REDIRECT_URL": self.auth.logout_redirect_url or "",
            "INVALID_JWT_LOGOUT": _flag(self.auth.invalid_jwt_logout),
            "JWT_AZP": self.auth.azp or "",
            "MATCH_USERNAME": _flag(self.auth.match_username),
            "START_POLL_INTERVAL": f"{self.hub.start_poll_interval:g}",
            "POLL_INTERVAL": str(self.hub.poll_interval),
            "START_TIMEOUT": str(self.hub.start_timeout),
            "HTTP_TIMEOUT": str(self.hub.http_timeout),
            "ADMIN_USERS": ",".join(self.hub.admin_users),
            "COOKIE_MAX_AGE_DAYS": f"{self.hub.cookie_max_age_days:g}",
            "NAMED_SERVERS": _flag(self.hub.named_servers),
            "REQUEST_GPUS": _flag(self.hub.request_gpus, default=self.slurm.gpus_per_node > 0),
            "JOB_LOG": self.hub.job_log,
            "ENVIRONMENT_IN_SCRIPT": _flag(self.slurm.environment_in_script, default=self.slurm_elsewhere),
            "SLURM_NODES": str(self.slurm.nodes),
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


def _flag(value: bool | None, default: bool = False) -> str:
    """Return ``value``, where it is None ``default``, as containers read it."""
    return "true" if (default if value is None else value) else "false"


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
