"""Task `debug`: the hub under a debugger."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from ..definition.containers import SOURCES
from ..definition.schema import Endpoint
from ..deployment.ports import port_problem
from ..errors import StateError
from ..session import Session
from .reload import WARM, require_development
from .shell import find_container
from .traceback_location import failure_lines

# Inside the pod, where the hub connects to the debugger's adapter; editors are relayed to the socket.
PORT = 5678
SOCKET = "/run/jupyterhub/debug.socket"
# The kernel's table of TCP connections: proc_pid_net(5).
CONNECTIONS = Path("/proc/net/tcp")
ESTABLISHED = "01"


def debug(session: Session, port: int) -> None:
    """Run the hub under debugpy, reached at ``port`` of this host's loopback, until Ctrl-C.

    Only the user who runs the task can connect. Raises StateError if the port is taken, the environment isn't
    one for development, the system doesn't say who connects, or the hub doesn't start.
    """
    session.require_here("debug", f"invoke logs {session.env.options} --container jupyterhub --follow")
    require_development(session)
    if not CONNECTIONS.exists():
        reason = f"there is no {CONNECTIONS}, which says whose a connection is: everybody here could attach"
        raise StateError(reason, "run this on Linux")
    engine, hub = session.engine, find_container(session, "jupyterhub")
    endpoint = Endpoint(address="127.0.0.1", port=port)
    if problem := port_problem(endpoint):
        raise StateError(f"--port {port}: it {problem}", "choose another")
    started = engine.exec(hub, *WARM, "debug", str(PORT), check=False)
    try:
        if started.returncode != 0:
            lines = failure_lines(started.text)
            raise StateError("the hub does not start under debugpy", "its log lines are above", lines)
        with socket.create_server((endpoint.address, endpoint.port)) as server:
            session.console.say("debug", f"attach to {endpoint}; Ctrl-C ends it. For launch.json of VS Code:")
            session.console.say("", _launch_json(session, port))
            relay = engine.exec_command(hub, "nc", "-N", "-U", SOCKET, interactive=True)
            session.programs.relay(server, relay, accepts=_is_ours)
    except KeyboardInterrupt:
        pass
    finally:
        ended = engine.exec(hub, *WARM, "debug", "0", check=False)
    if ended.returncode != 0:
        lines = failure_lines(ended.text)
        raise StateError("the hub does not start any more", "its log lines are above", lines)
    session.console.say("debug", "ended; the hub runs without it again")


def _is_ours(connection: socket.socket) -> bool:
    """Return whether the other end of ``connection``, on this host's loopback, belongs to the task's user."""
    ours = {str(os.geteuid()), os.environ.get("SUDO_UID", str(os.geteuid()))}
    ends = [_proc_address(*connection.getpeername()), _proc_address(*connection.getsockname())]
    for line in CONNECTIONS.read_text().splitlines()[1:]:
        fields = line.split()
        # A socket that its process has closed counts as root's, and has no inode.
        if fields[1:3] == ends and fields[3] == ESTABLISHED and fields[9] != "0":
            return fields[7] in ours
    return False


def _proc_address(address: str, port: int) -> str:
    """Return an IPv4 address and a port as the kernel's table has them."""
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f"{number:08X}:{port:04X}"


def _launch_json(session: Session, port: int) -> str:
    working_copy = session.env.working_copy("bricsauthenticator")
    attach = {"type": "debugpy", "request": "attach", "name": session.env.name}
    mapping = {"localRoot": str(working_copy), "remoteRoot": f"{SOURCES}/bricsauthenticator"}
    return json.dumps({**attach, "connect": {"host": "127.0.0.1", "port": port}, "pathMappings": [mapping]})
