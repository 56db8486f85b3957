"""Pages and API handlers that replace JupyterHub's and batchspawner's own."""

from collections.abc import Callable
from typing import Any

from jupyterhub import apihandlers, handlers
from jupyterhub.apihandlers.users import SpawnProgressAPIHandler
from jupyterhub.handlers import LogoutHandler, pages
from jupyterhub.spawner import Spawner
from jupyterhub.user import User
from jupyterhub.utils import compare_token, new_token
from tornado import web

MOST_SAID = 4000
"""Characters of a job's message that are shown."""


class JobHandler(apihandlers.APIHandler):
    """A message of a job to the hub, with its server's token and, optionally, its number as `job`."""

    def spawner_of_token(self) -> Spawner:
        """Return the spawner of the server whose token the request carries; 403 if there is none.

        Also 403 if its job is another: a start whose connection was reset may have been submitted twice.
        """
        token = self.get_auth_token()
        # Services have tokens as well, and no servers.
        spawners = self.current_user.spawners.values() if isinstance(self.current_user, User) else ()
        spawner = next((spawner for spawner in spawners if token and is_token_of(spawner, token)), None)
        if spawner is None:
            raise web.HTTPError(403, "Not the token of a server")
        known, job = getattr(spawner, "job_id", ""), self.said().get("job")
        if known and job and job != known:
            raise web.HTTPError(403, "Another job runs this server")
        return spawner

    def said(self) -> dict[str, Any]:
        """Return the JSON object in the request's body; an empty one if it is something else."""
        data = self.get_json_body()
        return data if isinstance(data, dict) else {}


class RunningHandler(JobHandler):
    """Takes a job's message that it runs, and tells it whether its start is known: 403 if it isn't; it should end."""

    @web.authenticated
    def post(self) -> None:
        """Answer 200 or 403."""
        if take_running := getattr(self.spawner_of_token(), "take_running", None):  # not a spawner of another source
            take_running()
        self.finish({})


class PortHandler(JobHandler):
    """Takes the port that a starting server listens on, as `{"port": 12345}`, once it knows the server's job.

    It stands in for batchspawner's handler, which lets whoever has a server's token set any attribute of its spawner,
    the commands that the hub runs included. The answer says whether the start is still `pending`: it may fail yet.
    """

    @web.authenticated
    def post(self) -> None:
        """Set the port of the server whose token the request carries; 400 or 403 if that can't be."""
        spawner = self.spawner_of_token()
        said = self.said()
        port = said.get("port") if said.keys() <= {"port", "job"} else None
        if type(port) is not int or not getattr(spawner, "lowest_port", 1) <= port < 65536:
            raise web.HTTPError(400, "The body must be a port only, one that a job can listen on")
        if "job" in said and not getattr(spawner, "job_id", ""):
            pending = True  # told again
        elif take_port := getattr(spawner, "take_port", None):
            pending = take_port(port)
        else:  # a spawner of another source
            spawner.port, pending = port, False
        self.set_status(201)
        self.finish({"message": "BatchSpawner data configured", "pending": pending})


class FailedHandler(JobHandler):
    """Takes the reason for which a job can't go on, as `{"message": "..."}`, for its user to read."""

    @web.authenticated
    def post(self) -> None:
        """Keep the message; 400 or 403 if that can't be."""
        spawner = self.spawner_of_token()
        message = self.said().get("message")
        if not isinstance(message, str):
            raise web.HTTPError(400, "The body must have a message")
        said = "".join(c if c.isprintable() or c == "\n" else " " for c in message)[:MOST_SAID]
        if take_failure := getattr(spawner, "take_failure", None):  # not a spawner of another source
            take_failure(said)
        self.finish({})


class EndedHandler(JobHandler):
    """Takes a job's message that its server has ended, and stops sending requests to its port."""

    @web.authenticated
    def post(self) -> None:
        """Answer 200 or 403."""
        if take_end := getattr(self.spawner_of_token(), "take_end", None):  # not a spawner of another source
            take_end()
        self.finish({})


class ProgressHandler(SpawnProgressAPIHandler):
    """Streams the progress of a start: each event once, and only while somebody reads."""

    told: dict[str, Any] = {}
    gone = False

    def on_connection_close(self) -> None:
        """Note that nobody reads any more; JupyterHub's handler notices only at the next event."""
        self.gone = True

    async def send_event(self, event: dict[str, Any]) -> None:
        """Send `event`, unless it was sent before."""
        if self.gone:
            raise web.Finish
        if event != self.told:
            self.told = event
            await super().send_event(event)


def is_token_of(spawner: Spawner, token: str) -> bool:
    """Return whether `token` is that of the server of `spawner`, whichever hub process gave it to the server."""
    if spawner.api_token:
        return spawner.api_token == token
    # After a restart only a hash of it is left: it is also the secret of the server's OAuth client.
    client = spawner.orm_spawner.oauth_client
    return bool(client and client.secret and compare_token(client.secret, token))


class SpawnHandler(pages.SpawnHandler):
    """The spawn page, which answers 400 where JupyterHub's stumbles over options that are no text.

    JupyterHub's starts a server by a GET with parameters, so by a link on another site; here they fill the form in.
    """

    chosen: dict[str, str] = {}

    async def prepare(self) -> None:
        """Find out who asks; 400 unless all arguments of the request are UTF-8."""
        await super().prepare()
        for name, values in self.request.arguments.items():
            for value in values:
                self.decode_argument(value, name)

    def get(self, *args: str) -> Any:
        """Show the form, filled in with the parameters."""
        self.chosen = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        self.request.query_arguments = {}
        return super().get(*args)


def end_logins(self: LogoutHandler, name: str, original: Callable = LogoutHandler._backend_logout_cleanup) -> None:
    """Log the user out. JupyterHub takes the cookie from the browser alone, and a copy of it would hold for days.

    Its value is the same in all browsers of the user, so the hub asks for a log-in in the others too.
    """
    user = self.current_user
    original(self, name)
    user.orm_user.cookie_id = new_token()
    self.db.commit()


LogoutHandler._backend_logout_cleanup = end_logins


# The first handler of a path is the one that counts.
apihandlers.default_handlers[:0] = [
    (r"/api/batchspawner", PortHandler),
    (r"/api/batchspawner/running", RunningHandler),
    (r"/api/batchspawner/failed", FailedHandler),
    (r"/api/batchspawner/ended", EndedHandler),
    *(
        (path, ProgressHandler)
        for path, handler, *_ in apihandlers.default_handlers
        if handler is SpawnProgressAPIHandler
    ),
]
handlers.default_handlers[:0] = [
    (path, SpawnHandler) for path, handler, *_ in handlers.default_handlers if handler is pages.SpawnHandler
]
