"""The parts of a definition: the values that each key of envs/base.yaml accepts."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    field_validator,
    model_validator,
)

# Debian's useradd takes 32 characters at most (LOGIN_NAME_MAX in utmp is 32).
ACCOUNT_LENGTH = 32
_NAME_PART = re.compile(r"[a-z][a-z0-9_-]*\Z")
# node7 or node[3-8], as Slurm writes them.
_NODES = r"node([1-9][0-9]*|\[[1-9][0-9]*-[1-9][0-9]*\])"
# Minutes, or hours and minutes, …, as Slurm writes lengths of time.
Length = Annotated[str, Field(pattern=r"^([0-9]+-)?[0-9]+(:[0-9][0-9]){0,2}$|^UNLIMITED$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
PortNumber = Annotated[StrictInt, Field(ge=1, le=65535)]
Account = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")]
# What the spawn form accepts as a partition or reservation.
Choice = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]
# Scheme, host and maybe port of a URL.
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9]\d{0,4})?$")]
# A mirror of Debian. No user and password: command lines would show them.
Mirror = Annotated[str, Field(pattern=r"^https?://[!-?A-~]+$")]
# A folder where Slurm is.
Folder = Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]*$")]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
# What reaches a command line: without a leading "-", which would make it an option.
Argument = Annotated[str, Field(pattern=r"^[^-\s]\S*$")]


class Frozen(BaseModel):
    """Base of the models: immutable, unknown keys refused."""

    # Deferred: the environment's validator contains those of its parts, which needn't have one of their own.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class DevUser(Frozen):
    """A user's account in one project: the Linux account ``<user>.<project>`` in the Slurm container."""

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
            form = "each part lower-case letters, digits, '-', '_', a letter first"
            raise ValueError(f"{text!r} is not <user>.<project> ({form})")
        if len(text) > ACCOUNT_LENGTH:
            raise ValueError(f"{text!r} has {len(text)} characters, an account has {ACCOUNT_LENGTH} at most")
        user, project = parts
        return cls(user=user, project=project)


ENDPOINT_FORM = "should be address:port, like 127.0.0.1:8000"


class Endpoint(Frozen):
    """An address and a port on this host; written ``address:port`` or just ``port`` (then on 127.0.0.1)."""

    address: str
    port: PortNumber

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
        # The manifest's hostIP takes no host names.
        address = ipaddress.ip_address(value)
        if address.is_multicast or str(address) == "255.255.255.255":  # can be bound, and nobody comes there
            raise ValueError("should be the address of one host")
        return str(address)

    def conflicts_with(self, other: Endpoint) -> bool:
        """Return whether both can't be bound at once."""
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
    provider_password: StrictBool
    oidc_server: Annotated[str, Field(pattern=r"^https?://[!-.0-~]+(/[!-~]*)?$")] | None
    # No user and password: everybody in the pod can read its settings.
    proxy: Annotated[str, Field(pattern=r"^http://[A-Za-z0-9._:\[\]-]+/?$")] | None
    platform: Line
    portal: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    audience: Line
    token_lifetime: Annotated[StrictInt, Field(ge=60)]
    logout_redirect_url: Annotated[str, Field(pattern=r"^(https?://[!-.0-~]+)?(/[!-~]*)?$")] | None
    azp: Line | None
    match_username: StrictBool
    invalid_jwt_logout: StrictBool

    @property
    def is_external(self) -> bool:
        """Return whether users log in at an OpenID Connect provider outside the pod."""
        return self.kind == "oidc" and self.provider == "external"


class GpuChoice(Frozen):
    count: Annotated[StrictInt, Field(ge=0, le=9)]
    label: Line


class Form(Frozen):
    durations: tuple[Annotated[str, Field(pattern=r"^[0-9]{2}:[0-5][0-9]:[0-5][0-9]$")], ...]
    gpus: tuple[GpuChoice, ...]
    partitions: tuple[Choice, ...] | None
    reservations: tuple[Choice, ...] | None
    free_text: StrictBool


def _text(value: Any) -> Any:
    """Return a version as text: YAML reads one without quotes as a number."""
    return str(value) if isinstance(value, float) else value


class Hub(Frozen):
    version: Annotated[Literal["5.5", "6.1"], BeforeValidator(_text)]
    form: Form
    admin_users: tuple[Account, ...] | None
    cookie_max_age_days: Annotated[float, Field(strict=True, gt=0, le=3650, allow_inf_nan=False)]
    external_url: Origin | None
    subdomain_host: Origin | None
    named_servers: StrictBool
    # Below 0.1 s the hub would do little but run queries.
    start_poll_interval: Annotated[float, Field(strict=True, ge=0.1, le=3600, allow_inf_nan=False)]
    poll_interval: Annotated[StrictInt, Field(gt=0, le=86400)]
    commands_at_once: Annotated[StrictInt, Field(gt=0, le=1000)]
    start_timeout: Annotated[StrictInt, Field(gt=0, le=2592000)]
    http_timeout: Annotated[StrictInt, Field(gt=0, le=86400)]
    idle_timeout: Annotated[StrictInt, Field(ge=0, le=31536000)]
    warn_minutes: Annotated[StrictInt, Field(ge=0, le=1440)]
    request_gpus: StrictBool | None
    gpu_option: Literal["gres", "gpus"]
    job_nodes: Annotated[StrictInt, Field(gt=0, le=65533)] | None
    proxy_address: Literal["127.0.0.1", "0.0.0.0", "::"] | None
    job_log: Annotated[str, Field(pattern=r"^(~/)?[A-Za-z0-9_./%@+-]+$")]  # written into the batch script


class OnNodes(Frozen):
    """Base of partitions and reservations: a name, and the nodes that belong to it."""

    name: Choice
    nodes: Annotated[str, Field(pattern=rf"^(all|{_NODES}(,{_NODES})*)$")] = "all"

    def unknown_nodes(self, nodes: int) -> str | None:
        """Return the first item of the list ``self.nodes`` that isn't among node1 to node<nodes>, or None."""
        for part in self.nodes.split(",") if self.nodes != "all" else ():
            numbers = [int(number) for number in re.findall(r"\d+", part)]
            if not 1 <= numbers[0] <= numbers[-1] <= nodes:
                return part
        return None


class Partition(OnNodes):
    max_time: Length = "UNLIMITED"
    default: StrictBool = False

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value.upper() == "DEFAULT":
            problem = "in slurm.conf it sets defaults for the partitions after it"
            raise ValueError(f"DEFAULT is reserved: {problem}")
        return value


class Reservation(OnNodes):
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    start: str = "now"
    duration: Length = "UNLIMITED"

    @field_validator("start", mode="before")
    @classmethod
    def _start(cls, value: Any) -> Any:
        if isinstance(value, datetime):  # YAML reads a time without quotes as one
            value = value.isoformat()
        if not isinstance(value, str) or re.fullmatch(r"now(\+[1-9]\d*(minutes|hours|days|weeks))?", value):
            return value
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S").isoformat()
        except ValueError:
            raise ValueError("should be now, like now+2hours, or like 2030-01-31T09:00:00") from None


class HostAlias(Frozen):
    """A line of the pod's /etc/hosts, as Kubernetes writes it."""

    ip: Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_address(text)))]
    hostnames: Annotated[tuple[Host, ...], Field(min_length=1)]


# The Debian release that has each release of Slurm.
SLURM_RELEASES = {"24.11": "trixie", "26.05": "sid"}


class Slurm(Frozen):
    release: Annotated[Literal["24.11", "26.05"], BeforeValidator(_text)]
    # Slurm takes more. In one container each node costs about 10 MB of memory.
    nodes: Annotated[StrictInt, Field(ge=1, le=512)]
    # Slurm keeps CPUs in 16 bits and memory in 64.
    cpus_per_node: Annotated[StrictInt, Field(ge=1, le=65533)]
    memory_mb: Annotated[StrictInt, Field(ge=256, le=2**40)]
    # A JupyterLab with two kernels has about 40.
    max_processes: Annotated[StrictInt, Field(ge=128, le=32768)]
    gpus_per_node: Annotated[StrictInt, Field(ge=0, le=64)]  # each is a line of gres.conf
    partitions: Annotated[tuple[Partition, ...], Field(min_length=1)]
    reservations: tuple[Reservation, ...]
    accounting: StrictBool
    ssh_hostname: Host
    ssh_port: PortNumber
    wrappers_bin: Folder
    query_many_as: Account | None
    environment_in_script: StrictBool | None
    env_prefix: Folder
    jupyter_data_dir: Folder
    hub_connect_url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9_.:\[\]-]+(/[A-Za-z0-9_./-]*)?$")]
    host_aliases: tuple[HostAlias, ...]

    @field_validator("hub_connect_url")
    @classmethod
    def _url(cls, value: str) -> str:
        urlsplit(value)  # raises ValueError for wrong brackets
        return value

    @property
    def node_names(self) -> tuple[str, ...]:
        """Return the names of the virtual nodes, in slurm.conf and in the pod's /etc/hosts."""
        return tuple(f"node{number}" for number in range(1, self.nodes + 1))


class Zenith(Frozen):
    image: Argument
    server_address: Host | None
    server_port: PortNumber


class Ingress(Frozen):
    """The way in: ``host`` leads to the hub, by TLS with the certificate in the Secret ``tls_secret``."""

    host: Host
    class_name: DnsName | None = Field(None, alias="class")
    tls_secret: DnsName | None = None


class Kubernetes(Frozen):
    """Where a cluster's deployment is. No leading "-": the values reach command lines."""

    context: Argument | None
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None
    load: Annotated[str, Field(pattern=r"^[^-\s]")] | None
    ingress: Ingress | None
    version: Annotated[str, Field(pattern=r"^v1\.[0-9]{2}(\.[0-9]+)?$")] | None

    @property
    def server(self) -> tuple[int, ...] | None:
        """Return the version, such as (1, 20)."""
        return tuple(map(int, self.version[1:].split(".")[:2])) if self.version else None


class Debian(Frozen):
    release: Annotated[str, Field(pattern=r"^[a-z]+$")]
    mirror: Mirror | None
    security_mirror: Mirror | None
    snapshot: Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z$")] | None
    # Those of which Debian's name is the container engines' too.
    architecture: Literal["amd64", "arm64"] | None


class Image(Frozen):
    """An image's source: it is built here on ``base`` (None: on the base image), or ``image`` is pulled."""

    base: Argument | None = None
    # By digest: a tag may name another image tomorrow.
    image: Annotated[str, Field(pattern=r"^[^-\s@][^\s@]*@sha256:[0-9a-f]{64}$")] | None = None


class Limits(Frozen):
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*[MG]i$")] | None = None


class Repository(Frozen):
    url: Argument
    ref: Argument | None

    @property
    def is_folder(self) -> bool:
        """Return whether ``url`` is a folder of this host (``/…``, ``./…``, ``../…``, ``~…``)."""
        return self.url.startswith(("/", "./", "../", "~"))

    @model_validator(mode="after")
    def _no_password(self) -> Repository:
        # Validate the model, not the field: field errors print the value, and it may contain a password.
        # The user name of an http URL may be a token, that of an ssh URL is just a name.
        if re.match(r"https?://[^/]*@|[a-z+]+://[^/@]*:[^/@]*@", self.url):
            raise ValueError("its url contains a password or token: leave that to Git's credential helper")
        return self
