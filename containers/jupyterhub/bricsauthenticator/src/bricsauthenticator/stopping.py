"""Servers can be stopped at any moment, by several people at once: a stop that is asked for never fails, and ends.

JupyterHub's own stop answers 500 while the server is being started or stopped already, and gives up if the proxy
can't be reached. The service that stops idle servers can't stop one whose kernel computes.
"""

import asyncio
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from jupyterhub import apihandlers, orm
from jupyterhub.apihandlers.users import UserAPIHandler, UserServerAPIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.proxy import Proxy
from jupyterhub.scopes import needs_scope
from jupyterhub.spawner import Spawner
from jupyterhub.user import User
from tornado import web
from tornado.httpclient import AsyncHTTPClient

from bricsauthenticator.job import keep

LOOK_PAUSE = 0.2
"""Seconds between two looks at a server that is pending for a reason that can't be waited for."""

CULLER = "idle-culler"
"""The service that stops servers which nobody uses."""

KERNELS_TIME = 10.0
"""Seconds in which a server must say what its kernels do."""


@dataclass
class Stop:
    """A stop on its way: `task` ends when the server has stopped; `remove` is whether it is forgotten then."""

    remove: bool = False
    task: asyncio.Future[None] = field(init=False)


_stops: weakref.WeakKeyDictionary[Spawner, Stop] = weakref.WeakKeyDictionary()


def stop(handler: BaseHandler, user: User, spawner: Spawner, remove: bool = False) -> asyncio.Future[None]:
    """Begin to stop a server, or join a stop that has begun, and return its task."""
    under_way = _stops.get(spawner)
    if under_way is None or under_way.task.done():
        under_way = _stops[spawner] = Stop()
        under_way.task = asyncio.ensure_future(_stop(handler, user, spawner, under_way))
        keep(under_way.task)
    under_way.remove |= remove
    return under_way.task


async def _stop(handler: BaseHandler, user: User, spawner: Spawner, under_way: Stop) -> None:
    """Interrupt the start, wait until nothing else goes on with the server, and stop it."""
    start = spawner._spawn_future
    if start and not start.done() and not spawner._stop_pending:  # else it has failed, and cleans up by itself
        handler.log.warning("Interrupting the start of %s", spawner._log_name)
        start.cancel()
    while spawner.pending:
        # A spawner that has never been stopped has no attribute for it.
        candidates = (spawner._spawn_future, getattr(spawner, "_stop_future", None))
        futures = [future for future in candidates if future and not future.done()]
        await (asyncio.wait(futures) if futures else asyncio.sleep(LOOK_PAUSE))
    is_current = dict.get(user.spawners, spawner.name) is spawner
    if spawner.server and is_current:
        await (await BaseHandler.stop_single_user(handler, user, spawner.name))
    if under_way.remove:
        await _remove(user, spawner)


async def _remove(user: User, spawner: Spawner) -> None:
    """Forget a server that has stopped, unless it is started again already."""
    await user._delete_spawner(spawner)
    other = dict.get(user.spawners, spawner.name)
    if other is None or not other.active:
        user.spawners.pop(spawner.name, None)
        user.db.delete(spawner.orm_spawner)
        user.db.commit()


async def delete_user(self: Proxy, user: User, server_name: str = "", original: Callable = Proxy.delete_user) -> None:
    """Delete a stopping server's route; if the proxy is away, the hub's next comparison of routes does it."""
    try:
        await original(self, user, server_name)
    except Exception as error:
        self.log.warning("The proxy still has the route of %s:%s: %s", user.name, server_name, error)


Proxy.delete_user = delete_user


async def computes(spawner: Spawner, token: str) -> bool:
    """Return whether one of the server's kernels is busy; to JupyterHub one that prints nothing is idle."""
    try:
        answer = await AsyncHTTPClient().fetch(
            f"{spawner.server.url}api/kernels",
            headers={"Authorization": f"token {token}"},
            connect_timeout=KERNELS_TIME,
            request_timeout=KERNELS_TIME,
        )
        return any(kernel["execution_state"] == "busy" for kernel in json.loads(answer.body))
    except Exception as error:  # a server without a kernels API
        spawner.log.debug("%s: kernels not known: %s", spawner._log_name, error)
        return False


class ServerHandler(UserServerAPIHandler):
    """Starts and stops servers."""

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server, and forget it if the body says `{"remove": true}`: 204, or 202 while it still stops.

        Also 202 to the service that stops idle servers, for one that computes.
        """
        body = self.get_json_body() or {}
        if not isinstance(body, dict):
            raise web.HTTPError(400, "The body must be an object")
        remove = bool(body.get("remove"))
        user = self.find_user(user_name)
        spawner = dict.get(user.spawners, server_name) if user else None
        if spawner is None or not spawner.active or (remove and not server_name):
            await super().delete(user_name, server_name)
            return
        is_culler = isinstance(self.current_user, orm.Service) and self.current_user.name == CULLER
        if is_culler and spawner.ready and await computes(spawner, self.get_auth_token()):
            self.log.info("%s: nobody uses the server, but a kernel computes; it stays", spawner._log_name)
            self.set_status(202)
            return
        task = stop(self, user, spawner, remove)
        await asyncio.wait([task], timeout=self.slow_stop_timeout)
        if task.done():
            task.result()
        self.set_header("Content-Type", "text/plain")
        self.set_status(204 if task.done() else 202)


class UserHandler(UserAPIHandler):
    """Shows, changes and deletes users."""

    @needs_scope("delete:users")
    async def delete(self, user_name: str) -> None:
        """Stop all servers of a user, and delete the user; 400 if a server takes long to stop."""
        user = self.find_user(user_name)
        if user and self.current_user and user.name != self.current_user.name:
            active = [spawner for spawner in user.spawners.values() if spawner.active]
            tasks = [stop(self, user, spawner) for spawner in active]
            if tasks and (await asyncio.wait(tasks, timeout=self.slow_stop_timeout))[1]:
                raise web.HTTPError(400, f"The servers of {user.name} are stopping. Try again in a minute.")
        await super().delete(user_name)

    @needs_scope("admin:users")
    async def patch(self, user_name: str) -> None:
        """Change a user; 400 for another name while a server is active, since its address has the old one."""
        data, user = self.get_json_body(), self.find_user(user_name)
        if isinstance(data, dict) and "name" in data:
            if data["name"] == user_name:
                # The admin page sends it with every change, and JupyterHub 5.5 and 6.1 leave the user without a name.
                del data["name"]
                self.request.body = json.dumps(data).encode()
            elif user and any(spawner.active for spawner in user.spawners.values()):
                raise web.HTTPError(400, f"Stop the servers of {user.name} first: their addresses have this name.")
        await super().patch(user_name)


# The first handler of a path is the one that counts.
_INSTEAD = {UserServerAPIHandler: ServerHandler, UserAPIHandler: UserHandler}
apihandlers.default_handlers[:0] = [
    (path, _INSTEAD[handler]) for path, handler, *_ in apihandlers.default_handlers if handler in _INSTEAD
]
