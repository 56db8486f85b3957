"""Task `status`: the deployments that are up."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..console import Console
from ..definition.containers import PORTS
from ..definition.environment import Environment
from ..definition.read import read_environment
from ..definition.schema import Endpoint
from ..deployment import folder
from ..deployment.existing import Existing, all_existing
from ..engines.engine import Engine
from ..errors import DefinitionError, StateError
from ..session import Session
from ..stages.clone import working_copies
from ..stages.wait import hub_answers


def status(root: Path, engine: Engine, console: Console, json: bool) -> None:
    """Print the deployments, of this checkout and of others."""
    existing = all_existing(engine.listing()).values()
    rows = engine.programs.at_once([partial(_row, item, root, engine, console) for item in existing])
    if json:
        console.result({"environments": rows})
        return
    if not rows:
        console.say("status", "nothing is up")
    for row in rows:
        console.say(row["state"], f"{row['pod'] or row['env']}  {row['gateway_url'] or row['url'] or ''}")
        console.say("", ", ".join(f"{item['name']} {item['state']}" for item in row["containers"]))
        console.say("", f"volumes: {', '.join(row['volumes']) or 'none'}")
        if row["password_file"]:
            who = f" as {row['user']}" if row["user"] else ""
            console.say("", f"log in{who} with the password in {row['password_file']}")
        for item in row["repositories"]:
            edited = " (edited)" if item["edited"] else ""
            console.say("", f"{item['name']} {item['commit'] or 'no commit'}{edited} from {item['url']}")


def _row(existing: Existing, root: Path, engine: Engine, console: Console) -> dict[str, Any]:
    """Return the entry of a deployment for `status --json`."""
    path = existing.deploy_folder(root)
    env = _environment(existing, root)
    session = Session(env, engine, console) if env else None
    password = folder.password_file(env) if env and path else None
    state = existing.state(env)
    hub_url, gateway_url = (_published_url(existing, env, name) for name in ("jupyterhub", "gateway"))
    has_hub = session and "jupyterhub" in session.env.containers
    if state == "up" and session and has_hub and not hub_answers(session, hub_url):
        state = "starting"
    return {
        "env": existing.environment,
        "instance": existing.instance,
        "state": state,
        "url": hub_url or gateway_url,
        "gateway_url": gateway_url,
        "user": (env.user or None) if env and path else None,
        "password_file": str(password) if password and password.exists() else None,
        "pod": existing.pod_name if existing.pod else None,
        "containers": [{"name": item.name, "state": item.state} for item in existing.containers],
        "volumes": list(existing.volumes),
        "secrets": list(existing.secrets),
        "repositories": [item._asdict() for item in working_copies(session)] if session and path else [],
    }


def _environment(existing: Existing, root: Path) -> Environment | None:
    """Return the definition that the deployment was brought up with, else the one in envs/, else None."""
    path = existing.deploy_folder(root)
    with suppress(StateError):  # the status is shown even if the record is damaged
        if path and (recorded := folder.read_record(path).environment):
            return recorded
    with suppress(DefinitionError):
        return read_environment(root, existing.environment, instance=existing.instance)
    return None


def _published_url(existing: Existing, env: Environment | None, name: str) -> str | None:
    """Return the URL of port ``name`` as the engine reports it: the definition may have changed."""
    base_url = env.base_path if env else "/"
    for container in existing.containers:
        for port in container.ports:
            if port.container_port == PORTS[name].number:
                return f"http://{Endpoint(address=port.address, port=port.host_port)}{base_url}"
    return None
