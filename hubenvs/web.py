"""HTTP requests to the containers."""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Returns a redirect as an answer instead of following it."""

    def redirect_request(self, *_: object) -> None:
        return None


# Pods are on this host; a web proxy (http_proxy) would look for them on its own host.
_DIRECT = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def without_password(url: str) -> str:
    """Return ``url`` without a user's name and password, to be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _request(url: str) -> urllib.request.Request:
    """Return a request for ``url``, whose user's name and password go into a header."""
    request = urllib.request.Request(without_password(url))
    parts = urlsplit(url)
    if parts.username:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(word).decode()}")
    return request


def http_text(url: str, timeout: float = 30.0) -> str:
    """Return the text at ``url``, read through the environment's web proxy; OSError if that fails."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return str(answer.read().decode(errors="replace"))


def http_status(url: str, timeout: float = 5.0, proxied: bool = False) -> int | None:
    """Return the HTTP status of ``url``; None without an answer within ``timeout`` seconds.

    Redirects aren't followed. ``proxied``: use the environment's web proxy (http_proxy), and follow them.
    """
    try:
        with (urllib.request.urlopen if proxied else _DIRECT.open)(_request(url), timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):  # HTTPException: the server doesn't speak HTTP
        return None
