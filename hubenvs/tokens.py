"""ID tokens as the bundled provider signs them, for scripts and tests; pure, but for the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import jwt

from .errors import DefinitionError, StateError, suggestion
from .model import Environment

# How long ago an expired token expired, in seconds: more than any leeway that a hub would grant.
EXPIRED = 600


def claims(env: Environment, user: str) -> dict[str, Any]:
    """Return what the bundled provider says of ``user``: the short name, and the projects by ``<project>.<portal>``.

    Somebody who is not in dev_users has no project.
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
    """Return ``claims`` as a token signed with the first key of ``key_set`` (JSON Web Key Set with private keys)."""
    key = json.loads(key_set)["keys"][0]
    return jwt.encode(dict(claims), jwt.PyJWK(key, key["alg"]).key, key["alg"], headers={"kid": key["kid"]})


def token(env: Environment, key_set: str, user: str, lifetime: int | None = None, expired: bool = False) -> str:
    """Return an ID token of ``user`` that lasts ``lifetime`` seconds, or one that has ``expired``.

    Audience, platform and, by default, the lifetime are those of ``env``, whose provider's ``key_set`` signs it. Raises
    DefinitionError for an external provider or an unknown user, StateError if there is no key yet.
    """
    if env.auth.kind != "oidc" or env.auth.at_provider:
        raise DefinitionError(
            f"{env.name} has no provider of its own", "only the bundled one's tokens can be made here"
        )
    if user not in env.users:
        raise DefinitionError(f"--user {user}: not in dev_users", suggestion(user, env.users))
    if not key_set:
        raise StateError(f"{env.name} has no signing key yet", f"invoke up {env.options}")
    now = int(time.time())
    seconds = env.auth.token_lifetime if lifetime is None else lifetime
    issued = now - seconds - EXPIRED if expired else now
    times = {"iat": issued, "exp": issued + seconds}
    identity = {"iss": env.issuer, "aud": env.auth.audience, "sub": user}
    return sign({**identity, **times, **claims(env, user)}, key_set)
