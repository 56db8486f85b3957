"""Debian's registry, taken from its package without being installed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import STOP, http_status, wait_until

CONFIGURATION = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "{address}"}}
log: {{level: error}}
auth: {{htpasswd: {{realm: site, path: {folder}/htpasswd}}}}
"""
# The account of `credentials`.
PASSWORD = "right"
HTPASSWD = "site:$2b$04$dCaU7DGVs0cSwFmlzw7Cru5y2GDj9rHU3rKQ6vc.bc9CYYBphrtdK\n"


def fetched(folder: Path) -> bool:
    """Unpack the package into ``folder``, and return whether it could be had."""
    command = ("apt-get", "download", "-qq", "docker-registry")
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        subprocess.run(command, cwd=folder, check=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(("dpkg-deb", "--extract", package, folder), check=True)
        return True
    return False


@contextlib.contextmanager
def serving(folder: Path, address: str) -> Iterator[None]:
    """Serve the registry in ``folder`` at ``address``, to those with `credentials` of the right password.

    Podman has them meanwhile, and may use it without TLS.
    """
    (folder / "config.yml").write_text(CONFIGURATION.format(folder=folder, address=address))
    (folder / "htpasswd").write_text(HTPASSWD)
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    (folder / "auth.json").write_text(credentials(address, PASSWORD))
    # It takes settings from such variables, and podman has one of them.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = (folder / "usr/bin/docker-registry", "serve", folder / "config.yml")
    server = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONTAINERS_REGISTRIES_CONF", str(folder / "registries.conf"))
            patch.setenv("REGISTRY_AUTH_FILE", str(folder / "auth.json"))
            url = f"http://{address}/v2/"
            wait_until(lambda: http_status(url) == 401, STOP, "the registry doesn't answer")
            yield
    finally:
        server.terminate()
        server.wait()


def credentials(address: str, password: str) -> str:
    """Return the file of credentials that podman and a cluster's pull secret have."""
    word = base64.b64encode(f"site:{password}".encode()).decode()
    return json.dumps({"auths": {address: {"auth": word}}})
