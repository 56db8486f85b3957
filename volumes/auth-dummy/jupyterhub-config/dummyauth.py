"""Log-in by one password, for development: what BricsAuthenticator learns from a token is made from the settings."""

import os
import secrets
from typing import TypedDict

from jupyterhub.auth import Authenticator
from jupyterhub.handlers import BaseHandler
from traitlets import Unicode, default


class Project(TypedDict):
    """A project as BricsSlurmSpawner finds it in ``auth_state``: its name, and the user's account in it."""

    name: str
    username: str


def projects_of(user: str, accounts: str, portal: str) -> dict[str, Project]:
    """Return ``user``'s projects.

    :param accounts: account names, ``<user>.<project>``, one a line.
    :param portal: the portal that all projects are of.
    :return: by ``<project>.<portal>``.
    """
    return {
        f"{project}.{portal}": {"name": f"Project {project}", "username": f"{name}.{project}"}
        for name, _, project in (account.partition(".") for account in accounts.split())
        if name == user
    }


class DummyBricsAuthenticator(Authenticator):
    """Whoever knows the password is the one user, with all projects the settings give that user."""

    password = Unicode(help="The password.").tag(config=True)
    user = Unicode(help="The user; without one, the first of `accounts`.").tag(config=True)
    accounts = Unicode(help="Account names, <user>.<project>, one a line.").tag(config=True)
    portal = Unicode(help="The portal that all projects are of.").tag(config=True)

    @default("password")
    def _password_default(self) -> str:
        return os.environ["DEPLOY_CONFIG_DUMMYAUTH_PASSWORD"]

    @default("user")
    def _user_default(self) -> str:
        return os.environ.get("DEPLOY_CONFIG_AUTH_USER") or self.accounts.split()[0].partition(".")[0]

    @default("accounts")
    def _accounts_default(self) -> str:
        return os.environ["DEPLOY_CONFIG_DEV_USERS"]

    @default("portal")
    def _portal_default(self) -> str:
        return os.environ.get("DEPLOY_CONFIG_BRICS_PORTAL") or "brics"

    async def authenticate(self, handler: BaseHandler, data: dict[str, str]) -> dict[str, object] | None:
        """Return the user and projects when ``data`` has the password, else None."""
        # The form has no such field, but the hub looks for it again to show after a wrong password.
        data.setdefault("username", self.user)
        if not secrets.compare_digest(data.get("password", "").encode(), self.password.encode()):
            return None
        return {"name": self.user, "auth_state": projects_of(self.user, self.accounts, self.portal)}
