"""Bills of materials: packages as CycloneDX names them."""

from __future__ import annotations

import json

from hubenvs.plan.sbom import components, document

LOCK = {
    "node_modules/@a/b": {"version": "1.0.0"},
    "node_modules/ws": {"version": "8.1.0"},
    "node_modules/c/node_modules/ws": {"version": "7.0.0"},
}
LISTING = (
    "deb\tlibstdc++6\t1:14.2.0-19+b1\tamd64\npypi\tjupyter_server\t2.17.0\npypi\tjupyter_server\t2.17.0\n"
    "generic\tnode\t22.21.1\nnpm\t" + json.dumps({"packages": LOCK})
)


def test_packages_have_their_purls() -> None:
    """Escaped as the purl specification says, each package once."""
    assert [item["purl"] for item in components(LISTING)] == [
        "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1?arch=amd64",
        "pkg:generic/node@22.21.1",
        "pkg:npm/%40a/b@1.0.0",
        "pkg:npm/ws@7.0.0",
        "pkg:npm/ws@8.1.0",
        "pkg:pypi/jupyter-server@2.17.0",
    ]


def test_an_image_has_one_bill() -> None:
    """Which depends on nothing but the image and what is in it."""
    one, other = (document("localhost/x/hub:dev-1", text, "0.2.0") for text in (LISTING, LISTING + "\n"))
    assert one == other
    assert one["serialNumber"] != document("localhost/x/hub:dev-2", LISTING, "0.2.0")["serialNumber"]
