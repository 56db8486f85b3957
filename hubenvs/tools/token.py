"""Task `token`: an ID token of a user, signed like the bundled provider's."""

from __future__ import annotations

from ..deployment import folder
from ..plan.tokens import sign_token
from ..session import Session


def token(
    session: Session,
    user: str,
    *,
    audience: str | None,
    platform: str | None,
    lifetime: int | None,
    expired: bool,
) -> None:
    """Print an ID token of ``user`` for the header X-Auth-Id-Token.

    ``audience`` and ``platform`` replace those of the environment, ``lifetime`` (seconds) its token_lifetime.
    ``expired``: the token is no longer valid. Raises DefinitionError for an external provider or an unknown
    user.
    """
    changes = {"audience": audience, "platform": platform}
    auth = session.env.auth.model_copy(update={key: value for key, value in changes.items() if value})
    key_set = folder.read_secrets(session.env.deploy_folder).get("jwks", "")
    env = session.env.model_copy(update={"auth": auth})
    print(sign_token(env, key_set, user, lifetime, expired))
