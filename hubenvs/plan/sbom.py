"""A software bill of materials of an image, as CycloneDX, from the records of its package managers."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import quote

# Shell script for a container of the image: prints `deb`, `pypi` and `npm` records of the installed packages,
# and a `generic` one of Node.js where it is no package's.
# Debian's own Python packages are `deb` records. npm keeps a lock file of the packages that it has installed.
LIST = r"""
dpkg-query --show --showformat='deb\t${Package}\t${Version}\t${Architecture}\n'
find / -xdev -path /usr/lib/python3 -prune -o -path '*.dist-info/METADATA' -print | while read -r file; do
    tr -d '\r' <"$file" | awk '/^Name:/ {name = $2} /^Version:/ {version = $2} /^$/ {exit}
        END {printf "pypi\t%s\t%s\n", name, version}'
done
find / -xdev -path '*/node_modules/.package-lock.json' | while read -r file; do
    printf 'npm\t'; tr -d '\n' <"$file"; echo
done
[ ! -f /usr/local/bin/node ] || printf 'generic\tnode\t%s\n' "$(node --version | tr -d v)"
"""


def components(listing: str) -> list[dict[str, str]]:
    """Return a component for each package in ``listing``, the output of `LIST`, sorted by its purl."""
    by_purl: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        kind, _, record = line.partition("\t")
        packages = _npm(record) if kind == "npm" else [_package(kind, *record.split("\t"))]
        for name, version, purl in packages:
            component = {"type": "library", "bom-ref": purl, "name": name, "version": version}
            by_purl[purl] = {**component, "purl": purl}
    return [by_purl[purl] for purl in sorted(by_purl)]


def _package(kind: str, name: str, version: str, architecture: str = "") -> tuple[str, str, str]:
    """Return name, version and purl of a Debian or Python package, or of a program without one."""
    origin, query = f"{kind}/", ""
    if kind == "deb":
        origin, query = "deb/debian/", f"?arch={architecture}"
    written = re.sub(r"[-_.]+", "-", name).lower() if kind == "pypi" else quote(name)
    return name, version, f"pkg:{origin}{written}@{quote(version, safe=':')}{query}"


def _npm(lock: str) -> list[tuple[str, str, str]]:
    """Return name, version and purl of each package in a lock file of npm."""
    packages = []
    for path, item in json.loads(lock)["packages"].items():
        name, version = path.rpartition("node_modules/")[2], item["version"]
        packages.append((name, version, f"pkg:npm/{quote(name)}@{quote(version, safe=':')}"))
    return packages


def document(image: str, listing: str, version: str) -> dict[str, Any]:
    """Return the bill of ``image``. ``listing``: the output of `LIST`. ``version``: this suite's.

    The same image always has the same bill: it has no date.
    """
    name, _, tag = image.rpartition(":")
    items = components(listing)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"{image} {json.dumps(items)}").urn,
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "hubenvs", "version": version}]},
            "component": {"type": "container", "bom-ref": image, "name": name, "version": tag},
        },
        "components": items,
    }
