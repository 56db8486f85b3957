"""ID tokens on the running pod: every one that must not get in, those that must, and changed signing keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from .helpers import ROOT, Deployment, invoke, sign, signing_keys, wait_until
from .tokens import Claims, Tokens, of_size, pem, project, tampered

pytestmark = pytest.mark.environments("dev_realauth")

# How the name of the cookie of somebody who has logged in begins.
SESSION = "jupyterhub-hub-login"

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
    "an access token: `typ` at+jwt in its header": lambda tokens: (
        tokens.with_header(tokens.key_set, typ="at+jwt"),
    ),
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
    "an access token: claim `typ` Bearer": {"typ": "Bearer"},
    "claim `typ` ID": {"typ": "ID"},
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
        for text in ("x; id", "-R", "../root", "root", "alice.project1\n", "alice.project2", "bob.project1")
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
    "claim `typ` ID",
    "`projects` as text with JSON",
    "24 KiB of projects",
}
NO_PROJECT = {"`projects` empty", "`projects` of another platform", "`username` 'bob.project1'"}


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


def test_no_log_has_a_token(deployment: Deployment) -> None:
    """After all of this: neither what containers print nor the files on the volumes hold one."""
    found = re.compile(r"eyJ[\w-]{20,}\.[\w-]{20,}")
    for container in deployment.status["containers"]:
        printed = deployment.engine.run(("podman", "logs", container["name"]))
        assert not found.search(printed.text + printed.stderr), container["name"]
    search = ("grep", "-rlE", "eyJ[A-Za-z0-9_-]{20,}[.]", "/var/lib/jupyterhub", "/srv/jupyterhub")
    assert deployment.run_in("jupyterhub", *search, check=False) == ""
