"""The parts of an environment's definition: what a person may write under each key of envs/base.yaml."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator

# Debian's useradd takes 32 characters at most (LOGIN_NAME_MAX in utmp is 32).
ACCOUNT_LENGTH = 32
_NAME_PART = re.compile(r"[a-z][a-z0-9_-]*\Z")
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
    logout_redirect_url: Annotated[str, Field(pattern=r"^(https?://[^\s/]+)?(/\S*)?$")] | None
    azp: Annotated[str, Field(pattern=_LINE)] | None
    match_username: StrictBool
    invalid_jwt_logout: StrictBool

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
    start_timeout: Annotated[StrictInt, Field(gt=0, le=2592000)]
    http_timeout: Annotated[StrictInt, Field(gt=0, le=86400)]
    request_gpus: StrictBool | None
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
    environment_in_script: StrictBool | None
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


class Debian(Frozen):
    release: Annotated[str, Field(pattern=r"^[a-z]+$")]
    # Without a user and password, which every command line would show.
    mirror: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    security_mirror: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
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
        # http's user name may be a token, ssh's is just a name.
        if re.match(r"https?://[^/]*@|[a-z+]+://[^/@]*:[^/@]*@", self.url):
            raise ValueError("its url has a password or token in it: leave that to Git's credential helper")
        return self


class Repositories(Frozen):
    bricsauthenticator: Repository
    slurmspawner_wrappers: Repository

    def source(self, name: str) -> Repository:
        """Return where the development repository ``name`` comes from."""
        repository: Repository = getattr(self, name)
        return repository
