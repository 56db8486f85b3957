"""Log-in with good, forged and broken tokens, through a real hub."""

import asyncio
import hashlib
import hmac
import json
import re
import time
from types import SimpleNamespace

import jwt
import pytest
from conftest import KEYS, Hub, Provider, jwk, project, segment, until
from constants import AUDIENCE, PLATFORM
from cryptography.hazmat.primitives import serialization
from tornado import web
from tornado.httputil import HTTPHeaders

from bricsauthenticator import BricsAuthenticator, oidc

TOKEN_HEADER = "X-Auth-Id-Token"


def hmac_signed_with_public_key(provider: Provider) -> str:
    """The classic confusion: the published key taken as an HMAC secret."""
    pem = (
        KEYS["first"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head = segment(b'{"alg": "HS256", "kid": "first"}')
    body = segment(json.dumps(provider.claims()).encode())
    return f"{head}.{body}.{segment(hmac.digest(pem, f'{head}.{body}'.encode(), hashlib.sha256))}"


def unsigned(provider: Provider, algorithm: str = "none") -> str:
    """A token without a signature."""
    head = segment(json.dumps({"alg": algorithm, "kid": "first"}).encode())
    return f"{head}.{segment(json.dumps(provider.claims()).encode())}."


def changed_payload(provider: Provider) -> str:
    """A good token whose claims were exchanged for others."""
    head, _, signature = provider.token().split(".")
    return f"{head}.{segment(json.dumps(provider.claims(short_name='root')).encode())}.{signature}"


REFUSED = {
    "not a JWT": lambda p: "hello",
    "two dots": lambda p: "..",
    "header is a list": lambda p: f"{segment(b'[]')}.{segment(b'{}')}.x",
    "deep header": lambda p: f"{segment(b'[' * 20000)}.{segment(b'{}')}.x",
    "alg none": unsigned,
    "alg empty": lambda p: unsigned(p, ""),
    "alg None": lambda p: unsigned(p, "None"),
    "alg is a list": lambda p: segment(b'{"alg": [], "kid": "first"}') + ".e30.x",
    "HS256 with the public key": hmac_signed_with_public_key,
    "claims exchanged": changed_payload,
    "wrong key, known kid": lambda p: p.token("stranger", kid="first"),
    "unknown kid": lambda p: p.token("stranger"),
    "kid with a path": lambda p: p.token(kid="../../../../dev/null"),
    "kid with SQL": lambda p: p.token(kid="first' OR '1'='1"),
    "own jwk": lambda p: p.token("stranger", kid="first", headers={"jwk": jwk("stranger")}),
    "jku": lambda p: p.token("stranger", headers={"jku": f"{p.issuer}/stranger-jwks"}),
    "x5u": lambda p: p.token("stranger", headers={"x5u": f"{p.issuer}/stranger-cert"}),
    "alg not offered": lambda p: jwt.encode(p.claims(), KEYS["first"], "RS512", {"kid": "first"}),
    "crit": lambda p: p.token(headers={"crit": ["nobody-knows"], "nobody-knows": 1}),
    "access token": lambda p: p.token(headers={"typ": "at+jwt"}),
    "log-out token": lambda p: p.token(headers={"typ": "logout+jwt"}),
    "typ is a list": lambda p: p.token(headers={"typ": ["JWT"]}),
    "Keycloak's access token": lambda p: p.token(typ="Bearer"),
    "expired": lambda p: p.token(exp=time.time() - 60),
    "exp infinite": lambda p: p.token(exp=float("inf")),
    "exp not a number": lambda p: p.token(exp={"a": 1}),
    "nbf ahead": lambda p: p.token(nbf=time.time() + 60),
    "iat ahead": lambda p: p.token(iat=time.time() + 60),
    "other issuer": lambda p: p.token(iss="https://example.org"),
    "issuer with a slash": lambda p: p.token(iss=f"{p.issuer}/"),
    "other audience": lambda p: p.token(aud="other"),
    "audience is a number": lambda p: p.token(aud=1),
    **{f"no {name}": lambda p, name=name: p.token(**{name: None}) for name in ("iss", "aud", "exp", "iat")},
    "no short_name": lambda p: p.token(short_name=None),
    "no projects": lambda p: p.token(projects=None),
    "projects is a list": lambda p: p.token(projects=[]),
    "projects is not JSON": lambda p: p.token(projects="{"),
    "projects is deep": lambda p: p.token(projects="[" * 30000),
    "project is a string": lambda p: p.token(projects={"p1.brics": "x"}),
    "resources is an object": lambda p: p.token(projects={"p1.brics": {"name": "x", "resources": {}}}),
    "half a surrogate pair": lambda p: p.token(projects={"p1.brics": {**project("alice.p1"), "name": "\ud800"}}),
    **{
        f"short_name {name[:20]!r}": lambda p, name=name: p.token(short_name=name)
        for name in ("a/b", "..", "a b", "alice\n", "älice", "a" * 300, "-R", "", "Alice")
    },
    "short_name is a number": lambda p: p.token(short_name=1),
    **{
        f"username {name!r}": lambda p, name=name: p.token(projects={"p1.brics": project(name)})
        for name in ("x; id", "-R", "../root", "root", "a.b.p1", "alice.p2", "alice.p1\n", "$(id).p1", "Alice.p1", "")
    },
    "two usernames": lambda p: p.token(
        projects={
            "p1.brics": {
                "name": "x",
                "resources": [{"name": PLATFORM, "username": "alice.p1"}, {"name": PLATFORM, "username": "bob.p1"}],
            }
        }
    ),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_refused(hub: Hub, make) -> None:
    """A token that doesn't hold gives 401, no session, and no line of the log with the token."""
    token = make(hub.provider)
    status, headers, text = hub.login(token)
    assert status == 401
    assert "jupyterhub-session-id" not in str(headers.get_all("Set-Cookie"))
    assert "jupyterhub-hub-login" not in str(headers.get_all("Set-Cookie"))
    assert "sign in" in text
    assert "/stranger" not in str(hub.provider.requests)
    if len(token) > 10:
        assert token not in hub.log.read_text()


@pytest.mark.parametrize("headers", [0, 1, 2], ids=["none", "empty", "two"])
def test_missing(hub: Hub, headers: int) -> None:
    """No token, an empty one or two of them give 401."""
    sent = {0: [], 1: [(TOKEN_HEADER, "")], 2: [(TOKEN_HEADER, hub.provider.token())] * 2}[headers]
    assert hub.request("GET", "/login", sent)[0] == 401


def test_login(hub: Hub) -> None:
    """A good token logs in without a form, and the page asked for comes up."""
    status, headers, _ = hub.login(hub.provider.token())
    assert status == 302
    assert headers["Location"].startswith("/jupyter/")
    status, _, page = hub.request("GET", "/spawn", hub.session(hub.provider.token()))
    assert status == 200
    assert '<option value="p1.brics">A project (p1.brics)</option>' in page


ACCEPTED = {
    "audiences": lambda: {"aud": ["other", AUDIENCE]},
    "projects as a string": lambda: {"projects": json.dumps({"p1.brics": project("alice.p1")})},
    "expired 4 s ago": lambda: {"exp": time.time() - 4},
    "issued in 4 s": lambda: {"iat": time.time() + 4},
    "24 KiB": lambda: {"projects": {f"p{n}.brics": project(f"alice.p{n}") for n in range(230)}},
}


def prompt_login(hub: Hub, change) -> int:
    """Status of a log-in that took less than a second: a slower one says nothing of times 1 s from too late."""
    for _ in range(30):
        began = time.monotonic()
        status = hub.login(hub.provider.token(**change()))[0]
        if time.monotonic() - began < 1:
            return status
    raise AssertionError("no log-in took less than a second")


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(hub: Hub, change) -> None:
    """What the specification leaves open is taken, and clocks may differ by `jwt_leeway`."""
    assert prompt_login(hub, change) == 302


@pytest.mark.parametrize(
    "projects",
    [{}, {"p1.brics": project("alice.p1", "other")}, {"p1.brics": project("bob.p1")}],
    ids=["none", "elsewhere", "another user's"],
)
def test_no_project(hub: Hub, projects: dict) -> None:
    """A user without a project on the platform gets 403 and a page that says so."""
    status, _, page = hub.login(hub.provider.token(projects=projects))
    assert status == 403
    assert "None of your projects" in page


def test_error_logs_no_token(hub: Hub) -> None:
    """JupyterHub logs the headers of a request that ends in a 500; the token is not among them."""
    token = hub.provider.token()
    assert hub.request("GET", "/broken", [(TOKEN_HEADER, token)])[0] == 500
    log = hub.log.read_text()
    assert "broken by [ID token]" in log
    assert token.split(".")[1] not in log


def test_logout(hub: Hub) -> None:
    """Logging out leads on to the gateway's sign-out."""
    status, headers, _ = hub.request("GET", "/logout", hub.session(hub.provider.token()))
    assert (status, headers["Location"]) == (302, "/jupyter/_oidc/sign_out?rd=/")


def test_logout_ends_the_login(hub: Hub) -> None:
    """Cookies kept from before a log-out are worth nothing after it, also to another hub process."""
    session = hub.session(hub.provider.token())
    assert hub.request("GET", "/home", session)[0] == 200
    hub.request("GET", "/logout", session)
    assert hub.request("GET", "/home", session)[0] == 302
    assert hub.request("GET", "/home", hub.session(hub.provider.token()))[0] == 200


def authenticate(authenticator: BricsAuthenticator, *tokens: str) -> list[int | dict]:
    """Authenticate with `tokens`, all at once; status or result of each."""

    async def one(token: str) -> int | dict:
        handler = SimpleNamespace(request=SimpleNamespace(headers=HTTPHeaders({TOKEN_HEADER: token})))
        try:
            return await authenticator.authenticate(handler)
        except web.HTTPError as error:
            return error.status_code

    async def together() -> list[int | dict]:
        return await asyncio.gather(*map(one, tokens))

    return asyncio.run(together())


@pytest.fixture
def authenticator(provider: Provider) -> BricsAuthenticator:
    """An authenticator that has asked its provider nothing yet."""
    return BricsAuthenticator(oidc_server=provider.issuer, brics_platform=PLATFORM, jwt_audience=AUDIENCE)


def test_auth_state(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """The name is short_name, the state exactly the projects on the platform."""
    projects = {"p1.brics": project("alice.p1"), "p2.brics": project("x", "other")}
    assert authenticate(authenticator, provider.token(projects=projects)) == [
        {"name": "alice", "auth_state": {"p1.brics": {"name": "A project", "username": "alice.p1"}}}
    ]


def test_anothers_account(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """A project whose account has another user's name is left out, unless the site has such accounts."""
    token = provider.token(projects={"p1.brics": project("alice.p1"), "p2.brics": project("bob.p2")})
    (authenticated,) = authenticate(authenticator, token)
    assert set(authenticated["auth_state"]) == {"p1.brics"}
    authenticator.match_username = False
    (authenticated,) = authenticate(authenticator, token)
    assert set(authenticated["auth_state"]) == {"p1.brics", "p2.brics"}


def test_authorized_party(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """`azp` is looked at only if it is configured; then it must be there and be that."""
    tokens = [provider.token(azp=azp) for azp in (None, "portal", "other")]
    assert all(isinstance(result, dict) for result in authenticate(authenticator, *tokens))
    authenticator.jwt_azp = "portal"
    none, right, other = authenticate(authenticator, *tokens)
    assert isinstance(right, dict)
    assert (none, other) == (401, 401)


@pytest.mark.parametrize(
    ("issuer", "document"),
    [
        ("https://a", {"issuer": "https://b", "jwks_uri": "https://a/jwks"}),
        ("https://a", {"issuer": "https://a/", "jwks_uri": "https://a/jwks"}),
        ("https://a", {"jwks_uri": "https://a/jwks"}),
        ("https://a", {"issuer": "https://a", "jwks_uri": "http://a/jwks"}),
    ],
)
def test_anothers_discovery(issuer: str, document: dict[str, str]) -> None:
    """A document of another issuer isn't used, nor keys that come without TLS where the issuer has it."""
    with pytest.raises((ValueError, KeyError)):
        oidc._parse_discovery(issuer, document)
    good = {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}
    assert oidc._parse_discovery(issuer, good) == (f"{issuer}/jwks", frozenset(["RS256"]))


@pytest.mark.parametrize("cache_control", ["", "no-store", "max-age=0", "max-age=300"])
def test_cached(provider: Provider, authenticator: BricsAuthenticator, cache_control: str) -> None:
    """A hundred log-ins ask the provider once for each document, whatever it says of caching."""
    provider.cache_control = cache_control
    results = authenticate(authenticator, *[provider.token()] * 100)
    assert all(isinstance(result, dict) for result in results)
    assert provider.requests == {"/realm/.well-known/openid-configuration": 1, "/realm/jwks": 1}


def test_rotated_keys(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """Tokens of a new key work at once, also several together, and those of a withdrawn one no longer."""
    assert isinstance(authenticate(authenticator, provider.token())[0], dict)
    provider.kids = ["second"]
    assert all(isinstance(result, dict) for result in authenticate(authenticator, *[provider.token("second")] * 3))
    assert authenticate(authenticator, provider.token()) == [401]


def test_new_key_of_the_same_name(provider: Provider, authenticator: BricsAuthenticator, monkeypatch) -> None:
    """The keys of a provider that starts anew may have the names of before; what they haven't signed is refused."""
    old = provider.token()
    assert isinstance(authenticate(authenticator, old)[0], dict)
    monkeypatch.setitem(KEYS, "first", KEYS["second"])
    assert all(isinstance(result, dict) for result in authenticate(authenticator, *[provider.token()] * 3))
    assert authenticate(authenticator, *[old] * 30) == [401] * 30
    assert provider.requests["/realm/jwks"] == 2


def test_by_a_web_proxy(provider: Provider, monkeypatch) -> None:
    """The provider may be out of the hub's reach but for a web proxy, which may be away as well."""
    monkeypatch.setattr("bricsauthenticator.oidc.FETCH_TIMEOUT", 1)
    monkeypatch.setattr("bricsauthenticator.oidc.RETRY_INTERVAL", 0)
    proxy, provider.issuer = provider.issuer.removesuffix("/realm"), "http://provider.invalid/realm"
    settings = {"oidc_server": provider.issuer, "brics_platform": PLATFORM, "jwt_audience": AUDIENCE}
    authenticator = BricsAuthenticator(oidc_proxy=proxy, **settings)
    provider.answer = "slow"
    assert authenticate(authenticator, provider.token()) == [503]
    provider.answer = "well"
    assert all(isinstance(result, dict) for result in authenticate(authenticator, *[provider.token()] * 20))
    assert provider.requests["http://provider.invalid/realm/jwks"] == 1
    assert authenticate(BricsAuthenticator(**settings), provider.token()) == [503]


def test_flood_of_unknown_kids(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """Made-up key identifiers don't make the hub hammer the provider."""
    tokens = [provider.token("stranger", kid=f"kid{n}") for n in range(30)]
    assert authenticate(authenticator, *tokens) == [401] * 30
    assert provider.requests["/realm/jwks"] <= 2


@pytest.mark.parametrize("answer", ["error", "nonsense", "slow"])
def test_provider_away(provider: Provider, authenticator: BricsAuthenticator, answer: str, monkeypatch) -> None:
    """A provider that fails or is slow gives 503, also to many at once; when it is back, log-in works again."""
    monkeypatch.setattr("bricsauthenticator.oidc.FETCH_TIMEOUT", 1)
    monkeypatch.setattr("bricsauthenticator.oidc.RETRY_INTERVAL", 0.2)
    provider.answer = answer
    began = time.monotonic()
    assert authenticate(authenticator, *[provider.token()] * 20) == [503] * 20
    assert time.monotonic() - began < 5  # one after the other they would take 20
    provider.answer = "well"
    time.sleep(0.2)
    assert isinstance(authenticate(authenticator, provider.token())[0], dict)


def refresh(authenticator: BricsAuthenticator, token: str, asking: str | None = None) -> bool | dict:
    """Refresh alice because of a request with `token`, by the user `asking` or by who isn't known yet."""
    handler = SimpleNamespace(request=SimpleNamespace(headers=HTTPHeaders({TOKEN_HEADER: token} if token else {})))
    if asking:
        handler._jupyterhub_user = SimpleNamespace(name=asking)
    return asyncio.run(authenticator.refresh_user(SimpleNamespace(name="alice"), handler))


def test_refresh(provider: Provider, authenticator: BricsAuthenticator, monkeypatch) -> None:
    """Projects follow a newer token of the same user; one that doesn't hold changes nothing, nor does none."""
    monkeypatch.setattr("bricsauthenticator.auth.REFRESH_INTERVAL", 0)
    assert set(refresh(authenticator, provider.token())["auth_state"]) == {"p1.brics", "p2.brics"}
    assert refresh(authenticator, provider.token(exp=1)) is True
    assert refresh(authenticator, "hello") is True
    assert refresh(authenticator, "") is True


def test_refresh_seldom(provider: Provider, authenticator: BricsAuthenticator) -> None:
    """Projects are looked at once in a while, not with each request; but none left is found with each."""
    assert [refresh(authenticator, provider.token(projects={})) for _ in range(2)] == [False, False]
    assert isinstance(refresh(authenticator, provider.token()), dict)
    assert refresh(authenticator, provider.token()) is True


@pytest.mark.parametrize("changed", [{}, {"exp": 1}, {"projects": {}}], ids=["good", "expired", "no projects"])
def test_another_persons_token(provider: Provider, authenticator: BricsAuthenticator, changed: dict) -> None:
    """Who has another person's cookie must log in again, however good the token is; who asks about them needn't."""
    token = provider.token(short_name="bob", **changed)
    assert refresh(authenticator, provider.token()) is not False
    assert refresh(authenticator, token) is False
    assert refresh(authenticator, token, asking="alice") is False
    assert refresh(authenticator, token, asking="bob") is True


def test_browser_changes_hands(hub: Hub) -> None:
    """Who signs in at the portal after another person on the same browser is soon themselves here, in a new session."""
    token = hub.provider.token(short_name="bob")
    alice = hub.session(hub.provider.token())
    until(lambda: hub.request("GET", "/home", [*alice, (TOKEN_HEADER, token)])[0] == 302)
    bob = hub.session(token, alice)
    status, _, page = hub.request("GET", "/home", [*bob, (TOKEN_HEADER, token)])
    assert (status, "bob" in page, "alice" in page) == (200, True, False)
    # The tokens by which alice's servers knew this browser were those of its old session.
    one, other = (re.search(r"jupyterhub-session-id=(\w+)", cookie)[1] for (_, cookie) in (*alice, *bob))
    assert one != other


@pytest.mark.parametrize("name", ["oidc_server", "brics_platform", "jwt_audience"])
def test_not_configured(authenticator: BricsAuthenticator, name: str) -> None:
    """A hub in which nobody could log in doesn't start, and says why."""
    setattr(authenticator, name, "")
    with pytest.raises(ValueError, match=name):
        authenticator.get_handlers(None)
