"""Task `debug`: the hub under a debugger."""

from __future__ import annotations

import json
import socket

from ..definition.schema import Endpoint
from ..deployment.ports import port_problem
from ..errors import StateError
from ..session import Session
from .reload import WARM, require_development
from .shell import find_container
from .traceback_location import failure_lines

# debugpy's default port, inside the pod.
PORT = 5678


def debug(session: Session, port: int) -> None:
    """Run the hub under debugpy, reached at ``port`` of this host's loopback, until Ctrl-C.

    Raises StateError if the port is taken, the environment isn't one for development, or the hub doesn't
    start.
    """
    require_development(session)
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
            relay = engine.exec_command(hub, "nc", "-N", "127.0.0.1", str(PORT), interactive=True)
            session.programs.relay(server, relay)
    except KeyboardInterrupt:
        pass
    finally:
        ended = engine.exec(hub, *WARM, "debug", "0", check=False)
    if ended.returncode != 0:
        lines = failure_lines(ended.text)
        raise StateError("the hub does not start any more", "its log lines are above", lines)
    session.console.say("debug", "ended; the hub runs without it again")


def _launch_json(session: Session, port: int) -> str:
    working_copy = session.env.working_copy("bricsauthenticator")
    attach = {"type": "debugpy", "request": "attach", "name": session.env.name}
    mapping = {"localRoot": str(working_copy), "remoteRoot": "/usr/src/bricsauthenticator"}
    return json.dumps({**attach, "connect": {"host": "127.0.0.1", "port": port}, "pathMappings": [mapping]})
