"""Jobs that end by themselves: the hub stops sending requests to their servers' ports."""

import asyncio

from batchspawner.batchspawner import JobStatus

from bricsauthenticator.address import ReachableJob

END_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each query of a job that has said that its server has ended; then it is polled as before."""


class EndingJob(ReachableJob):
    """A job that tells the hub when its server has ended, and is watched for it."""

    @property
    def _is_current(self) -> bool:
        """Whether the user has this server now, and it isn't starting or being stopped.

        JupyterHub makes another spawner for a server's next start.
        """
        return bool(self.server) and not self.pending and self.user.spawners.get(self.name) is self

    async def poll(self) -> int | None:
        """Return 1 if Slurm says that the job has ended, else None. An answer about an earlier job doesn't count."""
        job_id = self.job_id
        if await self.query_job_status() != JobStatus.NOTFOUND or self.job_id != job_id:
            return None
        self.clear_state()
        return 1

    async def poll_and_notify(self) -> int | None:
        """Poll the job, clear up after its server if it has ended, and return what the poll did.

        JupyterHub's own callbacks run later, and would stop a new server that has the same name by then.
        """
        status = await self.poll()
        if status is not None and self._is_current:
            self.log.warning("%s: the server has stopped, its job has ended", self._log_name)
            self.stop_polling()
            await self._take_route()
            if self._is_current:
                await self.user.stop(self.name)
        return status

    async def _take_route(self) -> None:
        await self.user.settings["proxy"].delete_user(self.user, self.name)

    def take_failure(self, said: str) -> None:
        """Save the job's reason for ending. A job that Slurm had started anew had a server in use."""
        super().take_failure(said)
        self.take_end()

    def take_end(self) -> None:
        """Stop sending requests to the job's port: another user's job may listen there soon."""
        if self._is_current:
            self.log.info("%s: the server of job %s has ended", self._log_name, self.job_id)
            self._react(self._end)

    async def _end(self) -> None:
        await self._take_route()
        for pause in END_PAUSES:
            await asyncio.sleep(pause)
            if not self._is_current or await self.poll_and_notify() is not None:
                return
