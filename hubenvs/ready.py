"""Waiting until the pod answers: the hub's page and API, sshd seen from the hub, and Slurm's nodes."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from .commands import exec_argv
from .console import Console
from .engine import Engine
from .errors import StateError
from .model import PORTS, Environment

# Seconds between two looks; short, since a look costs little and a person waits.
INTERVAL = 0.1
# What sinfo says of a node that answers, whether or not there is room on it; after one that does not stands a "*".
ANSWERING = {"idle", "mix", "alloc", "comp", "drain", "drng", "resv", "maint", "plnd"}
# What the hub's log-in page answers to somebody who brings nothing: a form, or that a token is missing.
LOGIN_PAGE = {"dummy": 200, "oidc": 401}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the answer that it is."""

    def redirect_request(self, *_: object) -> None:
        return None


# The pod is on this host: a site's web proxy (http_proxy) would look for it on its own.
_DIRECT = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Probe:
    """Something that must come true: its name, the container whose logs explain why it doesn't, and the look."""

    name: str
    container: str
    look: Callable[[], bool]


def http_status(url: str, timeout: float = 5.0, proxied: bool = False) -> int | None:
    """Return the HTTP status that ``url`` answers with within ``timeout`` seconds, or None if nothing answers.

    A redirect is not followed. ``proxied`` says whether a web proxy that is set up (http_proxy and the like) is used.
    """
    try:
        with (urllib.request.urlopen if proxied else _DIRECT.open)(url, timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def hub_answers(env: Environment, engine: Engine) -> bool:
    """Return whether the hub's API answers behind the proxy in its pod; published or not.

    Before the hub has registered there, the proxy answers 404.
    """
    request = f"GET {env.base_url.rstrip('/')}/hub/api/ HTTP/1.0\r\n\r\n".encode()
    ask = exec_argv(env.container("jupyterhub"), "nc", "-w2", "127.0.0.1", str(PORTS["jupyterhub"]), interactive=True)
    return engine.run(ask, stdin=request, check=False).text.partition("\r\n")[0].endswith(" 200 OK")


def nodes_answer(states: str) -> bool:
    """Return whether all nodes of which sinfo printed ``states`` (%t, separated by white space) answer slurmctld."""
    # "-" after it says that the backfill scheduler has plans for the node, "$" that it is in a maintenance reservation.
    bare = {state.rstrip("-$") for state in states.split()}
    return bool(bare) and bare <= ANSWERING


def probes(env: Environment, engine: Engine) -> tuple[Probe, ...]:
    """Return what to wait for in ``env``: first what is asked over HTTP, which takes nothing from what is starting.

    Each of the others starts a program in a container, and is there by the time that the hub's page is.
    """
    hub, slurm = env.container("jupyterhub"), env.container("slurm")
    found = []
    if env.hub_url:
        page = f"{env.hub_url}/hub/login"
        found.append(Probe("hub page", "jupyterhub", lambda: http_status(page) == LOGIN_PAGE[env.auth.kind]))
    if "oidc-provider" in env.published:
        discovery = f"{env.issuer}/.well-known/openid-configuration"
        found.append(Probe("provider", "oidc-provider", lambda: http_status(discovery) == 200))
    # A browser that comes to the gateway is sent to the provider; to the hub's own port, the page is there.
    if env.gateway_url:
        found.append(Probe("gateway", "gateway", lambda: http_status(f"{env.gateway_url}/hub/login") == 302))
    if "jupyterhub" in env.containers:
        found.append(Probe("hub", "jupyterhub", lambda: hub_answers(env, engine)))
    if "slurm" in env.containers:
        sinfo = exec_argv(slurm, "sinfo", "--noheader", "--Node", "--format=%t")
        found.append(Probe("Slurm", "slurm", lambda: nodes_answer(engine.run(sinfo, check=False).text)))
    if "slurm" in env.containers and "jupyterhub" in env.containers:
        # ssh as the hub does it; what it opens is the connection that the hub then shares.
        ssh = exec_argv(hub, "ssh", env.ssh_target, "true")
        found.append(Probe("SSH", "slurm", lambda: engine.run(ssh, check=False).returncode == 0))
    return tuple(found)


def wait(env: Environment, engine: Engine, console: Console, timeout: float | None = None) -> None:
    """Return when all of ``env`` answers.

    Raises StateError after ``timeout`` seconds (by default what the environment says), or at once when a container has
    ended, with the last lines that the container at fault logged.
    """
    started = time.monotonic()
    deadline = started + (timeout or env.wait_timeout)
    found, looked = probes(env, engine), started
    for probe in found:
        with console.busy("wait", probe.name):
            while not probe.look():
                if (now := time.monotonic()) > looked + 1:
                    require_running(env, engine)
                    looked = now
                if now > deadline:
                    raise StateError(
                        f"{probe.name} did not answer within {timeout or env.wait_timeout} s",
                        f"`invoke logs {env.options}` shows more",
                        engine.logs(env.container(probe.container)),
                    )
                time.sleep(INTERVAL)
    console.say("wait", f"ready after {time.monotonic() - started:.1f} s: {', '.join(probe.name for probe in found)}")
    if wanted := {item.name for item in env.slurm.reservations}:
        listing = engine.run(exec_argv(env.container("slurm"), "scontrol", "show", "reservation"), check=False).text
        for name in sorted(wanted - set(re.findall(r"^ReservationName=(\S+)", listing, re.MULTILINE))):
            console.say("wait", f"Slurm has refused reservation {name}: `invoke logs {env.options}` shows why")


def require_running(env: Environment, engine: Engine) -> None:
    """Raise StateError if a container of ``env`` isn't running."""
    containers = [env.container(name) for name in env.containers]
    described = "{{.Name}} {{.State.Status}} {{.State.ExitCode}}"
    listing = engine.run(("podman", "inspect", "--format", described, *containers), check=False).text
    states = {name: rest for name, _, rest in (line.partition(" ") for line in listing.splitlines())}
    for container in containers:
        status, _, code = states.get(container, "").partition(" ")
        if not status:
            raise StateError(f"container {container} is not there", f"invoke up {env.options}")
        if status != "running":
            raise StateError(
                f"container {container} is {status} (exit status {code})",
                f"`invoke logs {env.options}` shows more, `invoke up {env.options}` begins anew",
                engine.logs(container),
            )
