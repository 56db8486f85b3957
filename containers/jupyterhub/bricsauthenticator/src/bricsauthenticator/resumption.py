"""Takes over servers that an earlier hub has started."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import jupyterhub
from batchspawner.batchspawner import JobStatus
from jupyterhub.objects import Server
from jupyterhub.utils import AnyTimeoutError
from tornado.log import app_log

from bricsauthenticator.ending import EndingJob

CHECK_TIME = 5.0
"""Seconds that a hub which starts waits for Slurm's word on a server, and as long for the server's own answer."""


class RunningServer(Server):
    """The server of a job that isn't known to have ended: it may be slow to answer, or suspended."""

    answers = True  # whether it has answered, as far as that was tried

    async def wait_up(self, timeout: float = 10, **options: Any) -> Any:
        """Wait at most CHECK_TIME for an answer, and ignore its absence: else JupyterHub would stop the server."""
        try:
            answer = await super().wait_up(min(timeout, CHECK_TIME), **options)
        except AnyTimeoutError:
            if self.answers:
                app_log.warning("%s doesn't answer yet; it stays, its job is alive", self.url)
            self.answers = False
            return SimpleNamespace(headers={"X-JupyterHub-Version": jupyterhub.__version__})
        self.answers = True
        return answer


class ResumedJob(EndingJob):
    """A job that outlives the hub, whether its server is up or still starts."""

    async def poll(self) -> int | None:
        """Return None if the server is there, else a status.

        A hub that starts asks this about each server that it finds in its database, so about one that was starting
        when the hub before it ended as well: the answer comes when that start has. JupyterHub's own hook for this,
        get_url(), couldn't answer that there is no server any more.
        """
        if self._check_pending and self.job_id and self.server:
            if self.starting or not self.server.port:
                self.log.info("%s: job %s was starting when the hub ended, waiting for it", self._log_name, self.job_id)
                return await self._resume(self._finish_start())
            # It was up. Whether it answers now is no reason to stop it.
            self._server = RunningServer(orm_server=self.orm_spawner.server)
            return await self._resume(self._still_alive())
        return await super().poll()

    def start_polling(self) -> None:
        """Poll the job, if there is one: a hub that starts calls this late, when a user may have stopped it."""
        if self.job_id:
            super().start_polling()

    async def _still_alive(self) -> int | None:
        """Return a status if Slurm says within CHECK_TIME that the job has ended, else None."""
        try:
            return await asyncio.wait_for(super().poll(), CHECK_TIME)
        except asyncio.TimeoutError:
            return None

    async def _resume(self, work: Coroutine[Any, Any, int | None]) -> int | None:
        """Do `work` and return its result, 1 if it fails or is interrupted.

        It is for a server that an earlier hub began. To JupyterHub it is a start like any other, whose page shows its
        progress, and which can be interrupted.
        """

        def resumed(start: asyncio.Future) -> None:
            self._spawn_pending = False
            # A failure is kept, for the page to show.
            if start.cancelled() or not start.exception():
                self._spawn_future = None

        self._check_pending, self._spawn_pending = False, True
        start = asyncio.ensure_future(work)
        start.add_done_callback(resumed)
        self._spawn_future = start  # type: ignore[assignment]  # JupyterHub declares no type, and sets it to None
        await asyncio.wait([start])
        if start.cancelled():
            await self._stopped_by_another()
        elif error := start.exception():
            self.log.warning(
                "%s: the start of job %s failed: %s", self._log_name, self.job_id, str(error) or "time is up"
            )
        else:
            return start.result()
        return 1

    async def _stopped_by_another(self) -> None:
        """Wait for the stop that JupyterHub begins a second after it has interrupted a start, if it comes.

        Not a moment longer: after this JupyterHub stops what is there, and that could be another server by then.
        """
        for _ in range(40):
            if stop := getattr(self, "_stop_future", None):
                await asyncio.wait([stop])
                return
            await asyncio.sleep(0.05)

    async def _finish_start(self) -> None:
        """Do what JupyterHub does in a start after the job is submitted, but wait as long as the job is alive.

        JupyterHub would stop a server that is mute for `http_timeout`, and the job may be suspended.
        """
        self._server = server = RunningServer(orm_server=self.orm_spawner.server)
        server.ip, server.port = await asyncio.wait_for(self._wait_for_server(), self.start_timeout)
        while True:
            self.db.commit()
            await self.user._wait_up(self)
            if server.answers:
                break
            if await self.query_job_status() == JobStatus.NOTFOUND:
                raise self._ended_early()
            if self.state_isrunning():  # Slurm may have started it anew
                server.ip, server.port = self.state_gethost() or server.ip, self.port
        await self.user.settings["proxy"].add_user(self.user, self.name)
