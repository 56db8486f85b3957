"""What the hub does while its database is locked, full or away: requests are 503, starts and stops end well."""

import asyncio
from collections.abc import Callable
from typing import Any

from jupyterhub.crypto import decrypt
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from sqlalchemy.exc import OperationalError, PendingRollbackError
from tornado import web

from bricsauthenticator.commands import pauses

FAILED = (OperationalError, PendingRollbackError)
"""What is raised while the database is locked or away, and after that until somebody rolls the session back."""


class DatabaseBusy(web.HTTPError):
    """The answer to a request that found the database locked or away: 503."""

    headers = {"Retry-After": "10"}

    def __init__(self) -> None:
        super().__init__(503, "The hub's database can't be used at the moment. Try again in a minute.")


async def get_current_user(self: BaseHandler, original: Callable = BaseHandler.get_current_user) -> object:
    """Return the user who asks. Keeps a database error, which prepare() would take for a wrong token.

    A database that can only be read, as on a full disk, still knows the user; the visit isn't recorded.
    """
    try:
        return await original(self)
    except FAILED as error:
        if "locked" in str(error) or "_record_activity" in vars(self):
            self.database_error = error
            raise
        self.log.warning("Rolling back session due to database error %s", error)
    self.db.rollback()
    del self._jupyterhub_user
    self._record_activity = lambda *_: False
    return await get_current_user(self, original)


async def prepare(self: BaseHandler, original: Callable = BaseHandler.prepare) -> None:
    """Prepare the request; 503 if the database couldn't say who asks."""
    try:
        await original(self)
    finally:
        if getattr(self, "database_error", None):
            raise DatabaseBusy from None


def handle_exception(
    self: BaseHandler, error: BaseException, original: Callable = BaseHandler._handle_request_exception
) -> None:
    """Answer a request that has failed; 503 if the database was the reason."""
    if isinstance(error, FAILED):
        self.log.warning("Rolling back session due to database error %s", error)
        self.db.rollback()
        error = DatabaseBusy()
    original(self, error)


async def stop(self: User, server_name: str = "", original: Callable = User.stop) -> None:
    """Stop the server, again until the database has recorded it: JupyterHub's stop would stay pending for ever."""
    spawner = None
    for pause in pauses(1.0):
        try:
            spawner = spawner or self.spawners[server_name]
            await original(self, server_name)
            return
        except FAILED as error:
            self.db.rollback()  # first: no name can be read from the database before
            self.log.warning("The stop of a server (%r) isn't saved yet: %s", server_name, error)
        if spawner:  # JupyterHub may have dropped it, and the next try would stop a server that is started meanwhile
            self.spawners[server_name] = spawner
            spawner._stop_pending = True
        await asyncio.sleep(pause)


async def spawn(self: User, server_name: str = "", *args: Any, original: Callable = User.spawn, **more: Any) -> object:
    """Start the server; if the database fails, DatabaseBusy, and nothing is left of the start."""
    try:
        return await original(self, server_name, *args, **more)
    except FAILED as error:
        self.db.rollback()
        self.log.warning("The start of a server (%r) couldn't be saved: %s", server_name, error)
        spawner = dict.get(self.spawners, server_name)
        if spawner and spawner._start_pending:  # JupyterHub hasn't cleaned up
            spawner._start_pending = False
            await self.stop(server_name)
        raise DatabaseBusy from None


async def save_auth_state(self: User, auth_state: dict, original: Callable = User.save_auth_state) -> None:
    """Save the state. JupyterHub also does this when it reads one after `invoke secrets --rotate`: that can wait."""
    try:
        await original(self, auth_state)
    except FAILED as error:
        self.db.rollback()
        if not self.encrypted_auth_state or await decrypt(self.encrypted_auth_state) != auth_state:
            raise
        self.log.warning("The log-in's state isn't encrypted with the newest key yet: %s", error)


BaseHandler.get_current_user = get_current_user
BaseHandler.prepare = prepare
BaseHandler._handle_request_exception = handle_exception
User.save_auth_state = save_auth_state
User.stop = stop
User.spawn = spawn
