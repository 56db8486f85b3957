"""Hubs of several versions of JupyterHub, one after the other, on one database, with a server that goes on running.

TEST_HUBS names the Python of each, oldest first, separated by colons; without it nothing is tested.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from conftest import OPTIONS, Hub, Provider, until
from constants import API_TOKEN

PYTHONS = os.environ.get("TEST_HUBS", "").split(":")
DATABASE = "jupyterhub.sqlite"

pytestmark = pytest.mark.skipif(len(PYTHONS) < 2, reason="TEST_HUBS doesn't name two Pythons")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub of the oldest version, with alice logged in and her server running."""
    hub = Hub(tmp_path_factory.mktemp("old"), Provider())
    hub.python = PYTHONS[0]
    hub.start()
    assert hub.login(hub.provider.token())[0] == 302
    body = json.dumps(OPTIONS)
    hub.send("POST", f"/api{hub.path()}", [("Authorization", f"token {API_TOKEN}")], body).close()
    until(lambda: (hub.server() or {}).get("ready"))
    yield hub
    hub.stop()
    for pid in hub.slurm.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def version(hub: Hub) -> str:
    """The version of JupyterHub that runs."""
    return str(hub.api("GET", "/")[1]["version"])


def seen(hub: Hub, token: str, session: list[tuple[str, str]]) -> dict[str, object]:
    """What has to survive: users, auth state, API token, log-in and server."""
    users = hub.api("GET", "/users")[1]
    until(lambda: hub.server()["ready"])
    status, _, answer = hub.request("GET", "/api/user", [("Authorization", f"token {token}")])
    server = hub.server()
    return {
        "users": sorted(user["name"] for user in users),
        "auth state": hub.api("GET", "/users/alice")[1]["auth_state"],
        "token": (status, json.loads(answer)["name"]),
        "log-in": hub.request("GET", "/home", session)[0],
        "server": (server["started"], server["user_options"], hub.jobs()),
    }


def test_upgrade_and_way_back(old: Hub) -> None:
    """Each newer hub has what the older had; the first starts only with its backup, and has it too."""
    hub = old
    assert hub.api("POST", "/users/bob")[0] == 201
    token = hub.api("POST", "/users/alice/tokens", {"note": "kept"})[1]["token"]
    session = hub.session(hub.provider.token())
    before = seen(hub, token, session)
    assert before["auth state"]
    assert (before["token"], before["log-in"]) == ((200, "alice"), 200)
    versions = [version(hub)]
    hub.stop()
    backup = shutil.copy(hub.folder / DATABASE, hub.folder / "backup")
    for python in PYTHONS[1:]:
        hub.python = python
        hub.start()
        assert seen(hub, token, session) == before
        versions.append(version(hub))
        hub.stop()
    assert len(set(versions)) == len(PYTHONS)
    hub.python = PYTHONS[0]
    hub.start()
    assert hub.process.wait(60) != 0, "a hub that is older than its database must not start"
    shutil.copy(backup, hub.folder / DATABASE)
    hub.start()
    assert seen(hub, token, session) == before
    assert version(hub) == versions[0]
