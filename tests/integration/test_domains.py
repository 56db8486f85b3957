"""A domain for each user, where the hub looks at running servers twice a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from .helpers import DOMAIN, START, STOP, Deployment, HubUser, inside, spawned, wait_until

pytestmark = [pytest.mark.environments("dev_dummyauth"), inside]


class ToThisHost(httpx.HTTPTransport):
    """Takes requests for any name to this host, as a site's DNS does for `*.hub.example.org`."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``, whose header Host stays."""
        url = request.url.copy_with(host="127.0.0.1")
        parts = {"headers": request.headers, "stream": request.stream, "extensions": request.extensions}
        return super().handle_request(httpx.Request(request.method, url, **parts))


@pytest.fixture
def user(deployment: Deployment, origin: str) -> Iterator[HubUser]:
    """Alice, logged in at the hub's domain, with a server."""
    with HubUser(f"{origin}/jupyter") as user:
        user.http = httpx.Client(follow_redirects=True, timeout=START, transport=ToThisHost())
        user.log_in(deployment.password)
        yield user
        user.stop(STOP)


def test_each_user_can_have_a_domain(deployment: Deployment, user: HubUser) -> None:
    """A server's pages have another origin than the hub's, where nothing of the hub is to be had."""
    spawned(deployment, user)
    shown = user.page("/user/alice/tree")  # a page: to a stranger a server's API says 403
    assert shown.url.host == f"alice.{DOMAIN}"
    assert "kernels" in user.http.get(shown.url.join("api/status")).json()
    paths = (
        "/hub/home",
        "/hub/token",
        "/hub/api/user",
        "/hub/api/",
        "/hub/login",
        "/hub/logout",
        "/hub/spawn",
        "/user/%2e%2e/hub/login",
        "/hub/health/%2e%2e/login",
    )
    for host in (shown.url.host, f"x.{DOMAIN}", f"{DOMAIN}.example.org", "127.0.0.1"):
        for path in paths:
            elsewhere = shown.url.copy_with(host=host, path=f"/jupyter{path}")
            assert user.http.get(elsewhere, follow_redirects=False).status_code == 404, elsewhere
    assert deployment.health == 200
    absent = shown.url.copy_with(host=f"bob.{DOMAIN}", path="/jupyter/user/bob/tree", query=None)
    assert user.http.get(absent, follow_redirects=False).headers["location"].startswith(f"{user.url}/hub/")


def test_nobody_gets_the_requests_to_a_job_that_has_ended(deployment: Deployment, user: HubUser) -> None:
    """It tells the hub, which knows long before its next look; a server that is started at once lives on."""
    job = spawned(deployment, user)
    server = user.page("/user/alice/tree").url.join("api/shutdown")
    token = user.api("POST", "/users/alice/tokens", {"expires_in": 600}).json()["token"]
    user.http.post(server, headers={"Authorization": f"token {token}"})
    wait_until(lambda: user.server() is None, STOP, "the hub doesn't know that the server has ended")
    log = deployment.log("jupyterhub").partition(f"the server of job {job} has ended")[2]
    assert "Removing user alice from proxy" in log
    assert spawned(deployment, user) != job
    deadline = time.monotonic() + 8  # in which the hub would look after the first job
    while time.monotonic() < deadline:
        assert (user.server() or {}).get("ready")
