"""Log-in by OpenID Connect on the running pod: the provider's people, and every token that must not get in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .helpers import ROOT, START, STOP, Deployment, HubUser, invoke, sign, signing_keys, slowdown, wait_until

pytestmark = pytest.mark.environments("dev_realauth")

# How the name of the cookie of somebody who has logged in begins.
SESSION = "jupyterhub-hub-login"
# The claims that are times; here in seconds from now.
TIMES = {"iat", "exp", "nbf"}
Claims = dict[str, Any]


class Tokens:
    """Makes tokens of alice's as the provider would, and others."""

    def __init__(self, deployment: Deployment) -> None:
        self.url = deployment.status["url"]
        given = invoke("token", *deployment.options, "--user", "alice").stdout.strip()
        self.claims: Claims = jwt.decode(given, options={"verify_signature": False})
        self.header: Claims = jwt.get_unverified_header(given)
        self.key_set = deployment.secrets["jwks"].read_text()
        private = json.loads(self.key_set)["keys"][0]
        self.public = jwt.PyJWK({name: private[name] for name in ("kty", "n", "e")}, "RS256")

    def changed(self, **changes: Any) -> Claims:
        """Return valid claims with ``changes``: times in seconds from now, None for one that is left out."""
        now = int(time.time())
        claims = self.claims | {"iat": now, "exp": now + 300} | changes
        for name in TIMES & changes.keys():
            claims[name] = changes[name] if changes[name] is None else now + changes[name]
        return {name: value for name, value in claims.items() if value is not None}

    def signed(self, **changes: Any) -> str:
        """Return a token with the provider's own signature and `changed` claims."""
        return sign(self.changed(**changes), self.key_set)

    def strangers(self, **header: Any) -> str:
        """Return a token signed with a key that isn't the provider's, with ``header`` fields (None: without one)."""
        key = json.loads(signing_keys())["keys"][0]
        fields = {name: value for name, value in {**self.header, **header}.items() if value is not None}
        return jwt.encode(self.changed(), jwt.PyJWK(key, "RS256").key, "RS256", fields)

    def unsigned(self, header: Claims, key: bytes | None) -> str:
        """Return a token put together by hand: no signature, or an HMAC with ``key``."""
        parts = [base64url(json.dumps(part).encode()) for part in (header, self.changed())]
        text = ".".join(parts)
        return f"{text}.{base64url(hmac.digest(key, text.encode(), hashlib.sha256)) if key else ''}"

    def log_in(self, *tokens: str) -> httpx.Response:
        """Return what the hub answers to a log-in with these headers."""
        headers = [("X-Auth-Id-Token", token) for token in tokens]
        return httpx.get(f"{self.url}/hub/login", headers=headers, trust_env=False, timeout=START)

    def log_in_at_once(self, changes: Claims) -> httpx.Response:
        """Return what the hub answers, within a second, to a token with ``changes``.

        A slower answer is asked for again: it says nothing of times that are a second or two from the leeway's end.
        """
        for _ in range(30):
            began = time.monotonic()
            answer = self.log_in(self.signed(**changes))
            if time.monotonic() - began < 1:
                return answer
        raise AssertionError("no log-in took less than a second")


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def tokens(deployment: Deployment) -> Tokens:
    return Tokens(deployment)


def project(
    name: str = "project1.brics", platform: str = "dev.platform", username: Any = "alice.project1"
) -> Claims:
    """Return a `projects` claim with one project."""
    return {name: {"name": "One", "resources": [{"name": platform, "username": username}]}}


def of_size(size: int) -> Claims:
    """Return a `projects` claim of about ``size`` bytes."""
    claim: Claims = {}
    while len(json.dumps(claim)) < size:
        number = f"p{len(claim)}"
        claim |= project(f"{number}.brics", username=f"alice.{number}")
    return claim


def pem(tokens: Tokens) -> bytes:
    return tokens.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def tampered(tokens: Tokens) -> str:
    header, _, signature = tokens.signed().split(".")
    return f"{header}.{base64url(json.dumps(tokens.changed(short_name='bob')).encode())}.{signature}"


FORGED: dict[str, Callable[[Tokens], tuple[str, ...]]] = {
    "no header": lambda _: (),
    "an empty header": lambda _: ("",),
    "two headers": lambda tokens: (tokens.signed(), tokens.signed()),
    "not a JWT": lambda _: ("x.y.z",),
    "another person's claims under a valid signature": lambda tokens: (tampered(tokens),),
    "no signature": lambda tokens: (tokens.signed().rpartition(".")[0] + ".",),
    "`alg: none`": lambda tokens: (tokens.unsigned({**tokens.header, "alg": "none"}, None),),
    "HS256 with the public key as PEM": lambda tokens: (
        tokens.unsigned({**tokens.header, "alg": "HS256"}, pem(tokens)),
    ),
    "HS256 with the public key's modulus": lambda tokens: (
        tokens.unsigned(
            {**tokens.header, "alg": "HS256"}, tokens.public.key.public_numbers().n.to_bytes(256, "big")
        ),
    ),
    "another key under a known `kid`": lambda tokens: (tokens.strangers(),),
    "an unknown `kid`": lambda tokens: (tokens.strangers(kid="unknown"),),
    "no `kid`": lambda tokens: (tokens.strangers(kid=None),),
    "a path as `kid`": lambda tokens: (tokens.strangers(kid="../../../../dev/null"),),
    "SQL as `kid`": lambda tokens: (tokens.strangers(kid="' UNION SELECT 'key' --"),),
    "its own key in `jwk`": lambda tokens: (tokens.strangers(jwk={"kty": "RSA", "n": "AQAB", "e": "AQAB"}),),
    "its own keys at `jku`": lambda tokens: (tokens.strangers(jku=f"{tokens.url}/hub/static/keys"),),
    "its own certificate at `x5u`": lambda tokens: (tokens.strangers(x5u=f"{tokens.url}/hub/static/chain"),),
}


@pytest.mark.parametrize("sent", FORGED)
def test_a_forged_token_is_refused(tokens: Tokens, sent: str) -> None:
    """401, and no session."""
    answer = tokens.log_in(*FORGED[sent](tokens))
    assert answer.status_code == 401
    assert SESSION not in " ".join(answer.cookies)


CLAIMS: dict[str, Claims] = {
    "expired": {"iat": -400, "exp": -60},
    "expired 3 s ago, by a clock that differs": {"iat": -400, "exp": -3},
    "issued 4 s from now": {"iat": 4},
    "issued 60 s from now": {"iat": 60},
    "not before 60 s from now": {"nbf": 60},
    "`iss` of another": {"iss": "http://127.0.0.1:1"},
    "`aud` of another": {"aud": "another"},
    **{f"no `{name}`": {name: None} for name in ("iss", "aud", "exp", "iat", "short_name", "projects")},
    "`projects` as a list": {"projects": ["project1"]},
    "`projects` as text that isn't JSON": {"projects": "{"},
    "`projects` as text with JSON": {"projects": json.dumps(project())},
    "`projects` with a number inside": {"projects": {"project1.brics": 1}},
    "`projects` with resources that are none": {
        "projects": {"project1.brics": {"name": "One", "resources": {"a": 1}}}
    },
    "`projects` with a username that is a list": {"projects": project(username=["alice.project1"])},
    "`projects` empty": {"projects": {}},
    "`projects` of another platform": {"projects": project(platform="elsewhere")},
    **{
        f"`username` {text!r}": {"projects": project(username=text)}
        for text in ("x; id", "-R", "../root", "root", "alice.project1\n", "alice.project2")
    },
    **{
        f"`short_name` {text!r}": {"short_name": text}
        for text in ("a/b", "..", "a b", "a\nb", "álice", "Alice", "", "-a")
    },
    "`short_name` of 300 characters": {"short_name": "a" * 300},
    "`short_name` as a list": {"short_name": ["alice"]},
    "24 KiB of projects": {"projects": of_size(24 * 1024)},
}
WORKS = {
    "expired 3 s ago, by a clock that differs",
    "issued 4 s from now",
    "`projects` as text with JSON",
    "24 KiB of projects",
}
NO_PROJECT = {"`projects` empty", "`projects` of another platform"}


def decided(sent: str) -> int:
    """Return the status that the claims ``sent`` must be answered with."""
    return 302 if sent in WORKS else 403 if sent in NO_PROJECT else 401


@pytest.mark.parametrize("sent", CLAIMS)
def test_claims_decide(tokens: Tokens, sent: str) -> None:
    """With the provider's signature: in with what is right, 403 without a project, 401 for the rest; no session."""
    answer = tokens.log_in_at_once(CLAIMS[sent])
    assert answer.status_code == decided(sent)
    assert (SESSION in " ".join(answer.cookies)) == (sent in WORKS)


HUGE = (72, 300)  # KiB


def test_a_huge_token_gets_a_clean_answer(tokens: Tokens) -> None:
    """Over 64 KiB of headers the proxy says so, reads the rest, and the hub never sees them."""
    for size in (*HUGE, 300, 300):
        answer = tokens.log_in(tokens.signed(projects=of_size(size * 1024)))
        assert answer.status_code == 431


def test_the_documented_table_is_what_was_seen() -> None:
    """The table in the docs has just what the tests above try, with the answers that they ask for."""
    answers = {**dict.fromkeys(FORGED, 401), **{sent: decided(sent) for sent in CLAIMS}}
    answers |= {f"{size} KiB of projects": 431 for size in HUGE}
    rows = re.findall(r"^\| (.+) \| (\d+) \|$", (ROOT / "docs/openid.md").read_text(), re.MULTILINE)
    assert {sent: int(status) for sent, status in rows} == answers


def test_tokens_for_scripts(deployment: Deployment, tokens: Tokens) -> None:
    """`invoke token` makes one that gets in, and on request one that must not."""

    def answer(*options: str) -> int:
        return tokens.log_in(invoke("token", *deployment.options, *options).stdout.strip()).status_code

    assert answer("--user", "bob") == 302
    assert answer("--user", "bob", "--lifetime", "60") == 302
    assert answer("--user", "bob", "--expired") == 401
    assert answer("--user", "bob", "--audience", "another") == 401
    assert answer("--user", "bob", "--platform", "another") == 403
    done = invoke("token", *deployment.options, "--user", "mallory", check=False)
    assert done.returncode == 1
    assert "not in dev_users" in done.stderr


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


def requests_for_keys(deployment: Deployment) -> int:
    return deployment.engine.run(("podman", "logs", f"{deployment.status['pod']}-oidc-provider")).text.count(
        "GET /jwks"
    )


def test_a_hundred_log_ins_ask_for_keys_twice_at_most(deployment: Deployment, tokens: Tokens) -> None:
    """The provider's documents are kept for as long as it allows."""
    token = tokens.signed()
    before = requests_for_keys(deployment)
    for _ in range(100):
        assert tokens.log_in(token).status_code == 302
    assert requests_for_keys(deployment) - before <= 2


def test_log_in_is_quick(deployment: Deployment) -> None:
    """From the gateway's door to the spawn page, in seconds; 0.3 on a machine that does nothing else."""
    before = slowdown()
    started = time.monotonic()
    with deployment.user("alice") as user:
        user.page("/hub/spawn")
    elapsed = time.monotonic() - started
    assert elapsed < 1.5 * max(before, slowdown())


@pytest.fixture
def new_keys(deployment: Deployment, tokens: Tokens) -> Iterator[str]:
    """Other signing keys, which the provider has for the length of the test."""

    def give(key_set: str) -> None:
        argv = ("podman", "exec", "-i", f"{deployment.status['pod']}-oidc-provider")
        as_user = "/usr/local/lib/s6/as-user www-data"  # root's right to end others' programs isn't in the container
        deployment.engine.run(
            (*argv, "sh", "-c", f"cat >/run/oidc-provider/jwks; {as_user} sh -c 'kill -HUP 1'"),
            stdin=key_set.encode(),
        )

    rotated = signing_keys()
    give(rotated)
    yield rotated
    give(tokens.key_set)


def test_rotated_signing_keys_are_taken_up(tokens: Tokens, new_keys: str) -> None:
    """Nothing restarts; the hub finds the new key at its first token."""
    wait_until(
        lambda: tokens.log_in(sign(tokens.changed(), new_keys)).status_code == 302,
        30,
        "the new key is not known",
    )


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


def test_no_log_has_a_token(deployment: Deployment) -> None:
    """After all of this: neither what containers print nor the files on the volumes hold one."""
    found = re.compile(r"eyJ[\w-]{20,}\.[\w-]{20,}")
    for container in deployment.status["containers"]:
        printed = deployment.engine.run(("podman", "logs", container["name"]))
        assert not found.search(printed.text + printed.stderr), container["name"]
    search = ("grep", "-rlE", "eyJ[A-Za-z0-9_-]{20,}[.]", "/var/lib/jupyterhub", "/srv/jupyterhub")
    assert deployment.run_in("jupyterhub", *search, check=False) == ""
