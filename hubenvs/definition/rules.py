"""Rules about several keys of a definition at once. Each raises ValueError with ``key: what is wrong``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from urllib.parse import urlsplit

from .containers import ACCOUNTING, FRONT_ENDS, IDENTITY, REPOSITORIES, TUNNEL
from .environment import Environment
from .names import LOOPBACK, POD_NAME_LENGTH, SECRET_NAME_LENGTH
from .schema import DevUser, OnNodes, Reservation


def check_rules(env: Environment) -> None:
    """Raise ValueError for the first rule that ``env`` breaks."""
    _engine(env)
    _containers(env)
    _slurm(env)
    _published_ports(env)
    if env.slurm_elsewhere:
        _site(env)
    if TUNNEL in env.containers and env.zenith.server_address is None:
        raise ValueError("zenith.server_address: not set; it is the tunnel's other end")
    if env.auth.kind == "oidc" and "jupyterhub" in env.containers:
        _provider(env)
    if env.auth.user is not None and env.auth.user not in env.users:
        raise ValueError(f"auth.user: {env.auth.user!r} is not in dev_users ({', '.join(env.users)})")


def check_names(env: Environment) -> None:
    """Raise ValueError unless the names of ``env``, complete with all its containers, are short enough."""
    secret = max(len(secret.name) for secret in env.secrets)
    if (excess := max(len(env.pod) - POD_NAME_LENGTH, secret - SECRET_NAME_LENGTH)) > 0:
        pod = f"{env.pod[:POD_NAME_LENGTH]}…"
        raise ValueError(f"instance: {excess} characters too long (the pod would be {pod})")


def _engine(env: Environment) -> None:
    for key in ("context", "namespace") if env.engine else ():
        if getattr(env.kubernetes, key) is None:
            raise ValueError(f"kubernetes.{key}: not set; the current one is never taken")
    if env.engine and env.network:
        raise ValueError("network: a cluster has its own")
    if env.kubernetes.ingress and (
        TUNNEL in env.containers or {"gateway", "jupyterhub"} & set(env.containers) != {"jupyterhub"}
    ):
        problem = "users come through the tunnel, or the gateway sends them to the address in `publish`"
        raise ValueError(f"kubernetes.ingress: {problem}")


def _containers(env: Environment) -> None:
    if len(set(env.containers)) < len(env.containers):
        raise ValueError("containers: one of them is named twice")
    for name in REPOSITORIES.values():
        if env.stage == "dev" and env.images[name].image:
            problem = "a prebuilt image can't contain your working copy; use `stage: prod`"
            raise ValueError(f"images.{name}.image: {problem}")
    if env.hub.subdomain_host and env.hub.external_url:
        raise ValueError("hub.external_url: hub.subdomain_host is where people find the hub; leave this null")
    if env.hub.subdomain_host and (env.kubernetes.ingress or set(FRONT_ENDS) & set(env.containers)):
        raise ValueError("hub.subdomain_host: gateway, tunnel and ingress have one host name; leave it null")
    if ACCOUNTING in env.containers and not env.slurm.accounting:
        raise ValueError("containers: accounting comes with `slurm.accounting: true`, and only with that")


def _slurm(env: Environment) -> None:
    slurm = env.slurm
    if sum(partition.default for partition in slurm.partitions) != 1:
        raise ValueError("slurm.partitions: exactly one partition has `default: true`")
    _nodes("partitions", slurm.partitions, slurm.nodes)
    _nodes("reservations", slurm.reservations, slurm.nodes)
    if slurm.reservations and "slurm" not in env.containers:
        raise ValueError("slurm.reservations: there is no Slurm in this pod to make them in")
    for index, reservation in enumerate(slurm.reservations):
        _reservation(f"slurm.reservations.{index}", reservation, env.dev_users, slurm.accounting)
    if slurm.accounting and "slurm" not in env.containers:
        raise ValueError("slurm.accounting: there is no Slurm in this pod to account for")


def _nodes(key: str, items: Sequence[OnNodes], nodes: int) -> None:
    """Require that ``items`` (slurm.``key``) have different names, and nodes among node1 to node<nodes>."""
    for index, item in enumerate(items):
        if item.name in (earlier.name for earlier in items[:index]):
            raise ValueError(f"slurm.{key}.{index}.name: {item.name!r} is given twice")
        if unknown := item.unknown_nodes(nodes):
            raise ValueError(f"slurm.{key}.{index}.nodes: {unknown} is not among {nodes} node(s)")


def _reservation(key: str, item: Reservation, dev_users: Sequence[DevUser], accounting: bool) -> None:
    """Require that the reservation is for users or accounts that Slurm knows."""
    if bool(item.users) == bool(item.accounts):
        raise ValueError(f"{key}: say in users or in accounts whom it is for, and not in both")
    if item.accounts and not accounting:
        raise ValueError(f"{key}.accounts: there are none without `slurm.accounting: true`")
    for name in sorted(set(item.users) - {user.account for user in dev_users}):
        raise ValueError(f"{key}.users: {name!r} is not in dev_users")
    for name in sorted(set(item.accounts) - {user.project for user in dev_users}):
        raise ValueError(f"{key}.accounts: {name!r} is not a project of dev_users")


def _published_ports(env: Environment) -> None:
    published = env.completed().published
    for one, other in itertools.combinations(published, 2):
        if published[one].conflicts_with(published[other]):
            raise ValueError(f"publish.{other}: {published[other]} is taken by publish.{one}")


def _site(env: Environment) -> None:
    """Require that servers on another host's Slurm can reach the hub."""
    if env.publish["hub-api"] is None and not env.engine:  # in a cluster a Service has it
        raise ValueError("publish.hub-api: an address of this host that the compute nodes reach is missing")
    if urlsplit(env.slurm.hub_connect_url).hostname in LOOPBACK:
        raise ValueError("slurm.hub_connect_url: on a compute node this is the node itself, not the hub")


def _provider(env: Environment) -> None:
    """Require exactly one OpenID Connect provider, reachable for the hub and a browser."""
    auth = env.auth
    if auth.user is not None:
        raise ValueError("auth.user: only dummy authentication logs a user in by itself")
    if auth.provider == "external":
        if not auth.oidc_server:
            raise ValueError("auth.oidc_server: the URL of the external provider (its issuer) is missing")
        return
    if auth.oidc_server:
        raise ValueError("auth.oidc_server: set auth.provider to external to use this provider")
    if auth.proxy:
        raise ValueError("auth.proxy: the bundled provider is in the pod, no web proxy leads there")
    if env.hub.external_url:
        problem = "the bundled provider's gateway is found at `publish.gateway` only, without TLS"
        raise ValueError(f"hub.external_url: {problem}; leave this null")
    for container in IDENTITY:
        if container not in env.containers:
            raise ValueError(f"containers: {container} is missing, which the bundled provider needs")
        if env.publish[container] is None:
            raise ValueError(f"publish.{container}: an address that a browser can open is needed")
