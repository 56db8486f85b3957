"""Cancels jobs, however long that takes: the hub forgets a job when its stop has ended."""

import asyncio
from typing import Any

from batchspawner.batchspawner import JobStatus

from bricsauthenticator.commands import CommandError, pauses
from bricsauthenticator.job import keep
from bricsauthenticator.watching import WatchedJob

CANCEL_GIVE_UP_TIME = 3600.0
"""Seconds after which a job that can't be cancelled is left to Slurm, which ends it at its time limit."""

CANCEL_CONFIRM_TIME = 10.0
"""Seconds to wait for a cancelled job to end, as in batchspawner; Slurm has taken the order by then."""


class CancellableJob(WatchedJob):
    """A job that can be cancelled, also when its id isn't known yet."""

    async def stop(self, now: bool = False) -> None:
        """Cancel the job; return when it has ended, or with `now` when Slurm has accepted the cancellation.

        The hub forgets the job when this returns, so it keeps trying for long if Slurm can't be reached.
        """
        if await self._cancel_until_taken() and not now:
            await self._wait_until_gone()

    async def cancel_batch_job(self) -> None:
        """Tell Slurm to cancel the job; CommandError if that fails."""
        await self._run_for_job(self.batch_cancel_cmd)

    async def _cancel_until_taken(self) -> bool:
        """Cancel the job, again until Slurm accepts; False if there is no job, or it can't be cancelled."""
        deadline = asyncio.get_running_loop().time() + CANCEL_GIVE_UP_TIME
        for pause in pauses(self.startup_poll_interval):
            if not self.job_id:
                break
            try:
                await self.cancel_batch_job()
                return True
            except Exception as error:  # whatever failed, the job may still be there
                if await self.query_job_status() == JobStatus.NOTFOUND:
                    return False
                refused = isinstance(error, CommandError) and error.says_no_such_account
                if refused or asyncio.get_running_loop().time() > deadline:
                    self.log.error(
                        "%s: job %s of %s can't be cancelled and may still be there: %s",
                        self._log_name, self.job_id, self.req_username, error,
                    )  # fmt: skip
                    return False
                self.log.warning("%s: job %s not cancelled yet: %s", self._log_name, self.job_id, error)
            await asyncio.sleep(pause)
        return False

    async def _wait_until_gone(self) -> None:
        """Wait until the cancelled job has ended, or for CANCEL_CONFIRM_TIME."""
        deadline = asyncio.get_running_loop().time() + CANCEL_CONFIRM_TIME
        while await self.query_job_status() != JobStatus.NOTFOUND:
            if self.job_status.startswith("COMPLETING"):
                return
            if asyncio.get_running_loop().time() > deadline:
                self.log.warning("%s: job %s is cancelled but still there", self._log_name, self.job_id)
                return
            await asyncio.sleep(self.startup_poll_interval)

    def _withdraw(self, submission: asyncio.Future[str], variables: dict[str, Any]) -> None:
        """Cancel the job of `submission` once its id is known: its start has been given up."""

        async def cancel() -> None:
            try:
                job_id = await submission
            except CommandError as error:
                self.log.info("%s: nothing came of the submission that was given up: %s", self._log_name, error)
                return
            deadline = asyncio.get_running_loop().time() + CANCEL_GIVE_UP_TIME
            for pause in pauses(self.startup_poll_interval):
                try:
                    await self._run_for_job(self.batch_cancel_cmd, job_id=job_id, variables=variables)
                except CommandError as error:
                    gone = error.says_no_such_job or error.says_no_such_account
                    if gone or asyncio.get_running_loop().time() > deadline:
                        self.log.warning("%s: job %s not cancelled: %s", self._log_name, job_id, error)
                        return
                else:
                    self.log.info("%s: job %s cancelled, its start was given up", self._log_name, job_id)
                    return
                await asyncio.sleep(pause)

        keep(asyncio.ensure_future(cancel()))
