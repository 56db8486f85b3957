"""ID tokens signed like the bundled provider's, for scripts and tests. Pure, except for the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import jwt

from ..definition.environment import Environment
from ..errors import DefinitionError, StateError, suggestion

# Seconds since an expired token expired: more than any leeway that a hub grants.
EXPIRED = 600


def claims(env: Environment, user: str) -> dict[str, Any]:
    """Return the claims of ``user``: the short name, and the projects by ``<project>.<portal>``.

    Somebody who isn't in dev_users has no project.
    """
    projects = {
        f"{item.project}.{env.auth.portal}": {
            "name": f"Project {item.project}",
            "resources": [{"name": env.auth.platform, "username": item.account}],
        }
        for item in env.dev_users
        if item.user == user
    }
    return {"short_name": user, "projects": projects}


def sign(claims: Mapping[str, Any], key_set: str) -> str:
    """Return ``claims`` as a token signed with the first private key of the JSON Web Key Set ``key_set``."""
    key = json.loads(key_set)["keys"][0]
    return jwt.encode(dict(claims), jwt.PyJWK(key, key["alg"]).key, key["alg"], headers={"kid": key["kid"]})


def sign_token(
    env: Environment, key_set: str, user: str, lifetime: int | None = None, expired: bool = False
) -> str:
    """Return an ID token of ``user`` that lasts ``lifetime`` seconds, or one that has ``expired``.

    ``key_set``: the signing keys of the provider of ``env``. ``lifetime``: by default that of ``env``. Raises
    DefinitionError for an external provider or an unknown user, StateError if there is no key yet.
    """
    if env.auth.kind != "oidc" or env.auth.is_external:
        hint = "get a token from the external provider"
        raise DefinitionError(f"{env.name} has no provider of its own", hint)
    if user not in env.users:
        raise DefinitionError(f"--user {user}: not in dev_users", suggestion(user, env.users))
    if not key_set:
        raise StateError(f"{env.name} has no signing key yet", f"invoke up {env.options}")
    now = int(time.time())
    seconds = env.auth.token_lifetime if lifetime is None else lifetime
    issued = now - seconds - EXPIRED if expired else now
    identity = {"iss": env.issuer, "aud": env.auth.audience, "sub": user}
    return sign({**identity, "iat": issued, "exp": issued + seconds, **claims(env, user)}, key_set)
