"""Attacks on a real pod, as whoever could try them; docs/security.md has the table of them."""

from __future__ import annotations

import base64
import contextlib
import os
import pty
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest

from hubenvs.definition.containers import HUB_ID, WEB_ID

from .helpers import (
    ACCOUNT,
    CONTAINERS,
    ROOT,
    STOP,
    Deployment,
    StateError,
    assert_no_more_rights,
    first_process,
    inside,
    service,
    slowdown,
    spawned,
    wait_until,
)

pytestmark = pytest.mark.environments("dev_dummyauth")

USERS = {"jupyterhub": HUB_ID, "oidc-provider": WEB_ID, "gateway": WEB_ID}


@inside
def test_the_hubs_port_has_an_api_and_no_pages(deployment: Deployment) -> None:
    """Whoever gets at the port past the proxy can't log in there; servers find the API."""
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).status)"
    as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-c", 'python3 "$@" 2>&1', "sh", "-c", ask)
    base = f"http://127.0.0.1:8081{urlsplit(deployment.status['url']).path}"

    def asked(path: str) -> str:
        return deployment.run_in("slurm", *as_alice, f"{base}{path}", check=False)

    for path in ("/hub/health", "/hub/api", "/hub/api/"):
        assert asked(path) == "200"
    # The proxy's own API, by which all requests could be led elsewhere, wants a token.
    routes = deployment.run_in("slurm", *as_alice, "http://127.0.0.1:8001/api/routes", check=False)
    assert routes.endswith("HTTP Error 403: Forbidden")
    for path in (
        "/hub/login",
        "/hub/home",
        "/hub/",
        "/",
        "/hub/%61pi/",
        "/hub/logout",
        "/hub/spawn",
        "/hub/error/503",
    ):
        assert asked(path).endswith("HTTP Error 404: Not Found")
        assert httpx.get(f"{deployment.status['url']}{path.removesuffix('%61pi/')}").status_code != 404


@inside
def test_no_request_forges_what_is_logged(deployment: Deployment) -> None:
    """A path that isn't UTF-8, or has control characters, is a 400; a client's own word for its address is none."""
    url = deployment.status["url"]
    for path in (
        "/hub/spawn/alice/%ff",
        "/hub/api/users/alice/servers/a%0aforged",
        "/hub/spawn/alice/a%0Dforged",
    ):
        assert httpx.get(f"{url}{path}").status_code == 400
    names = ("X-Real-IP", "X_Real_IP", "X-Forwarded-For", "X_Forwarded_For", "Forwarded")
    httpx.get(f"{url}/hub/login?forged", headers=dict.fromkeys(names, "192.0.2.66"))
    wait_until(lambda: "/hub/login?forged" in deployment.log("jupyterhub"), 10, "the request isn't logged")
    log = deployment.log("jupyterhub")
    assert "192.0.2.66" not in log
    assert not any(line.startswith("jupyterhub:  forged") for line in log.splitlines())


def answer_to(deployment: Deployment, request: str, whole: bool = False) -> bytes:
    """Return the start of the proxy's answer to ``request``; ``whole``: all until it closes the connection."""
    port = urlsplit(deployment.status["url"]).port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.encode())
        pieces = iter(lambda: connection.recv(65536), b"")
        return b"".join(pieces) if whole else next(pieces)


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


@inside
def test_no_request_is_hidden_in_another(deployment: Deployment) -> None:
    """As the body of one that is sent to the hub as if it had none, it would get there past the proxy.

    One that is cut short would take in the next request on that connection, another user's with its cookies.
    """
    url = deployment.status["url"]
    path = f"{urlsplit(url).path}/hub/api"
    hidden = f"GET {path}/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    chunk = f"Transfer-Encoding: chunked\r\n\r\n{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"
    for method in ("DELETE", "OPTIONS"):
        answer = answer_to(deployment, f"{method} {path}/ HTTP/1.1\r\nHost: x\r\n{chunk}")
        assert answer.startswith(b"HTTP/1.1 411 ")
    # The hub would wait for a body that nobody sends it, and the proxy with it.
    health = f"{urlsplit(url).path}/hub/health"
    for body in ("Content-Length: 9", "Transfer-Encoding: chunked"):
        request = f"GET {health} HTTP/1.1\r\nHost: x\r\n{UPGRADE}{body}\r\n\r\n"
        assert answer_to(deployment, request, whole=True).startswith(b"HTTP/1.1 200 ")
    httpx.get(f"{url}/hub/login?after")
    wait_until(lambda: "/hub/login?after" in deployment.log("jupyterhub"), 10, "the request isn't logged")
    assert f"{path}/hidden" not in deployment.log("jupyterhub")


@inside
def test_no_path_is_the_proxys_fault(deployment: Deployment) -> None:
    """400, not 500; and a websocket's connection is closed."""
    for path in ("/%ff", "//", "http://[", "/constructor/x", "/__proto__"):
        assert answer_to(deployment, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n"
        assert answer_to(deployment, request, whole=True).startswith(b"HTTP/1.1 400")


@inside
def test_no_request_steers_a_terminal(deployment: Deployment) -> None:
    """What the hub writes into its log has no control characters and no lines of others, whoever sent them."""
    with deployment.user() as user:
        xsrf = {"_xsrf": user.http.cookies.get("_xsrf", path=f"{urlsplit(user.url).path}/hub/") or ""}
        report = (
            b"forged\x1b]0;title\x07\r\x9b31m\xc2\x9b31m\n[I 2026-11-29 JupyterHub app] User logged in: bob"
        )
        answer = user.http.post(f"{user.url}/hub/security/csp-report", params=xsrf, content=report)
        assert answer.status_code == 200
    wait_until(lambda: "violation: forged" in deployment.log("jupyterhub"), 10, "the report isn't logged")
    lines = deployment.log("jupyterhub").splitlines()
    (at,) = [number for number, line in enumerate(lines) if "violation: forged" in line]
    assert lines[at].endswith("forged\\x1b]0;title\\x07\\r\ufffd31m\\x9b31m")
    assert lines[at + 1].endswith("    [I 2026-11-29 JupyterHub app] User logged in: bob")


@inside
def test_no_log_steers_a_terminal(deployment: Deployment) -> None:
    """What programs print that anybody can make print something, `invoke logs` shows without its control characters."""
    deployment.run_in("slurm", "sh", "-c", "printf 'forged\\033]0;title\\007\\n' >/proc/1/fd/1")
    command = (sys.executable, "-m", "invoke", "logs", *deployment.options, "--lines=5", "--container=slurm")
    ours, its = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=its, check=True)
        os.close(its)
        assert b"forged\\x1b]0;title\\x07" in terminal.read(65536)


@inside
def test_a_link_starts_no_job(deployment: Deployment) -> None:
    """A GET of the spawn page, as by a link on another site, shows the form, filled in, whatever its query asks for."""
    with deployment.user() as user:
        fields, _ = user.spawn_form()
        query = httpx.QueryParams({**fields, "brics_project": "project2.brics", "runtime": "00:09:00"})
        for path in ("/hub/spawn", "/hub/spawn/alice", "/hub/spawn/alice/n2"):
            answer = user.page(f"{path}?{query}")
            assert answer.url.path.endswith(path)
            assert "00:09:00" in answer.text
            assert user.api("GET", "/users/alice").json()["servers"] == {}
    assert deployment.jobs() == {}


@inside
def test_no_page_of_the_hub_is_sniffed(deployment: Deployment) -> None:
    """A browser takes an answer for what the hub says that it is."""
    assert httpx.get(f"{deployment.status['url']}/hub/login").headers["X-Content-Type-Options"] == "nosniff"


@inside
def test_a_users_requests_take_no_room(deployment: Deployment) -> None:
    """What a user sends can't fill the hub's database: JupyterHub keeps a server's options before they are checked."""
    size = ("du", "-sk", "/var/lib/jupyterhub/jupyterhub.sqlite")
    with deployment.user() as user:
        before = int(deployment.run_in("jupyterhub", *size).split()[0])
        for path in ("servers/big", "server", "tokens"):
            with pytest.raises(StateError, match="413"):
                user.api("POST", f"/users/alice/{path}", {"note": "x" * 2_000_000})
        with contextlib.suppress(httpx.HTTPError):  # the hub may hang up
            token = user.api("POST", "/users/alice/tokens", {"expires_in": 600}).json()["token"]
            pieces, bearer = (b"x" * 100_000 for _ in range(20)), {"Authorization": f"token {token}"}
            url = f"{user.url}/hub/api/users/alice/tokens"
            answer = httpx.post(url, content=pieces, headers=bearer, trust_env=False, timeout=5)
            assert answer.status_code >= 400
        assert int(deployment.run_in("jupyterhub", *size).split()[0]) - before < 1000


def most_memory(deployment: Deployment, name: str) -> int:
    """Return the most that the hub or its proxy has held so far, in KiB."""
    process = service(deployment, "jupyterhub", name)
    lines = deployment.run_in("jupyterhub", "cat", f"/proc/{process}/status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@inside
def test_nobodys_requests_take_memory(deployment: Deployment) -> None:
    """What is sent without a log-in, to the hub or by a job to the proxy's own API, isn't kept."""
    services = ("jupyterhub", "configurable-http-proxy")
    before = {name: most_memory(deployment, name) for name in services}
    url = f"{deployment.status['url']}/hub/api/"
    assert httpx.post(url, content=bytes(90_000_000), trust_env=False, timeout=60).status_code == 413
    send = "import urllib.request as u; u.urlopen('http://127.0.0.1:8001/api/routes/x', bytes(90_000_000))"
    deployment.run_in("slurm", "runuser", "-u", ACCOUNT, "--", "python3", "-c", send, check=False)
    assert {
        name: most_memory(deployment, name) - before[name] < 40_000 for name in services
    } == dict.fromkeys(services, True)


@inside
def test_a_page_of_another_site_opens_no_websocket(deployment: Deployment) -> None:
    """The browser sends the cookies along, and the user's server refuses the stranger's Origin."""
    with deployment.user() as user:
        spawned(deployment, user)
        user.page("/user/alice/tree")
        url = f"{user.url}/user/alice/api/events/subscribe"
        headers = {
            "Origin": "http://elsewhere.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        }
        # By a connection of its own, as a browser does: the proxy closes it, whatever the answer.
        answer = httpx.get(url, headers=headers, cookies=user.http.cookies, trust_env=False)
        assert answer.status_code == 403
        user.stop(STOP)


def owners(deployment: Deployment, container: str) -> set[str]:
    """Return the users, by number, whose programs run in ``container``, asked as the one that it belongs to."""
    name = f"{deployment.status['pod']}-{container}"
    command = ("sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null")
    lines = deployment.engine.exec(name, *command, check=False).text.splitlines()
    return {user for line in lines if line.startswith("Uid:") for user in line.split()[1:]}


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_only_slurm_needs_root(deployment: Deployment) -> None:
    """Every program of hub, proxy, provider and gateway is an ordinary user's, who alone reads their secrets."""
    present = {
        item["name"].removeprefix(f"{deployment.status['pod']}-") for item in deployment.status["containers"]
    }
    for container in present & USERS.keys():
        assert owners(deployment, container) == {str(USERS[container])}
        secrets = (f"/run/credentials/{container}", f"/run/{container}")
        as_user = ("podman", "exec", "--user", "nobody", f"{deployment.status['pod']}-{container}")
        assert deployment.engine.run((*as_user, "find", *secrets, "-type", "f"), check=False).text == ""
        # What the gateway's Apache writes itself is in the folder that is closed to others.
        written = ("!", "-name", "pid", "!", "-path", "*/sessions/*")
        find = ("find", f"/run/{container}", "-type", "f", "-perm", "/077", *written)
        assert deployment.run_in(container, *find) in ("", "/run/jupyterhub/ssh_config")


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_no_container_has_rights_that_it_does_not_need(deployment: Deployment) -> None:
    """What the first program of each may get at most; sudo alone, in Slurm's, may give more than the caller has."""
    for item in deployment.status["containers"]:
        row = CONTAINERS[item["name"].removeprefix(f"{deployment.status['pod']}-")]
        status = first_process(deployment.engine, item["name"])
        assert_no_more_rights(status, row)
        assert set(status["Uid"].split()) == {str(row.uid)}


def test_volumes_of_an_earlier_version_change_owner(deployment: Deployment) -> None:
    """What was root's is the hub's once its container has started; and the hub comes back."""
    volumes = ("/srv/jupyterhub", "/var/lib/jupyterhub")
    deployment.run_in("jupyterhub", "chown", "-R", "0:0", *volumes)
    deployment.engine.run(("podman", "restart", f"{deployment.status['pod']}-jupyterhub"))
    wait_until(lambda: deployment.health == 200, 60 * slowdown(), "the hub did not come back")
    assert deployment.run_in("jupyterhub", "find", *volumes, "!", "-user", "jupyterhub") == ""


@inside
def test_a_log_out_ends_the_log_in(deployment: Deployment) -> None:
    """Cookies from before it are worth nothing: to the hub at once, to the user's server within half a minute."""
    with deployment.user() as user:
        spawned(deployment, user)
        server = f"{user.url}/user/alice/api/contents"
        # The page takes the browser through the log-in to the server, whose cookie is then among the others.
        user.page("/user/alice/tree")
        assert user.http.get(server, follow_redirects=False).status_code == 200
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in user.http.cookies.jar)

        def status(url: str) -> int:
            return httpx.get(url, headers={"Cookie": cookies}).status_code

        assert (status(f"{user.url}/hub/home"), status(server)) == (200, 200)
        user.http.get(f"{user.url}/hub/logout")
        assert status(f"{user.url}/hub/home") == 302
        wait_until(lambda: status(server) == 403, 30, "the server still takes the cookie")
    with deployment.user() as user:
        user.stop(STOP)
