"""Log-in by the OpenID Connect ID token that a gateway puts into the request header X-Auth-Id-Token."""

import logging
import re
import time
from typing import Any

import jwt
from jupyterhub.auth import Authenticator
from jupyterhub.handlers import BaseHandler, LogoutHandler
from jupyterhub.user import User
from tornado import web
from traitlets import Bool, Float, Unicode, default

from bricsauthenticator.oidc import RETRY_INTERVAL, SAFE_ALGORITHMS, Provider, ProviderUnavailableError
from bricsauthenticator.projects import ClaimError, parse_projects, user_of

TOKEN_HEADER = "X-Auth-Id-Token"

REQUIRED_CLAIMS = ["aud", "exp", "iss", "iat", "short_name", "projects"]

SHORT_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""User names of the hub: lower case, because JupyterHub folds case and two people must not become one."""

REFRESH_INTERVAL = 300.0
"""Seconds between two looks at the projects in the tokens that come with a user's requests."""

# A JWT is base64url of `{"…` or `{ "…`, a dot, and more of the kind.
_TOKEN = re.compile(r"\be[wy][\w-]{14,}\.[\w-]+(\.[\w-]*)?", re.ASCII)


class MissingTokenError(web.HTTPError):
    """401: the request has no ID token, or several."""

    def __init__(self) -> None:
        super().__init__(401, "The request has no ID token. Please sign in through the portal.")
        self.headers: dict[str, str] = {}


class InvalidTokenError(web.HTTPError):
    """401: the request's ID token isn't valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(401, "Your sign-in could not be verified: %s. Please sign in again.", reason)
        self.headers: dict[str, str] = {}


class UnavailableError(web.HTTPError):
    """503: the ID token can't be verified now."""

    def __init__(self) -> None:
        super().__init__(503, "The sign-in service does not answer. Please try again in a moment.")
        self.headers = {"Retry-After": str(round(RETRY_INTERVAL))}


class TokenScrubber(logging.Formatter):
    """Removes JWTs from what `formatter` returns: JupyterHub logs a request's headers if it ends in a 500."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, traceback included, without tokens."""
        return _TOKEN.sub("[ID token]", self._formatter.format(record))


class BricsLoginHandler(BaseHandler):
    """Logs the user in by the request's ID token; there is no form."""

    def set_login_cookie(self, user: User) -> None:
        """Log this browser in as `user`, and end the sessions with servers that another user had in it."""
        before = self.get_current_user_cookie()
        if before and before.name != user.name:
            self.clear_login_cookie()
            self.set_session_cookie()
        super().set_login_cookie(user)

    async def get(self) -> None:
        """Log in and go on to the page asked for; 401, 403 or 503 if the token doesn't allow it."""
        try:
            user = await self.login_user()
        except InvalidTokenError:
            if not self.authenticator.invalid_jwt_logout:
                raise
            self.redirect(self.settings["logout_url"])
            return
        if user is None:
            raise web.HTTPError(403)
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))


class BricsLogoutHandler(LogoutHandler):
    """Logs the user out of the hub, then of the gateway."""

    async def render_logout_page(self) -> None:
        """Redirect to `logout_redirect_url`, or show the hub's own page if there is none."""
        if self.authenticator.logout_redirect_url:
            self.redirect(self.authenticator.logout_redirect_url, permanent=False)
        else:
            await super().render_logout_page()


class BricsAuthenticator(Authenticator):
    """Authenticates by ID token; the user's projects on this platform become `auth_state`."""

    oidc_server = Unicode(help="Issuer URL of the OpenID Connect provider; `iss` must equal it").tag(config=True)
    oidc_proxy = Unicode(help="URL of the web proxy that leads to the provider; empty: none is needed").tag(config=True)
    brics_platform = Unicode(help="Name of the resource that a project needs to be usable here").tag(config=True)
    jwt_audience = Unicode(help="Required audience of the ID token").tag(config=True)
    jwt_leeway = Float(5.0, min=0, help="Seconds by which clocks may differ").tag(config=True)
    jwt_azp = Unicode(help="Required authorized party (`azp`) of the ID token; empty: not looked at").tag(config=True)
    match_username = Bool(
        True, help="Leave out projects whose account isn't named `<short_name>.<project>`, but another user's"
    ).tag(config=True)
    logout_redirect_url = Unicode(help="Where to go after log-out, such as the gateway's sign-out URL").tag(config=True)
    invalid_jwt_logout = Bool(
        help="Send a browser with an invalid ID token to the log-out page (so to logout_redirect_url), not to a 401"
    ).tag(config=True)

    @default("auto_login")
    def _auto_login_default(self) -> bool:
        return True

    @default("enable_auth_state")
    def _enable_auth_state_default(self) -> bool:
        return True

    @default("auth_refresh_age")
    def _auth_refresh_age_default(self) -> int:
        # So that refresh_user() sees every request: another person may use the browser from one to the next.
        return 1

    @default("allow_all")
    def _allow_all_default(self) -> bool:
        # A project on the platform allows a user in; a site may name further users.
        return not self.allowed_users

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._provider = Provider(self.oidc_server, self.oidc_proxy)
        self._next_refresh: dict[str, float] = {}

    def get_handlers(self, app: Any) -> list[tuple[str, type[web.RequestHandler]]]:
        """Return the pages for log-in and log-out, and keep tokens out of the log of `app`.

        Raises ValueError if a trait that log-ins need is not set.
        """
        for name in ("oidc_server", "brics_platform", "jwt_audience"):
            if not getattr(self, name):
                raise ValueError(f"c.BricsAuthenticator.{name} is not set")
        for handler in app.log.handlers:
            handler.setFormatter(TokenScrubber(handler.formatter or logging.Formatter()))
        return [("/login", BricsLoginHandler), ("/logout", BricsLogoutHandler)]

    async def authenticate(self, handler: BaseHandler, data: object = None) -> dict[str, Any]:
        """Return the user's name and projects from the ID token in the request.

        Raises MissingTokenError or InvalidTokenError (401), web.HTTPError 403 if the user has no project on the
        platform, UnavailableError (503) if the provider can't be asked.
        """
        tokens = handler.request.headers.get_list(TOKEN_HEADER)
        if len(tokens) != 1 or not tokens[0]:
            raise MissingTokenError
        try:
            claims = await self._verified_claims(tokens[0])
            if not isinstance(claims["short_name"], str) or not SHORT_NAME.fullmatch(claims["short_name"]):
                raise ClaimError("short_name is not a valid user name")
            projects = parse_projects(claims["projects"], self.brics_platform)
            if self.match_username:
                projects = {key: one for key, one in projects.items() if user_of(one) == claims["short_name"]}
        except ProviderUnavailableError as error:
            self.log.error("OpenID Connect provider unavailable: %s", error)
            raise UnavailableError from None
        except Exception as error:  # a token that makes a library fail is a bad token, not a fault of the hub
            known = _REASONS.get(type(error), "the ID token is invalid")
            reason = str(error) if isinstance(error, ClaimError) else known
            self.log.warning("ID token refused (%s): %s", type(error).__name__, reason)
            raise InvalidTokenError(reason) from None
        if not projects:
            self.log.warning("No project of %s is on the platform %s", claims["short_name"], self.brics_platform)
            raise web.HTTPError(403, "None of your projects may use this service (%s).", self.brics_platform)
        return {"name": claims["short_name"], "auth_state": projects}

    async def refresh_user(self, user: User, handler: BaseHandler | None = None) -> bool | dict[str, Any]:
        """Take over the projects of a newer token of the same user, if the request has one; else leave all as it is.

        Returns False, so that whoever asks must log in again, when the newer token has no project on the platform any
        more, or is another person's: then the browser's cookie is of somebody who used it before.
        """
        token = handler.request.headers.get(TOKEN_HEADER) if handler else None
        if not token or not _is_own_request(user, handler):
            return True
        if _names_another(token, user.name):
            return False
        if time.monotonic() < self._next_refresh.get(user.name, 0):
            return True
        refreshed: bool | dict[str, Any] = True
        try:
            authenticated = await self.authenticate(handler)
            refreshed = {"auth_state": authenticated["auth_state"]}
        except web.HTTPError as error:
            if error.status_code == 403:
                return False
        self._next_refresh[user.name] = time.monotonic() + REFRESH_INTERVAL
        return refreshed

    async def _verified_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token from the provider, for us, valid now; any exception means that it is refused."""
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in SAFE_ALGORITHMS or not isinstance(key_id, str):
            raise jwt.InvalidAlgorithmError
        # An access or log-out token has the same issuer and key: RFC 9068 names it in the header, Keycloak in a claim.
        if str(header.get("typ", "JWT")).upper() != "JWT":
            raise ClaimError("the token is not an ID token")
        try:
            claims = await self._signed_claims(token, key_id, algorithm)
        except jwt.InvalidSignatureError:  # a provider that starts anew may reuse the names of its old keys
            claims = await self._signed_claims(token, key_id, algorithm, again=True)
        if claims.get("typ", "ID") != "ID":
            raise ClaimError("the token is not an ID token")
        if self.jwt_azp and claims.get("azp") != self.jwt_azp:
            raise ClaimError("the ID token was issued to another service")
        return claims

    async def _signed_claims(self, token: str, key_id: str, algorithm: str, again: bool = False) -> dict[str, Any]:
        """Return the claims that the provider has signed for us; `again`: with keys that are fetched anew."""
        key = await self._provider.signing_key(key_id, algorithm, again)
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self.jwt_audience,
            issuer=self.oidc_server,
            leeway=self.jwt_leeway,
            options={"require": REQUIRED_CLAIMS},
        )


def _is_own_request(user: User, handler: BaseHandler) -> bool:
    """Return whether the request is by `user`; an administrator's may be about `user`, with a token of their own."""
    # JupyterHub sets it when it knows who asks, and to know it asks refresh_user() first.
    asking = getattr(handler, "_jupyterhub_user", None)
    return asking is None or asking.name == user.name


def _names_another(token: str, name: str) -> bool:
    """Return whether `token` claims to be of another user. It isn't verified: enough to refuse, never to accept."""
    try:
        claimed = jwt.decode(token, options={"verify_signature": False}).get("short_name")
    except Exception:  # it is malformed, which the log-in reports
        return False
    return isinstance(claimed, str) and claimed != name


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the ID token has expired",
    jwt.ImmatureSignatureError: "the ID token is not valid yet",
    jwt.InvalidAudienceError: "the ID token is for another service",
    jwt.InvalidIssuerError: "the ID token is from another issuer",
    jwt.InvalidSignatureError: "the ID token's signature is wrong",
    jwt.MissingRequiredClaimError: "the ID token lacks a claim",
}
