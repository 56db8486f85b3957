"""What `status` shows of each deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import deployed, load, ready, repositories, state
from .definition import Endpoint
from .deployed import Deployed
from .engine import Engine
from .model import PASSWORD_KEY, PORTS, Environment


def status(root: Path, engine: Engine) -> list[dict[str, Any]]:
    """Return what `status --json` prints, one entry a deployment."""
    definitions = load.definitions(root)
    return [_row(found, root, definitions, engine) for found in deployed.find(engine.holdings()).values()]


def _row(found: Deployed, root: Path, definitions: dict[str, Environment], engine: Engine) -> dict[str, Any]:
    folder = found.folder(root)
    env = load.brought_up(folder) if folder else None
    if env is None and (defined := definitions.get(found.environment)):
        env = defined.model_copy(update={"instance": found.instance_name})
    password = folder / state.SECRETS / PASSWORD_KEY if folder else None
    state_now = found.state(env)
    hub_url, gateway_url = (_published_url(found, env, name) for name in ("jupyterhub", "gateway"))
    return {
        "env": found.environment,
        "instance": found.instance_name,
        "state": state_now if state_now != "up" or _answers(env, engine) else "starting",
        "url": hub_url or gateway_url,
        "gateway_url": gateway_url,
        "user": (env.user or None) if env and folder else None,
        "password_file": str(password) if password and password.exists() else None,
        "pod": found.instance if found.pod else None,
        "containers": [{"name": item["Names"][0], "state": item["State"]} for item in found.containers],
        "volumes": list(found.volumes),
        "secrets": list(found.secrets),
        "repositories": repositories.describe(env, engine) if env and folder else [],
    }


def _published_url(found: Deployed, env: Environment | None, name: str) -> str | None:
    """Return where container ``name`` is published, as the engine has it, whatever the definition says now."""
    path = env.base_url.rstrip("/") if env else "/"
    for container in found.containers:
        for port in container.get("Ports") or ():
            if port.get("container_port") == PORTS[name] and port.get("host_port"):
                endpoint = Endpoint(address=port.get("host_ip") or "127.0.0.1", port=port["host_port"])
                return f"http://{endpoint}{path}"
    return None


def _answers(env: Environment | None, engine: Engine) -> bool:
    """Return whether the hub of ``env`` answers; one whose definition isn't known is taken to."""
    return env is None or "jupyterhub" not in env.containers or ready.hub_answers(env, engine)
