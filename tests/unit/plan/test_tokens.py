"""Tokens for scripts: what the bundled provider would sign."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.errors import DefinitionError
from hubenvs.plan import keys
from hubenvs.plan.tokens import sign_token

KEY_SET = keys.signing_keys()


@pytest.fixture
def real(root: Path) -> Environment:
    """dev_realauth with the example's users: alice in two projects, bob in one of them."""
    return read_environment(root, "dev_realauth")


def verified(token: str, audience: str = "jupyterhub", **options: bool) -> dict[str, object]:
    """Return the claims of ``token`` as a relying party sees them, by the public key."""
    key = json.loads(KEY_SET)["keys"][0]
    public = jwt.PyJWK({name: key[name] for name in ("kty", "n", "e")}, "RS256").key
    claims: dict[str, object] = jwt.decode(
        token, public, algorithms=["RS256"], audience=audience, options=options
    )
    return claims


def test_a_token_has_the_users_projects_on_the_platform(real: Environment) -> None:
    """Each project once, with the account that the user has in it."""
    claims = verified(sign_token(real, KEY_SET, "alice"))
    assert claims["short_name"] == "alice"
    assert claims["iss"] == "http://127.0.0.1:9000"
    projects = claims["projects"]
    assert isinstance(projects, dict)
    assert {name: item["resources"] for name, item in projects.items()} == {
        "project1.brics": [{"name": "dev.platform", "username": "alice.project1"}],
        "project2.brics": [{"name": "dev.platform", "username": "alice.project2"}],
    }


def test_a_token_lasts_as_long_as_asked(real: Environment) -> None:
    """By default as long as the provider's own; an expired one was valid once."""
    now = time.time()
    assert verified(sign_token(real, KEY_SET, "alice", 5))["exp"] == pytest.approx(now + 5, abs=2)
    assert verified(sign_token(real, KEY_SET, "alice"))["exp"] == pytest.approx(now + 3600, abs=2)
    expired = sign_token(real, KEY_SET, "alice", expired=True)
    with pytest.raises(jwt.ExpiredSignatureError):
        verified(expired)
    old = verified(expired, verify_exp=False)
    assert old["iat"] < old["exp"]  # type: ignore[operator]


def test_only_dev_users_of_the_bundled_provider_get_tokens(real: Environment, env: Environment) -> None:
    """A misspelt name gets a suggestion; where log-in is by password there is nothing to sign."""
    with pytest.raises(DefinitionError, match="did you mean 'alice'"):
        sign_token(real, KEY_SET, "alise")
    with pytest.raises(DefinitionError, match="no provider of its own"):
        sign_token(env, KEY_SET, "alice")
