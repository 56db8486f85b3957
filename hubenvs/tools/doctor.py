"""Task `doctor`: examine this host before anything is up. Each finding has its remedy."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from ..console import Console
from ..definition.names import LABEL_CHECKOUT, checkout_id
from ..definition.read import readable_environments
from ..definition.schema import Endpoint
from ..deployment.existing import pod_name_of
from ..deployment.ports import port_problem
from ..deployment.sources import on_host
from ..engines.engine import Engine
from ..engines.findings import Finding, Result, diagnose, finding
from ..engines.host import python_index
from ..plan.images import debian_releases
from ..polling import poll
from ..web import http_status, without_password

# Seconds in which a published port must answer.
PATIENCE = 10


def doctor(root: Path, engine: Engine, console: Console, json: bool) -> bool:
    """Print the findings about this host; return whether all is in order."""
    findings = examine(root, engine)
    if json:
        console.result([item._asdict() | {"remedy": item.remedy or None} for item in findings])
    else:
        rows = [("ok" if item.ok else "FAIL", item.check, item.found, item.remedy) for item in findings]
        console.table(("", "check", "found", "remedy"), rows)
    return all(item.ok for item in findings)


def examine(root: Path, engine: Engine) -> list[Finding]:
    """Return the findings: the engine's about this host, then ours."""
    return [
        *diagnose(engine.images.version, engine.images.info),
        finding("git", _git),
        finding("ports", lambda: _ports(root, engine)),
        finding("published ports", lambda: _published(root, engine)),
        finding("Debian mirror", lambda: _mirrors(root)),
        finding("Python packages", _index),
        finding("checkout", lambda: _checkout(root)),
    ]


def _git() -> Result:
    path = shutil.which("git")
    return path is not None, path or "not installed", "run scripts/bootstrap"


def _ports(root: Path, engine: Engine) -> Result:
    containers = [container for container in engine.listing().containers if pod_name_of(container)]
    ours = {(port.address, port.host_port) for container in containers for port in container.ports}
    free = []
    for name, env in readable_environments(root).items():
        for published, endpoint in env.published.items():
            if problem := port_problem(endpoint, ours):
                remedy = f"end the program that has it, or use --set publish.{published}=127.0.0.1:PORT"
                return False, f"{endpoint} of {name} {problem}", remedy
            free.append(f"{endpoint} ({name})")
    return True, f"free, or used by this suite's pods: {', '.join(free)}", ""


def _published(root: Path, engine: Engine) -> Result:
    """Ask each published port of this checkout's running pods; all of them serve HTTP."""
    ours = [
        container
        for container in engine.listing().containers
        if container.labels.get(LABEL_CHECKOUT) == checkout_id(root) and container.state == "running"
    ]
    ports = {(port.address, port.host_port, container.pod) for container in ours for port in container.ports}
    for address, number, pod in sorted(ports):
        address = address.replace("0.0.0.0", "127.0.0.1")
        url = f"http://{Endpoint(address=address, port=number)}/"
        if not poll(partial(http_status, url), PATIENCE):
            remedy = f"if it is not just starting: {engine.lost_ports_remedy()}"
            return False, f"nothing answers at {url}, where {pod} is published", remedy
    return True, "those of running pods answer" if ours else "no pod is running", ""


def _mirrors(root: Path) -> Result:
    """Look for the Debian release of every environment at its mirror."""
    environments = readable_environments(root).values()
    wanted = {on_host(debian) for env in environments for debian in debian_releases(env)}
    mirrors = {(debian.mirror, debian.release) for debian in wanted if debian.mirror}
    if environments and not mirrors:
        return True, "mmdebstrap's default", ""
    result = (True, "no environment is defined", "")
    for mirror, release in sorted(mirrors):
        url = f"{mirror}/dists/{release}/InRelease"
        result = _reachable(url, "images can't be built: set debian.mirror to one you reach")
        if not result[0]:
            break
    return result


def _index() -> Result:
    url = python_index()
    if url is None:
        return True, "the default of uv", ""
    return _reachable(f"{url.rstrip('/')}/uv/", "images can't be built: is a proxy needed (https_proxy)?")


def _reachable(url: str, remedy: str) -> Result:
    status = http_status(url, timeout=10, proxied=True)
    shown = without_password(url)
    return status == 200, f"{shown} {'answers' if status == 200 else f'does not answer ({status})'}", remedy


def _checkout(root: Path) -> Result:
    return os.access(root, os.W_OK), str(root), "give the checkout to the user who works in it"
