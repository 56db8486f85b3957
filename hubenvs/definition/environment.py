"""The Environment: a validated, frozen definition, and everything that follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, StrictInt, field_validator

from .. import __version__
from ..files import digest
from . import names, schema
from .containers import (
    ACCOUNTING,
    BASE_IMAGES,
    CONTAINERS,
    FRONT_ENDS,
    IDENTITY,
    PORTS,
    PROXY,
    REPOSITORIES,
    Container,
    Key,
    Port,
    When,
)
from .parts import PodPort, PodVolume, Secret


class Environment(schema.Frozen):
    """A complete definition. Fields after ``dummy_password`` are the keys of envs/base.yaml."""

    name: Annotated[str, AfterValidator(names.check_environment)]
    instance: Annotated[str | None, AfterValidator(names.check_instance)]
    root: Path
    dev_users: tuple[schema.DevUser, ...]
    dummy_password: SecretStr | None = None  # from a ConfigMap; None: one is generated

    description: str
    containers: Annotated[tuple[str, ...], Field(min_length=1)]
    stage: Literal["dev", "prod"]
    site_folder: str | None
    engine: Literal["kubernetes"] | None  # None: this host runs it
    kubernetes: schema.Kubernetes
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    base_url: Annotated[str, Field(max_length=200, pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*/?$")]
    auth: schema.Auth
    hub: schema.Hub
    slurm: schema.Slurm
    zenith: schema.Zenith
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None
    publish: Mapping[str, schema.Endpoint | None]
    limits: Mapping[str, schema.Limits]
    overlays: tuple[str, ...]
    debian: schema.Debian
    images: Mapping[str, schema.Image]
    repositories: Mapping[str, schema.Repository]
    wait_timeout: Annotated[StrictInt, Field(gt=0, le=86400)]

    @field_validator("containers")
    @classmethod
    def _containers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CONTAINERS:
                raise ValueError(f"there is no container {name!r} (known: {', '.join(CONTAINERS)})")
        return value

    @field_validator("publish", "images", "limits", mode="before")
    @classmethod
    def _add_missing_rows(cls, value: Any, info: Any) -> Any:
        """Add the keys of the table of containers that the definition leaves out."""
        if not isinstance(value, Mapping):
            return value
        if info.field_name == "publish":
            return {**dict.fromkeys(PORTS), **value}
        built = [row.name for row in CONTAINERS.values() if row.below]
        known = CONTAINERS if info.field_name == "limits" else (*BASE_IMAGES, *built)
        return {name: {} for name in known} | dict(value)

    # -- names -------------------------------------------------------------------------------------

    @property
    def pod(self) -> str:
        """Return the pod's name; every other name starts with it."""
        return names.pod_name(self.name, self.instance)

    @property
    def options(self) -> str:
        """Return the options that select this deployment on a task's command line."""
        return f"--env {self.name}" + (f" --instance {self.instance}" if self.instance else "")

    def container_name(self, name: str) -> str:
        """Return the name under which the engine runs the pod's container ``name``."""
        return names.container_name(self.pod, name)

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of every resource."""
        # The checkout is a path of one machine, without meaning in a cluster.
        checkout = {} if self.engine else {names.LABEL_CHECKOUT: names.checkout_id(self.root)}
        return {
            names.LABEL_PART_OF: names.PART_OF,
            names.LABEL_INSTANCE: self.pod,
            names.LABEL_ENVIRONMENT: self.name,
            names.LABEL_VERSION: __version__,
            names.LABEL_STAGE: self.stage,
            **checkout,
        }

    @property
    def config_map(self) -> str:
        """Return the name of the ConfigMap."""
        return f"{self.pod}-config"

    @property
    def deploy_folder(self) -> Path:
        """Return the folder with this deployment's lock, record, secrets and logs."""
        return names.deploy_folder(self.root, self.name, self.instance)

    # -- what the containers need ------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Container, ...]:
        """Return this environment's rows of the table of containers."""
        return tuple(CONTAINERS[name] for name in self.containers)

    def applies(self, when: When) -> bool:
        """Return whether a key, file or port with the condition ``when`` belongs to this environment."""
        return {
            "always": True,
            "dummy": self.auth.kind == "dummy",
            "external": self.auth.is_external,
            "site": self.slurm_elsewhere,
        }[when]

    @property
    def volumes(self) -> tuple[PodVolume, ...]:
        """Return the volumes of this environment's containers."""
        return tuple(
            PodVolume(f"{self.pod}-{item.name}", item.name, row.name, item.path, item.owner, item.seeded)
            for row in self.rows
            for item in row.volumes
        )

    def _keys(self, row: Container) -> list[Key]:
        return [key for key in row.keys if self.applies(key.when)]

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Return the Secrets of this environment's containers."""
        return tuple(
            Secret(self.container_name(row.name), row.name, tuple(key.name for key in self._keys(row)))
            for row in self.rows
        )

    @property
    def secret_keys(self) -> frozenset[str]:
        """Return the keys of all Secrets."""
        return frozenset(key for secret in self.secrets for key in secret.keys)

    @property
    def site_files(self) -> dict[str, Path]:
        """Return the paths of the site's files, by the Secret key that each is read into."""
        return {
            key.name: self._site_file(*key.files)
            for row in self.rows
            for key in self._keys(row)
            if key.file and self.applies(key.file_when)
        }

    def _site_file(self, name: str, *other_names: str) -> Path:
        """Return the path of the first of these files that exists; if none does, the path of ``name``."""
        paths = [self.site_data / each for each in (name, *other_names)]
        return next((path for path in paths if os.path.lexists(path)), paths[0])

    @property
    def site_data(self) -> Path:
        """Return the folder of the site's files."""
        if self.site_folder:
            return self.root / os.path.expanduser(self.site_folder)
        return self.root / "envs" / self.name

    @property
    def ports(self) -> tuple[PodPort, ...]:
        """Return the ports at which the containers serve others."""
        ports = []
        for row in self.rows:
            for port in row.ports:
                endpoint = self.publish[port.name]
                number = port.number or (endpoint.port if endpoint else None)
                if number and self.applies(port.when):
                    ports.append(PodPort(port.name, row.name, number, endpoint))
        return tuple(ports)

    @property
    def host_aliases(self) -> list[dict[str, Any]]:
        """Return the lines of the pod's /etc/hosts, as Kubernetes takes them."""
        local = [self.slurm.ssh_hostname, *self.slurm.node_names] if "slurm" in self.containers else []
        if local and "jupyterhub" in self.containers:
            local.append(self.pod)  # Slurm's daemons listen there
        aliases = [alias.model_dump(mode="json") for alias in self.slurm.host_aliases]
        return [{"ip": "127.0.0.1", "hostnames": local}, *aliases] if local else aliases

    # -- addresses ---------------------------------------------------------------------------------

    @property
    def published(self) -> dict[str, schema.Endpoint]:
        """Return the published ports of this pod by their names in `publish`."""
        return {port.name: port.endpoint for port in self.ports if port.endpoint}

    def page(self, port: Port) -> tuple[str, int] | None:
        """Return the URL of the page at ``port``, and its HTTP status when ready; None without a page."""
        page = port.page
        if page is None or port.name not in self.published or self.auth.kind not in page.status:
            return None
        base = self.base_path if page.below_base_url else ""
        if self.hub.subdomain_host and port.name == "jupyterhub":  # pages have another host's name
            return f"http://{self.published[port.name]}{base}/hub/health", 200
        return f"http://{self.published[port.name]}{base}{page.path}", page.status[self.auth.kind]

    @property
    def base_path(self) -> str:
        """Return base_url without a slash at its end."""
        return self.base_url.rstrip("/")

    @property
    def url(self) -> str | None:
        """Return the hub's URL for a browser; None if it isn't published."""
        origin = self.hub.external_url or self.hub.subdomain_host
        return f"{origin}{self.base_path}" if origin else self.gateway_url or self.hub_url

    @property
    def hub_url(self) -> str | None:
        """Return the URL of the hub's own port; None if it isn't published."""
        return self._published_url("jupyterhub")

    @property
    def gateway_url(self) -> str | None:
        """Return the gateway's URL; None if it isn't published."""
        return self._published_url("gateway")

    def _published_url(self, name: str) -> str | None:
        return f"http://{self.published[name]}{self.base_path}" if name in self.published else None

    @property
    def proxy_address(self) -> str:
        """Return the address in the pod at which the hub's proxy listens; empty for all of them.

        Loopback if it isn't published. In a cluster a Service leads there instead, unless a front end does.
        """
        reached = self.engine and not set(FRONT_ENDS) & set(self.containers)
        loopback = "jupyterhub" not in self.published and not reached
        return self.hub.proxy_address or ("127.0.0.1" if loopback else "")

    @property
    def issuer(self) -> str:
        """Return the URL of the OpenID Connect provider; empty if there is none."""
        if self.auth.oidc_server or self.publish["oidc-provider"] is None:
            return self.auth.oidc_server or ""
        return f"http://{self.publish['oidc-provider']}"

    @property
    def slurm_elsewhere(self) -> bool:
        """Return whether the hub uses the Slurm of another host."""
        return "jupyterhub" in self.containers and "slurm" not in self.containers

    @property
    def proxy_apart(self) -> bool:
        """Return whether a cluster runs the hub's proxy in a pod of its own, so that it outlives the hub's.

        With Slurm or the bundled provider in the pod it can't be: their addresses are the pod's loopback.
        """
        return self.slurm_elsewhere and not set(IDENTITY) & set(self.containers)

    @property
    def proxy_container(self) -> str:
        """Return the container in which the hub's proxy runs."""
        return PROXY if self.engine and self.proxy_apart else "jupyterhub"

    @property
    def ssh_target(self) -> str:
        """Return the destination of the hub's ssh; port, key and known hosts are in its ssh_config."""
        return f"{names.SERVICE_ACCOUNT}@{self.slurm.ssh_hostname}"

    # -- users and sources -------------------------------------------------------------------------

    @property
    def users(self) -> tuple[str, ...]:
        """Return the names of the dev users, each once."""
        return tuple(dict.fromkeys(dev_user.user for dev_user in self.dev_users))

    @property
    def user(self) -> str:
        """Return the user that dummy authentication logs in; empty without dev users."""
        return self.auth.user or next(iter(self.users), "")

    @property
    def overlay_folders(self) -> tuple[Path, ...]:
        """Return the folders of `overlays`; relative ones are relative to the checkout."""
        return tuple(self.root / os.path.expanduser(overlay) for overlay in self.overlays)

    def working_copy(self, repository: str) -> Path:
        """Return the folder from which the development repository ``repository`` is installed.

        The bundled source is copied to `_dev_build_data/<repository>`. Other sources are cloned into
        `_dev_build_data/<repository>.<digest of the URL>`. A folder is used in place.
        """
        url = self.repositories[repository].url
        if url == "bundled" and self.stage == "prod":
            return self.bundled(repository)  # the released source, without a developer's edits
        if self.repositories[repository].is_folder:
            return (self.root / os.path.expanduser(url)).resolve()
        return working_copy(self.root, repository, url)

    def bundled(self, repository: str) -> Path:
        """Return the source of ``repository`` that this checkout contains."""
        return self.root / "containers" / REPOSITORIES[repository] / repository

    # -- variants ----------------------------------------------------------------------------------

    def completed(self) -> Environment:
        """Return the environment with the containers that other keys than `containers` add or remove.

        `slurm.accounting` adds one. An external provider removes the bundled provider's containers, and
        publishes the hub's port at the gateway's address, unless the definition publishes it elsewhere.
        """
        publish, containers = self.publish, self.containers
        if self.auth.is_external:
            address = publish["jupyterhub"] or publish["gateway"]
            publish = {**publish, "jupyterhub": address, **dict.fromkeys(IDENTITY)}
            containers = tuple(name for name in containers if name not in IDENTITY)
        if self.slurm.accounting and ACCOUNTING not in containers:
            containers = (*containers, ACCOUNTING)
        return self.model_copy(update={"publish": publish, "containers": containers})

    def with_ports(self, ports: Mapping[str, int]) -> Environment:
        """Return the environment with other port numbers, by their names in `publish`."""
        publish = {
            name: endpoint and endpoint.model_copy(update={"port": ports.get(name, endpoint.port)})
            for name, endpoint in self.publish.items()
        }
        return self.model_copy(update={"publish": publish})


def working_copy(root: Path, repository: str, url: str) -> Path:
    """Return the folder of the working copy of ``repository`` from ``url``, `bundled` or a Git URL."""
    folder = root / "containers" / REPOSITORIES[repository] / names.WORKING_COPIES
    return folder / (repository if url == "bundled" else f"{repository}.{digest(url)}")
