"""A JupyterHub user as a program: logs in at the page, spawns, computes in a kernel, stops.

`verify`, the load and the integration tests use it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from bs4 import BeautifulSoup
from websockets.exceptions import WebSocketException

from ..errors import HubEnvsError, StateError
from ..polling import poll

# Errors that a user's step can raise.
BROKEN = (HubEnvsError, OSError, ValueError, LookupError, httpx.HTTPError, WebSocketException)


def form_fields(page: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the form fields of an HTML ``page`` with their values, and the options of each select."""
    soup = BeautifulSoup(page, "html.parser")
    fields = {str(item["name"]): str(item.get("value", "")) for item in soup.select("input[name]")}
    options: dict[str, list[str]] = {}
    for select in soup.select("select[name]"):
        name, choices = str(select["name"]), select.select("option")
        options[name] = [str(choice.get("value", "")) for choice in choices]
        for choice in [item for item in choices if item.has_attr("selected")] or choices[:1]:
            fields[name] = str(choice.get("value", ""))
    return fields, options


class HubUser:
    """A browser's session with the hub at ``url`` (such as http://127.0.0.1:8000/jupyter).

    ``timeout``: most seconds for one answer, or for one cell. Methods raise StateError, with the hub's
    answer, when a step fails.
    """

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.http = httpx.Client(follow_redirects=True, timeout=timeout, trust_env=False)
        self.http.event_hooks["response"].append(self._keep_secure_cookies)
        self.name = ""
        self._token = ""

    def close(self) -> None:
        """End the session's connections."""
        self.http.close()

    def __enter__(self) -> HubUser:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep_secure_cookies(self, _: httpx.Response) -> None:
        """Send Secure cookies too: `hub.external_url` makes the hub's so, and its own port has no TLS."""
        for cookie in self.http.cookies.jar:
            cookie.secure = False

    def page(self, path: str) -> httpx.Response:
        """Return the hub's page ``path``, which must answer 200."""
        return self._ok(self.http.get(f"{self.url}{path}"), f"GET {path}")

    def log_in(self, password: str, name: str = "") -> None:
        """Log in with the dummy authenticator's ``password``, as ``name`` where its form asks for one."""
        fields, _ = form_fields(self.page("/hub/login").text)
        if "username" in fields:  # the form of JupyterHub's DummyAuthenticator has one, ours doesn't
            fields["username"] = name
        answer = self.http.post(
            f"{self.url}/hub/login",
            params={"_xsrf": self._xsrf()},
            data={**fields, "password": password, "_xsrf": self._xsrf()},
        )
        self._ok(answer, "POST /hub/login")
        self._after_log_in()

    def log_in_at_provider(self, name: str, password: str) -> None:
        """Log in through the gateway, as ``name`` at the bundled provider's page, with its ``password``."""
        page = self.page("/hub/login")
        fields, _ = form_fields(page.text)
        answer = self.http.post(page.url, data={**fields, "login": name, "password": password})
        self._ok(answer, f"POST {page.url.path}")
        self._after_log_in()

    def log_in_with(self, token: str) -> None:
        """Log in at the hub's own port with an ID ``token``."""
        answer = self.http.get(f"{self.url}/hub/login", headers={"X-Auth-Id-Token": token})
        self._ok(answer, "GET /hub/login")
        self._after_log_in()

    def _after_log_in(self) -> None:
        """Create the token that API calls use, and read the user's name."""
        page = self.page("/hub/home")
        name = (
            page.text.partition('user: "')[2].partition('"')[0]
            or page.text.partition("/hub/api/users/")[2].partition("/")[0]
        )
        answer = self.http.post(
            f"{self.url}/hub/api/users/{name}/tokens",
            headers={"X-XSRFToken": self._xsrf(), "Referer": f"{self.url}/hub/home"},
            json={"note": "verify", "expires_in": 3600},
        )
        self._token = self._ok(answer, "POST /hub/api/users/<name>/tokens").json()["token"]
        self.name = self.api("GET", "/user").json()["name"]

    def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call the hub's REST API with the user's token."""
        answer = self.http.request(method, f"{self.url}/hub/api{path}", headers=self.bearer, json=body)
        return self._ok(answer, f"{method} /hub/api{path}")

    def spawn_form(self, server: str = "") -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return the fields of the spawn form of ``server``, and the options of each select."""
        return form_fields(self.page(self._spawn_path(server)).text)

    def spawn(self, choices: Mapping[str, str], server: str = "") -> None:
        """Send the spawn form filled with ``choices``; returns when the hub has accepted it."""
        path = self._spawn_path(server)
        fields, _ = self.spawn_form(server)
        fields.pop("_xsrf", None)  # sent in the URL
        answer = self.http.post(
            f"{self.url}{path}",
            params={"_xsrf": self._xsrf()},
            data={**fields, **choices},
            follow_redirects=False,
        )
        if answer.status_code != 302:
            raise StateError(f"POST {path} answered {answer.status_code}", details=_message(answer.text))

    def _spawn_path(self, server: str) -> str:
        return f"/hub/spawn/{self.name}/{server}" if server else "/hub/spawn"

    def server(self, server: str = "") -> dict[str, Any] | None:
        """Return the user's ``server`` as the hub's API describes it, or None."""
        model: dict[str, Any] | None = self.api("GET", f"/users/{self.name}").json()["servers"].get(server)
        return model

    def wait_ready(self, timeout: float, server: str = "") -> None:
        """Wait until ``server`` is ready.

        Raises StateError after ``timeout`` seconds, or when the spawn has failed, with the hub's own words.
        """

        def is_ready() -> bool:
            model = self.server(server)
            if model and model["ready"]:
                return True
            if model is None or not model.get("pending"):
                raise StateError("the spawn failed", details=self._progress(server))
            return False

        if not poll(is_ready, timeout):
            raise StateError(f"the server was not ready within {timeout:g} s", details=self._progress(server))

    def stop(self, timeout: float, server: str = "") -> None:
        """Stop ``server``, remove it if it has a name, and wait until the hub has done so."""
        path = f"/users/{self.name}/servers/{server}" if server else f"/users/{self.name}/server"
        self.api("DELETE", path, {"remove": True} if server else None)
        if not poll(lambda: self.server(server) is None, timeout):
            raise StateError(f"the server had not stopped after {timeout:g} s")

    def notebook_api(self, method: str, path: str, server: str = "", body: Any = None) -> httpx.Response:
        """Call the REST API of the user's running ``server``, through the proxy."""
        answer = self.http.request(method, self._api_url(server) + path, headers=self.bearer, json=body)
        return self._ok(answer, f"{method} …/api{path}")

    def _api_url(self, server: str) -> str:
        return f"{self.url}/user/{self.name}/{f'{server}/' if server else ''}api"

    @contextmanager
    def kernel(self, server: str = "") -> Iterator[Callable[[str], str]]:
        """Start a kernel and give a function that runs code in it and returns its output."""
        from websockets.sync.client import connect

        kernel = self.notebook_api("POST", "/kernels", server, {"name": "python3"}).json()["id"]
        session = uuid.uuid4().hex
        address = f"{self._api_url(server)}/kernels/{kernel}/channels?session_id={session}"
        address = address.replace("http", "ws", 1)  # wss for https
        try:
            # A gateway requires its session's cookie too.
            cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.http.cookies.jar)
            headers = {**self.bearer, "Cookie": cookies}
            # No ping timeout (20 s): a server with a small share of a core answers late.
            limits: dict[str, Any] = {"open_timeout": self.timeout, "ping_timeout": None, "max_size": None}
            with connect(address, additional_headers=headers, proxy=None, **limits) as socket:
                yield lambda code: execute(socket, session, code, self.timeout)
        finally:
            self.notebook_api("DELETE", f"/kernels/{kernel}", server)

    @property
    def bearer(self) -> dict[str, str]:
        """Return the headers of a request with the user's token."""
        return {"Authorization": f"token {self._token}"}

    def _xsrf(self) -> str:
        return next((cookie.value or "" for cookie in self.http.cookies.jar if cookie.name == "_xsrf"), "")

    def _progress(self, server: str) -> list[str]:
        """Return the hub's words about a failed spawn."""
        page = self.http.get(f"{self.url}/hub/spawn-pending/{self.name}/{server}".rstrip("/"))
        return _message(page.text)

    @staticmethod
    def _ok(answer: httpx.Response, what: str) -> httpx.Response:
        if answer.is_success:
            return answer
        raise StateError(f"{what} answered {answer.status_code}", details=_message(answer.text))


def _message(page: str) -> list[str]:
    """Return the first lines of text on the HTML ``page``."""
    soup = BeautifulSoup(page, "html.parser")
    for item in soup(["script", "style", "head", "nav"]):
        item.decompose()
    return [" ".join(text.split()) for text in soup.stripped_strings][:6]


def execute(socket: Any, session: str, code: str, timeout: float) -> str:
    """Run ``code`` over a kernel's websocket and return its output; StateError if the code raised."""
    request = uuid.uuid4().hex
    header = {"msg_id": request, "msg_type": "execute_request", "session": session}
    content = {"code": code, "silent": False, "user_expressions": {}}
    message = {
        "channel": "shell",
        "header": {**header, "username": "", "version": "5.3"},
        "parent_header": {},
        "metadata": {},
        "content": {**content, "store_history": False, "allow_stdin": False},
        "buffers": [],
    }
    socket.send(json.dumps(message))
    printed = ""
    deadline = time.monotonic() + timeout
    while True:
        received = json.loads(socket.recv(timeout=max(0.0, deadline - time.monotonic())))
        kind, content = received["header"]["msg_type"], received["content"]
        # The server says so by itself, in answer to no request.
        if kind == "status" and content["execution_state"] == "dead":
            raise StateError("the kernel died, and could not be started again")
        if received["parent_header"].get("msg_id") != request:
            continue
        if kind == "stream" and content["name"] == "stdout":
            printed += content["text"]
        elif kind == "error":
            raise StateError(f"the kernel raised {content['ename']}: {content['evalue']}")
        elif kind == "status" and content["execution_state"] == "idle":
            return printed
