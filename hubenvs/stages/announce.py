"""Part of `up`: the messages at its end."""

from __future__ import annotations

from pathlib import Path

from ..definition.layers import shown
from ..deployment import folder
from ..deployment.existing import all_existing
from ..session import Session


def announce(session: Session) -> None:
    """Say where the hub is, who can log in, and what to do next."""
    env, say = session.env, session.console.say
    if "jupyterhub" not in env.containers:
        say("up", f"{env.pod}: {', '.join(env.containers)}")
        return
    say("up", env.url or "the hub is not published on this host")
    path = folder.password_file(env)
    password = f" with the password in {shown(path, Path.cwd())}" if path else ""
    if env.auth.kind == "dummy":
        say("", f"log in as {env.user}{password}")
    elif env.gateway_url:
        say("", f"choose who to be at the provider's page{password}: {', '.join(env.users)}")
    else:
        say("", f"log in with an ID token of {env.issuer} in the header X-Auth-Id-Token")
    for pod in _pods_sharing_cookies(session):
        hint = f"`up` with --set base_url=/{env.instance or env.name} keeps them apart"
        say("browser", f"mixes up this hub's cookies with those of {pod}, at the same host and path; {hint}")
    for remark in session.engine.remarks(env.pod, session.published_pages):
        say(*remark)
    which = env.options
    say("", f"next: invoke verify {which}; invoke logs {which} --follow; invoke down {which}")


def _pods_sharing_cookies(session: Session) -> list[str]:
    """Return this checkout's other pods whose hub is at the same path of this host: cookies know no ports.

    JupyterLab reads one of the cookies by its name, so a name of each deployment's own is no remedy.
    """
    env = session.env
    if env.engine or env.url is None:
        return []
    others = {
        other.pod
        for other in folder.recorded_environments(env.root).values()
        if other.url and not other.engine and other.base_path == env.base_path and other.pod != env.pod
    }
    running = all_existing(session.engine.listing()) if others else {}
    return sorted(pod for pod in others if pod in running and running[pod].pod)
