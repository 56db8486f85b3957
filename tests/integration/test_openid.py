"""Log-in by OpenID Connect on the running pod: the provider's people, the gateway, and a provider that is away."""

from __future__ import annotations

import re
import socket
import time

import httpx
import pytest

from .helpers import ACCOUNT, START, STOP, Deployment, HubUser, slowdown, wait_until
from .tokens import Tokens, project

pytestmark = pytest.mark.environments("dev_realauth")


def test_a_clients_own_token_does_not_pass_the_gateway(deployment: Deployment, tokens: Tokens) -> None:
    """It is dropped: nobody gets in by it, and who is in stays who they are."""
    url = deployment.status["gateway_url"]
    mine = {"X-Auth-Id-Token": tokens.signed(short_name="bob", projects=project(username="bob.project1"))}
    answer = httpx.get(f"{url}/hub/home", headers=mine, trust_env=False, timeout=START)
    assert answer.status_code == 302
    assert "/oidc/auth" in answer.headers["location"] or "/_oidc/" in answer.headers["location"]
    with deployment.user("alice") as user:
        assert user.http.get(f"{url}/hub/login", headers=mine).status_code == 200
        assert user.page("/hub/home").text.count("bob") == 0


def test_people_have_the_projects_of_dev_users(deployment: Deployment) -> None:
    """Two projects for one person, one that two share, each with an account of its own in Slurm."""
    with deployment.user("alice") as alice, deployment.user("bob") as bob:
        assert alice.spawn_form()[1]["brics_project"] == ["project1.brics", "project2.brics"]
        assert bob.spawn_form()[1]["brics_project"] == ["project1.brics"]
        alice.spawn({"brics_project": "project2.brics"})
        bob.spawn({"brics_project": "project1.brics"})
        for user in (alice, bob):
            user.wait_ready(START)
        users = deployment.run_in("slurm", "squeue", "--noheader", "--format=%u")
        assert sorted(users.split()) == ["alice.project2", "bob.project1"]
        for user in (alice, bob):
            user.stop(STOP)


# In a job: goes to the provider's page, chooses alice there, and prints the status and what it is told.
CHOOSE_ALICE = """
import sys, urllib.error, urllib.parse, urllib.request
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
try:
    form = urllib.parse.urlencode({"login": "alice"}).encode()
    answer = browser.open(browser.open(sys.argv[1]).url, form)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


def test_a_job_is_nobody_without_the_password(deployment: Deployment) -> None:
    """It reaches the provider at the URL that browsers have, and is asked for the password as they are."""
    with HubUser(deployment.status["gateway_url"]) as user:
        page = user.page("/hub/login")
    begin = next(str(step.url) for step in page.history if step.url.netloc == page.url.netloc)
    job = (
        "runuser",
        "-u",
        ACCOUNT,
        "--",
        "srun",
        "--quiet",
        "--chdir=/",
        "python3",
        "-c",
        CHOOSE_ALICE,
        begin,
    )
    told = deployment.run_in("slurm", *job)
    assert told.startswith("403 ")
    assert "That is not the password." in told


@pytest.mark.parametrize("password", [{}, {"password": ""}, {"password": "guessed"}])
def test_nobody_is_anybody_without_the_password(deployment: Deployment, password: dict[str, str]) -> None:
    """Jobs, other accounts of this host and other pods reach the provider's page, and get no further."""
    with HubUser(deployment.status["gateway_url"]) as user:
        page = user.page("/hub/login")
        answer = user.http.post(page.url, data={"login": "alice", **password})
        assert answer.status_code == 403
        assert "That is not the password." in answer.text
        assert user.http.get(f"{user.url}/hub/home").url.path.startswith("/interaction/")


def test_somebody_without_a_project_is_told_so(deployment: Deployment) -> None:
    """403, and a page that says why."""
    with HubUser(deployment.status["gateway_url"]) as user:
        page = user.page("/hub/login")
        answer = user.http.post(page.url, data={"other": "nobody-here", "password": deployment.password})
    assert answer.status_code == 403
    assert "None of your projects may use this service" in answer.text


def test_a_log_out_ends_the_gateways_session_too(deployment: Deployment) -> None:
    """Who comes back is asked anew who they are."""
    with deployment.user("alice") as user:
        asked = user.http.get(f"{user.url}/hub/logout")
        form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked.text))
        gone = user.http.post(asked.url.join("/oidc/session/end/confirm"), data={**form, "logout": "yes"})
        assert gone.status_code == 200
        again = user.http.get(f"{user.url}/hub/home")
        assert "Choose a user" in again.text


def test_the_gateways_pages_run_nothing_and_believe_no_host(deployment: Deployment) -> None:
    """A page of its own has no script and is in no frame; a request's Host gets into no page, and no log-in by it."""
    url, strange = (
        deployment.status["gateway_url"],
        {"Host": "elsewhere.example", "X-Forwarded-Host": "x.example"},
    )
    with httpx.Client(headers=strange, trust_env=False, timeout=START) as browser:
        for page in ("signed_out", "try_later"):
            answer = browser.get(f"{url}/_oidc/{page}")
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert ".example" not in answer.text
        signed_out = browser.get(f"{url}/_oidc/sign_out").headers["Location"]
        assert signed_out.startswith(f"{url}/_oidc/callback?logout=")
        assert signed_out.endswith(f"post_logout_redirect_uri={url}/_oidc/signed_out")
        for path in (url, httpx.URL(url).join("/")):
            assert browser.get(path).headers["Location"] == f"{url}/"
        assert browser.get(f"{url}/_oidc/callback?logout=http://elsewhere.example/").status_code == 400
        begin = browser.get(f"{url}/hub/home").headers["Location"]
        assert begin.startswith(f"{url}/_oidc/begin?")
        # The provider sends people to the gateway's own names only.
        asked = httpx.get(begin, follow_redirects=True, trust_env=False, timeout=START)
        assert asked.status_code == 400


def test_the_gateway_and_the_proxy_read_the_same_path(deployment: Deployment) -> None:
    """One that is open to all in the gateway's eyes is not a page of the hub in the proxy's."""
    url = httpx.URL(deployment.status["gateway_url"])
    for spelled in ("..\\login", "%2e%2e/login", "../login", ".%2E\\login"):
        request = (
            f"GET {url.path}/hub/static/{spelled} HTTP/1.1\r\nHost: {url.host}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection((url.host, url.port), timeout=START) as connection:
            connection.sendall(request.encode())
            assert connection.recv(12) == b"HTTP/1.1 400", spelled


def test_log_in_is_quick(deployment: Deployment) -> None:
    """From the gateway's door to the spawn page, in seconds; 0.3 on a machine that does nothing else."""
    before = slowdown()
    started = time.monotonic()
    with deployment.user("alice") as user:
        user.page("/hub/spawn")
    elapsed = time.monotonic() - started
    assert elapsed < 1.5 * max(before, slowdown())


def follow(url: str) -> httpx.Response:
    """Return what a browser that comes for the first time ends at."""
    with httpx.Client(follow_redirects=True, trust_env=False, timeout=START) as browser:
        return browser.get(url)


@pytest.mark.parametrize(("away", "back"), [(("pause",), ("unpause",)), (("stop", "--time=2"), ("start",))])
def test_a_provider_that_is_away_is_waited_for(
    deployment: Deployment, tokens: Tokens, away: tuple[str, ...], back: tuple[str, ...]
) -> None:
    """Slow or gone: "try later" with 503 from hub and gateway, the hub goes on, and all is well when it is back."""
    provider = f"{deployment.status['pod']}-oidc-provider"
    gateway = deployment.status["gateway_url"]
    # A key that nobody has seen makes the hub ask; it does so every 5 s at most.
    unknown = tokens.strangers(kid=" ".join(away))
    time.sleep(5)
    deployment.engine.run(("podman", *away, provider))
    try:
        answer = tokens.log_in(unknown)
        assert answer.status_code == 503
        assert "try again" in answer.text
        assert answer.headers["retry-after"]
        assert deployment.health == 200
        page = follow(f"{gateway}/hub/home")
        assert page.status_code == 503
        assert "later" in page.text or "moment" in page.text
    finally:
        deployment.engine.run(("podman", *back, provider))
    wait_until(lambda: follow(f"{gateway}/hub/home").status_code == 200, STOP, "the gateway did not recover")
    wait_until(lambda: tokens.log_in(unknown).status_code == 401, STOP, "the hub did not recover")
    deployment.user("bob").close()
