"""The ports of this host that an environment publishes: whether they can be had, and which an instance gets."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Container

from . import state
from .definition import Endpoint
from .engine import Engine
from .errors import PortError
from .model import Environment


def require_free(env: Environment, engine: Engine, held: Container[int] = ()) -> None:
    """Raise PortError, saying who has it if that can be told, unless all that ``env`` publishes can be listened on.

    ``held`` are ports that the deployment has itself.
    """
    for container, endpoint in env.published.items():
        if endpoint.port in held:
            continue
        if problem := port_problem(endpoint):
            holder = _holder(endpoint.port, engine) if problem == "is taken" else ""
            by = f" by {holder}" if holder else ""
            raise PortError(
                f"publish.{container}: port {endpoint.port} {problem}{by}", f"--set publish.{container}=127.0.0.1:PORT"
            )


def port_problem(endpoint: Endpoint) -> str | None:
    """Return what keeps this user from listening on ``endpoint``, or None."""
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((endpoint.address, endpoint.port))
    except PermissionError:
        return "needs root (it is below 1024)"
    except OSError as error:
        return "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
    return None


def _holder(port: int, engine: Engine) -> str:
    """Return which pod, container or program has ``port``; empty if that can't be told."""
    for container in engine.json(("podman", "ps", "--pod", "--format=json")):
        if any(published.get("host_port") == port for published in container.get("Ports") or ()):
            pod = container.get("PodName")
            return f"pod {pod}" if pod else f"container {container['Names'][0]}"
    if shutil.which("ss") is None:
        return ""
    listing = engine.run(("ss", "-Hltnp", f"sport = :{port}"), check=False).text
    return listing.partition('users:(("')[2].partition('"')[0]


def with_ports(env: Environment, declared: Container[str]) -> Environment:
    """Return ``env`` with the ports that this deployment has.

    An instance gets those it had before, or the next free ones, for each container whose port isn't ``declared``. The
    hub's API stays where compute nodes were told that it is.
    """
    if env.instance is None:
        return env
    record = state.read_record(env.deploy_folder)
    stay = {name for name in env.published if name in declared or name == "hub-api"}
    ports = {name: endpoint.port for name, endpoint in env.published.items() if name in stay}
    for name, endpoint in env.published.items():
        if name in stay:
            continue
        free = (
            port
            for port in range(endpoint.port, min(endpoint.port + 1000, 65536))
            if port not in ports.values() and port_problem(endpoint.model_copy(update={"port": port})) is None
        )
        before = record.get(name, "")
        ports[name] = int(before) if before.isdecimal() and int(before) < 65536 else next(free, endpoint.port)
    return env.model_copy(update={"publish": env.publish.on(ports)})
