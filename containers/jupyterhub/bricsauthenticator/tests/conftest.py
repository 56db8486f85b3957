"""A real provider (keys, discovery, JWKS over HTTP), a stand-in for Slurm's commands, and a real JupyterHub."""

import base64
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from constants import API_TOKEN, AUDIENCE, PLATFORM
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import settings

# On a busy machine one example may take longer than the 200 ms that Hypothesis allows.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

TESTS = Path(__file__).parent
OPTIONS = {"brics_project": "p1.brics", "runtime": "01:00:00", "ngpus": "1"}
KEYS = {name: rsa.generate_private_key(65537, 2048) for name in ("first", "second", "stranger")}


def project(username: str, platform: str = PLATFORM) -> dict[str, Any]:
    """A project of the claim with one resource."""
    return {"name": "A project", "resources": [{"name": platform, "username": username}]}


class Provider:
    """An OpenID Connect provider for as long as the tests run; `kids` are the keys it publishes."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.kids = ["first"]
        self.answer = "well"
        self.cache_control = ""
        self.closed = threading.Event()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests[self.path] += 1
                if provider.answer == "slow":
                    provider.closed.wait(60)
                body = b"<html>" if provider.answer == "nonsense" else json.dumps(provider.document(self.path)).encode()
                self.send_response(500 if provider.answer == "error" else 200)
                if provider.cache_control:
                    self.send_header("Cache-Control", provider.cache_control)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asked a slow provider has gone
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/realm"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def document(self, path: str) -> dict[str, Any]:
        """The JSON at `path`."""
        if path.endswith("/.well-known/openid-configuration"):
            return {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            }
        return {"keys": [jwk(kid) for kid in self.kids]}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Claims of a good token, some of them changed, or left out where None."""
        now = time.time()
        name = changed.get("short_name", "alice")
        good = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 60,
            "short_name": "alice",
            "projects": {"p1.brics": project(f"{name}.p1"), "p2.brics": project(f"{name}.p2")},
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def token(
        self, key: str = "first", kid: str | None = None, headers: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        """A token signed with `key`, saying that it is `kid`."""
        return jwt.encode(self.claims(**changed), KEYS[key], "RS256", {"kid": kid or key, **(headers or {})})


def jwk(kid: str) -> dict[str, Any]:
    """The public key of that name, as a provider publishes it."""
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[kid].public_key(), as_dict=True), "kid": kid, "use": "sig"}


def free_port() -> int:
    """A port that nobody listens on, and that the kernel doesn't give to connections (32768 and up) meanwhile."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def segment(content: bytes) -> str:
    """One part of a hand-made token."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider of the test's own."""
    provider = Provider()
    yield provider
    provider.closed.set()
    provider.server.shutdown()
    provider.server.server_close()


class Hub:
    """JupyterHub in a process of its own, with Slurm played by fake_slurm.py."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.folder, self.provider = folder, provider
        self.slurm, self.log = folder / "slurm", folder / "hub.log"
        self.slurm.mkdir()
        self.port = free_port()
        self.python = sys.executable

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers, or has ended."""
        until(lambda: self.process.poll() is not None or self.answers())

    def launch(self) -> None:
        """Start it without waiting for it."""
        environment = {
            **os.environ,
            # JupyterHub runs `alembic` to upgrade its database.
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(TESTS),
            "JUPYTERHUB_CRYPT_KEY": f"{'0' * 64};{'1' * 64}",  # as after a rotation
            "TEST_FOLDER": str(self.folder),
            "TEST_PORT": str(self.port),
            "TEST_ISSUER": self.provider.issuer,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "jupyterhub", "-f", str(TESTS / "hub_config.py")],
                cwd=self.folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def answers(self) -> bool:
        """Whether it takes requests."""
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, as its supervisor would or by another signal; servers go on."""
        self.process.send_signal(how)
        self.process.wait(60)

    def request(
        self, method: str, path: str, headers: list[tuple[str, str]] | None = None, body: str | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Send one request to a page of the hub; status, headers and text of the answer."""
        connection = self.send(method, path, headers, body)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, response.headers, text

    def send(
        self, method: str, path: str, headers: list[tuple[str, str]] | None = None, body: str | None = None
    ) -> http.client.HTTPConnection:
        """Send one request to a page of the hub; the connection that the answer will come by."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        connection.putrequest(method, f"/jupyter/hub{path}")
        for name, value in headers or []:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(None if body is None else body.encode())
        return connection

    def login(self, token: str, browser: Sequence[tuple[str, str]] = ()) -> tuple[int, http.client.HTTPMessage, str]:
        """Log in with `token`, on a browser that has the cookies of an earlier session or none."""
        return self.request("GET", "/login", [*browser, ("X-Auth-Id-Token", token)])

    def failure(self, session: list[tuple[str, str]]) -> str:
        """The page that says why alice's start has failed. It says so a moment after her server is off the list."""
        page = ""

        def failed() -> bool:
            nonlocal page
            page = self.request("GET", "/spawn-pending/alice", session)[2]
            return "Spawn failed" in page

        until(failed)
        return page

    def session(self, token: str, browser: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Log in with `token` and give the headers that go with the session's requests."""
        cookies: SimpleCookie = SimpleCookie()
        for header in self.login(token, browser)[1].get_all("Set-Cookie", []):
            cookies.load(header)
        return [("Cookie", "; ".join(f"{name}={cookie.value}" for name, cookie in cookies.items()))]

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one request to the REST API; status and JSON of the answer."""
        text = None if body is None else json.dumps(body)
        status, _, answer = self.request(method, f"/api{path}", [("Authorization", f"token {API_TOKEN}")], text)
        return status, json.loads(answer) if answer else None

    def path(self, name: str = "") -> str:
        """The REST API's path of alice's server."""
        return f"/users/alice/servers/{name}" if name else "/users/alice/server"

    def stop_servers(self) -> None:
        """Stop all servers of alice's, with Slurm back."""
        (self.slurm / "away").unlink(missing_ok=True)
        for name in self.api("GET", "/users/alice")[1]["servers"]:
            self.api("DELETE", self.path(name))
        until(lambda: not self.jobs() and not self.api("GET", "/users/alice")[1]["servers"])

    def server(self, name: str = "") -> dict[str, Any] | None:
        """What the hub says of alice's server, None if there isn't one."""
        return self.api("GET", "/users/alice")[1]["servers"].get(name)

    def jobs(self) -> list[str]:
        """Jobs that Slurm has now."""
        return sorted(path.stem for path in self.slurm.glob("*.pid"))

    def calls(self) -> str:
        """The Slurm commands run so far, a line each: account, command and what of the environment matters."""
        path = self.slurm / "calls"
        return path.read_text() if path.exists() else ""


def until(condition: Any, seconds: float = 120) -> None:
    """Wait for `condition`, and fail if it doesn't come; a busy machine may need long for what it does in a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't come in time"
        time.sleep(0.03)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests without a hub come first: it starts meanwhile."""
    items.sort(key=lambda item: "hub" in item.fixturenames)


@pytest.fixture(scope="session", autouse=True)
def starting_hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub | None]:
    """One hub for all tests, if any needs it; no log line of it may have had a token in it."""
    if not any("hub" in item.fixturenames for item in request.session.items):
        yield None
        return
    hub = Hub(tmp_path_factory.mktemp("hub"), Provider())
    hub.launch()
    yield hub
    hub.stop()
    for pid in hub.slurm.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    assert not re.findall(r"eyJ[\w-]{20,}\.", hub.log.read_text())


@pytest.fixture(scope="session")
def hub(starting_hub: Hub) -> Hub:
    """The hub, once it answers."""
    starting_hub.wait()
    return starting_hub


@pytest.fixture
def alice(hub: Hub) -> Iterator[Hub]:
    """The hub with alice known, so that its REST API can act for her; all her servers are stopped afterwards."""
    assert hub.login(hub.provider.token())[0] == 302
    yield hub
    hub.stop_servers()
