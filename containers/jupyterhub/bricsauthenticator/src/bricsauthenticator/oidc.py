"""An OpenID Connect provider's discovery document and signing keys."""

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import jwt
from tornado.httpclient import AsyncHTTPClient

SAFE_ALGORITHMS = frozenset(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
"""Signatures by a key pair; never `none` or HMAC, where the published key would be the secret."""

FETCH_TIMEOUT = 3.0
"""Seconds to wait for the provider; a person waits at the log-in meanwhile."""

RETRY_INTERVAL = 2.0
"""Seconds after a failed fetch in which the provider isn't asked again, so that log-ins don't queue up behind it."""

UNKNOWN_KEY_INTERVAL = 5.0
"""Seconds between two fetches made because of a key identifier not seen before, or a signature that doesn't fit."""

DEFAULT_LIFETIME = 600
"""Seconds that a document is kept when the provider gives no `Cache-Control: max-age`."""

LIFETIME_LIMITS = (60, 86400)
"""Seconds that a document is kept at least and at most, whatever the provider says."""

LONGEST_DOCUMENT = 1 << 20
"""Bytes that are read of what comes by a web proxy."""

HEADERS = {"Accept": "application/json"}

T = TypeVar("T")


class ProviderUnavailableError(Exception):
    """The provider doesn't answer, or its answer can't be used."""


class Document(Generic[T]):
    """A JSON document at a URL, kept for as long as the provider allows; one request at a time, however many ask.

    `proxy`: URL of the web proxy that leads there; empty for none.
    """

    def __init__(self, url: str, parse: Callable[[Any], T], proxy: str = "") -> None:
        self.url = url
        self._parse = parse
        self._proxy = proxy
        self._lock = asyncio.Lock()
        self._content: T | None = None
        self._fresh_until = 0.0
        self._retry_after = 0.0

    async def get(self, refresh: bool = False) -> T:
        """Return the document, fetched anew if it is stale or `refresh`; ProviderUnavailableError if that fails."""
        async with self._lock:
            if self._content is not None and not refresh and time.monotonic() < self._fresh_until:
                return self._content
            if time.monotonic() < self._retry_after:
                raise ProviderUnavailableError(f"{self.url} failed a moment ago")
            try:
                body, cache_control = await self._fetch()
                content = self._parse(json.loads(body))
            except Exception as error:  # any error there means that the provider can't be used
                self._retry_after = time.monotonic() + RETRY_INTERVAL
                raise ProviderUnavailableError(f"{self.url}: {error}") from error
            self._content = content
            self._fresh_until = time.monotonic() + _lifetime(cache_control)
            return content

    async def _fetch(self) -> tuple[bytes, str]:
        """Return the content of the URL and its `Cache-Control`. Tornado's simple client knows no web proxies."""
        if self._proxy:
            return await asyncio.wait_for(asyncio.to_thread(_fetch_by, self._proxy, self.url), 2 * FETCH_TIMEOUT)
        response = await AsyncHTTPClient().fetch(
            self.url, headers=HEADERS, connect_timeout=FETCH_TIMEOUT, request_timeout=FETCH_TIMEOUT
        )
        return response.body, response.headers.get("Cache-Control", "")


class Provider:
    """An OpenID Connect provider; `issuer` is its URL, `proxy` that of the web proxy that leads there, if any."""

    def __init__(self, issuer: str, proxy: str = "") -> None:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        self._proxy = proxy
        self._discovery = Document(url, partial(_parse_discovery, issuer), proxy)
        self._keys = Document("", _parse_keys, proxy)
        self._next_unknown_key_fetch = 0.0

    async def signing_key(self, key_id: str, algorithm: str, again: bool = False) -> jwt.PyJWK | None:
        """Return the public key `key_id` if the provider signs with it by `algorithm`, else None.

        An unknown `key_id`, or `again`, makes the keys be fetched again, so that rotated keys are found, but only so
        often. Raises ProviderUnavailableError.
        """
        keys_url, algorithms = await self._discovery.get()
        if algorithm not in algorithms:
            return None
        if keys_url != self._keys.url:
            self._keys = Document(keys_url, _parse_keys, self._proxy)
        keys = await self._keys.get()
        if again or key_id not in keys:
            refresh = time.monotonic() >= self._next_unknown_key_fetch
            if refresh:
                self._next_unknown_key_fetch = time.monotonic() + UNKNOWN_KEY_INTERVAL
            # Without refresh this still waits for one that is under way.
            keys = await self._keys.get(refresh)
        jwk = keys.get(key_id)
        if jwk is None or jwk.get("alg", algorithm) != algorithm:
            return None
        return jwt.PyJWK(jwk, algorithm)


def _parse_discovery(issuer: str, document: Any) -> tuple[str, frozenset[str]]:
    # OpenID Connect Discovery 1.0, section 4.3: another issuer's document must not be used.
    if document["issuer"] != issuer:
        raise ValueError(f"its issuer is {document['issuer']!r}, not {issuer!r}")
    # Section 3: RS256 is always among the algorithms.
    offered = document.get("id_token_signing_alg_values_supported", ["RS256"])
    keys_url = document["jwks_uri"]
    if not keys_url.startswith(("https://", "http://")):
        raise ValueError("jwks_uri is not a URL")
    if issuer.startswith("https://") and not keys_url.startswith("https://"):
        raise ValueError("jwks_uri is not https, as the issuer is")
    return keys_url, SAFE_ALGORITHMS.intersection(offered)


def _parse_keys(document: Any) -> dict[str, dict[str, Any]]:
    return {
        key["kid"]: key
        for key in document["keys"]
        if key.get("kid") and key.get("use", "sig") == "sig" and key.get("kty") != "oct"
    }


def _fetch_by(proxy: str, url: str) -> tuple[bytes, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    with opener.open(urllib.request.Request(url, headers=HEADERS), timeout=FETCH_TIMEOUT) as response:
        return response.read(LONGEST_DOCUMENT), response.headers.get("Cache-Control", "")


def _lifetime(cache_control: str) -> float:
    given = re.search(r"\bmax-age=(\d{1,9})", cache_control)
    shortest, longest = LIFETIME_LIMITS
    return min(max(int(given[1]) if given else DEFAULT_LIFETIME, shortest), longest)
