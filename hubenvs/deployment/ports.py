"""Ports of this host: whether they can be bound, and which ones an instance gets."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Collection, Container, Mapping
from typing import TYPE_CHECKING

from ..engines.engine import Engine
from ..errors import PortError

if TYPE_CHECKING:
    from ..definition.environment import Environment
    from ..definition.schema import Endpoint

# How many ports after the declared one an instance may get.
RANGE = 1000
TAKEN = "is taken"


def require_free(env: Environment, engine: Engine, held: Collection[tuple[str, int]] = ()) -> None:
    """Raise PortError, with the holder if it is known, unless every port of ``env`` can be published.

    ``held``: addresses and ports that the deployment's own pod has bound.
    """
    for name, endpoint in env.published.items():
        if problem := engine.address_problem(endpoint.address):
            hint = (
                f"--set publish.{name}=127.0.0.1:{endpoint.port}, and a web server of this host's before it"
            )
            raise PortError(f"publish.{name}: {endpoint} {problem}", hint)
        if problem := port_problem(endpoint, held):
            holder = _holder(endpoint.port, engine) if problem == TAKEN else ""
            by = f" by {holder}" if holder else ""
            hint = f"--set publish.{name}=127.0.0.1:PORT"
            if holder == "kubectl":  # somebody's browser uses it
                hint = f"end that `kubectl port-forward` and start it again after `up`, or {hint}"
            raise PortError(f"publish.{name}: port {endpoint.port} {problem}{by}", hint)


def port_problem(endpoint: Endpoint, held: Collection[tuple[str, int]] = ()) -> str | None:
    """Return why this user can't bind ``endpoint``, or None; ``held`` may have bound it."""
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((endpoint.address, endpoint.port))
    except PermissionError:
        return "needs root (it is below 1024)"
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"can't be used ({error.strerror})"
        own = [endpoint.model_copy(update={"address": address, "port": port}) for address, port in held]
        return None if any(map(endpoint.conflicts_with, own)) else TAKEN
    return None


def _holder(port: int, engine: Engine) -> str:
    """Return the pod, container or program that has bound ``port``; empty if it can't be found."""
    for container in engine.listing().containers:
        if any(published.host_port == port for published in container.ports):
            return f"pod {container.pod}" if container.pod else f"container {container.name}"
    if shutil.which("ss") is None:
        return ""
    listing = engine.programs.run(("ss", "-Hltnp", f"sport = :{port}"), check=False).text
    return listing.partition('users:(("')[2].partition('"')[0]


def instance_ports(env: Environment, declared: Container[str], previous: Mapping[str, int]) -> dict[str, int]:
    """Return the ports of an instance by their names in `publish`; none if ``env`` isn't one.

    It gets its ``previous`` port, or the next free one, for each name that isn't ``declared``. The
    hub's API stays at the port that compute nodes know.
    """
    if env.instance is None:
        return {}
    published = env.published
    fixed = {name: published[name].port for name in published if name in declared or name == "hub-api"}
    kept = {name: previous[name] for name in published if name in previous}
    ports = {name: port for name, port in kept.items() if port not in fixed.values()} | fixed
    for name, endpoint in published.items():
        if name not in ports:
            ports[name] = _next_free(endpoint, ports.values())
    return ports


def _next_free(endpoint: Endpoint, taken: Container[int]) -> int:
    for port in range(endpoint.port, min(endpoint.port + RANGE, 65536)):
        if port not in taken and port_problem(endpoint.model_copy(update={"port": port})) is None:
            return port
    return endpoint.port
