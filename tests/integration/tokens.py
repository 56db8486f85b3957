"""ID tokens of alice for the running pod: valid, changed and forged ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .helpers import START, Deployment, invoke, sign, signing_keys

# The claims that are times; here in seconds from now.
TIMES = {"iat", "exp", "nbf"}
Claims = dict[str, Any]


class Tokens:
    """Makes tokens of alice as the provider would, and others that must be refused."""

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
        return self.with_header(signing_keys(), **header)

    def with_header(self, key_set: str, **header: Any) -> str:
        """Return a token signed with a key of ``key_set``, with ``header`` fields (None: without one)."""
        key = json.loads(key_set)["keys"][0]
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


def project(
    name: str = "project1.brics", platform: str = "dev.platform", username: Any = "alice.project1"
) -> Claims:
    """Return a `projects` claim with one project."""
    return {name: {"name": "One", "resources": [{"name": platform, "username": username}]}}


def of_size(size: int) -> Claims:
    """Return a `projects` claim of about ``size`` bytes."""
    claim: Claims = {}
    length = 0
    while length < size:
        number = f"p{len(claim)}"
        one = project(f"{number}.brics", username=f"alice.{number}")
        claim |= one
        length += len(json.dumps(one))
    return claim


def pem(tokens: Tokens) -> bytes:
    return tokens.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def tampered(tokens: Tokens) -> str:
    header, _, signature = tokens.signed().split(".")
    return f"{header}.{base64url(json.dumps(tokens.changed(short_name='bob')).encode())}.{signature}"
