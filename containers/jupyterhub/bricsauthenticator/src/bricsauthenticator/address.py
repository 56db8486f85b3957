"""The address of a job's server: Slurm reports the host, the job itself the port."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from batchspawner.batchspawner import JobStatus
from traitlets import Dict, Integer

from bricsauthenticator.job import keep
from bricsauthenticator.submission import SubmittedJob
from bricsauthenticator.watching import FRESH_TIME, watch_interval


class ReachableJob(SubmittedJob):
    """A job whose server tells the hub where it listens, again if Slurm starts it anew."""

    lowest_port = Integer(
        1024,
        min=1,
        help="Lowest port that a job can listen on. A lower one is a service's, which its user has no part in",
    ).tag(config=True)

    _ask_now: Callable[[], None] | None = None  # while the server is waited for
    _reactions = Dict(help="What the hub does because of what the job has told last: a task for each kind")

    async def _wait_for_server(self) -> tuple[str, int]:
        """Return host and port of the job's server once both are known; JobEndedError if the job ends before."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()
        since: dict[JobStatus, float] = {}

        def on_news(change: Any) -> None:
            news.set()

        def ask_now() -> None:
            since.clear()
            news.set()

        self._ask_now = ask_now
        self.observe(on_news, ["port", "job_failure"])
        try:
            host = None
            while not (host and self.port):
                news.clear()
                status = await self.query_job_status()
                if status == JobStatus.NOTFOUND:
                    raise self._ended_early()
                if status == JobStatus.RUNNING:
                    host = self.state_gethost()
                age = loop.time() - since.setdefault(status, loop.time())
                soon = age < FRESH_TIME or self.job_failure
                pause = self.startup_poll_interval if soon else watch_interval(age)
                if not (host and self.port):
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(news.wait(), pause)
        finally:
            self._ask_now = None
            self.unobserve(on_news, ["port", "job_failure"])
        self.ip, self.starting = host, False
        while not self._save():  # JupyterHub saves the address next, and its start fails if it can't
            await asyncio.sleep(self.startup_poll_interval)
        self.log.info("%s: job %s listens at %s:%s", self._log_name, self.job_id, self.ip, self.port)
        return self.ip, self.port

    def take_running(self) -> None:
        """Ask Slurm for the job at once, unless it is known to run: a job can send the same message endlessly."""
        if self._ask_now and not self.state_isrunning():
            self._ask_now()

    def take_port(self, port: int) -> bool:
        """Record the server's port. Return True while it isn't in use yet; the job then sends it again.

        A job that Slurm has started anew sends a new port.
        """
        self.port = port
        if self.pending or not self.server:
            return True
        if self.server.port == port:
            return False
        self._react(self._move)
        return True

    def _react(self, reaction: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin `reaction`, which runs commands, unless it is under way: a job can send the same message endlessly."""
        under_way = self._reactions.get(reaction.__name__)
        if under_way is None or under_way.done():
            self._reactions[reaction.__name__] = task = asyncio.ensure_future(reaction())
            keep(task)

    def take_failure(self, said: str) -> None:
        """Save the job's reason for ending, for a hub that starts before the job has ended too."""
        self.job_failure = said
        self._save()

    async def _move(self) -> None:
        """Move the route to the restarted job's host and port. A failure is only logged: the job sends them again."""
        self.log.info("%s: job %s was started anew, and listens at port %s", self._log_name, self.job_id, self.port)
        try:
            self.job_status = await self.query_alone()
            port, host = self.port, self.state_gethost() if self.state_isrunning() else None
            if host and self.server and not self.pending:
                self.server.ip, self.server.port = host, port
                self._save()
                await self.user.settings["proxy"].add_user(self.user, self.name)
        except Exception as error:
            self.log.warning("%s: address of job %s not known yet: %s", self._log_name, self.job_id, error)
