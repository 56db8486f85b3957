"""For whoever develops the two packages: their own tests against what will run, and the hub under a debugger."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

from . import images, inside
from .commands import exec_argv
from .console import Console
from .definition import Endpoint
from .engine import Engine
from .errors import DefinitionError, StateError, suggestion
from .model import Environment
from .names import REPOSITORIES
from .ports import port_problem
from .reload import WARM, reason, require_development

# debugpy's own default.
PORT = 5678
# The Python that a working copy is installed for, in its image.
PYTHONS = {"jupyterhub": "python3", "slurm": "/opt/slurmspawner_wrappers/bin/python"}


def test_argv(repository: str, tag: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs the tests of ``repository`` in a container of the image ``tag``."""
    python = PYTHONS[REPOSITORIES[repository]]
    options = ("--rm", "--init", "--network=none", f"--workdir=/usr/src/{repository}", "--entrypoint=")
    return ("podman", "run", *options, tag, python, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def test_repository(
    env: Environment, repository: str, arguments: Sequence[str], engine: Engine, console: Console
) -> int:
    """Run the tests of the working copy of ``repository`` in its image, built first; return their exit status."""
    if repository not in REPOSITORIES:
        raise DefinitionError(f"{repository}: no such repository", suggestion(repository, REPOSITORIES))
    container = REPOSITORIES[repository]
    if container not in env.containers or env.stage != "dev":
        raise DefinitionError(f"--env {env.name}: does not install {repository} for development", "choose another")
    build = images.of_containers(env, images.build(env, engine, console))[container]
    console.say("test", f"{repository} in {build.tag}")
    return engine.run(test_argv(repository, build.tag, arguments), terminal=True, check=False, timeout=None).returncode


def debug(env: Environment, port: int, engine: Engine, console: Console) -> None:
    """Run the hub of ``env`` under debugpy, reached by ``port`` of this host's loopback, until Ctrl-C.

    Raises StateError if the port is taken, or the hub can't be started so or isn't one for development.
    """
    require_development(env)
    hub = inside.container(env, engine, "jupyterhub")
    endpoint = Endpoint(address="127.0.0.1", port=port)
    if problem := port_problem(endpoint):
        raise StateError(f"--port {port}: it {problem}", "choose another")
    started = engine.run(exec_argv(hub, *WARM, "debug", str(PORT)), check=False)
    try:
        if started.returncode != 0:
            raise StateError("the hub does not start under debugpy", "what it logged is above", reason(started.text))
        mapping = {
            "localRoot": str(env.working_copy("bricsauthenticator")),
            "remoteRoot": "/usr/src/bricsauthenticator",
        }
        attach = {
            "type": "debugpy",
            "request": "attach",
            "name": env.name,
            "connect": {"host": "127.0.0.1", "port": port},
        }
        with socket.create_server((endpoint.address, endpoint.port)) as server:
            console.say("debug", f"attach to {endpoint}; Ctrl-C ends it. For launch.json of VS Code:")
            console.say("", json.dumps({**attach, "pathMappings": [mapping]}))
            engine.relay(server, exec_argv(hub, "nc", "-N", "127.0.0.1", str(PORT), interactive=True))
    except KeyboardInterrupt:
        pass
    finally:
        ended = engine.run(exec_argv(hub, *WARM, "debug", "0"), check=False)
    if ended.returncode != 0:
        raise StateError("the hub does not start any more", "what it logged is above", reason(ended.text))
    console.say("debug", "ended; the hub runs without it again")
