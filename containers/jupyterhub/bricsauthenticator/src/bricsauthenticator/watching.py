"""Queries Slurm about a job at intervals, and interprets the answers."""

import asyncio
import re

from batchspawner.batchspawner import JobStatus
from markupsafe import Markup
from traitlets import Unicode

from bricsauthenticator.commands import QUERY_DELAY, CommandError
from bricsauthenticator.job import Job
from bricsauthenticator.queries import JobState, shared_query

FRESH_TIME = 3.0
"""Seconds in which a job that is waiting is looked at as often as one that starts: most don't wait longer."""


def watch_interval(age: float) -> float:
    """Return how many seconds to wait between two looks at a job that has been waiting for `age` seconds."""
    return min(max(2.0, age / 10), 30.0)


class JobEndedError(RuntimeError):
    """The job ended before its server was up; JupyterHub shows the message, with what the job said, to the user."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(f"{message}\n{said}" if said else message)
        self.jupyterhub_message = str(self)
        if said:
            self.jupyterhub_html_message = str(Markup("{}<pre>{}</pre>").format(message, said))


class WatchedJob(Job):
    """A job that is looked up in Slurm. It counts as gone only when Slurm says so, not when a command fails."""

    batch_query_many_cmd = Unicode(
        help="""Command line that reads job numbers, a line each, and prints `number|user|state|host|reason|start` of
        those that Slurm has (`start`: in UTC, may be left out). All servers share its answer. Empty, or where it
        doesn't work: `batch_query_cmd` for each job. It belongs to no user, so `exec_prefix` isn't put before it."""
    ).tag(config=True)

    # Slurm's job states, from squeue(1). What matches none of the three is unknown.
    state_pending_re = Unicode(
        r"^(?:PENDING|CONFIGURING|REQUEUED|REQUEUE_HOLD|REQUEUE_FED|RESV_DEL_HOLD|SPECIAL_EXIT)\b"
    ).tag(config=True)
    state_running_re = Unicode(r"^(?:RUNNING|COMPLETING|SUSPENDED|STOPPED|SIGNALING|STAGE_OUT|RESIZING)\b").tag(
        config=True
    )
    state_ended_re = Unicode(
        r"^(?:BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REVOKED|TIMEOUT)\b",
        help="Regex that matches job_status if the job has ended",
    ).tag(config=True)
    state_exechost_re = Unicode(r"\s([A-Za-z0-9][A-Za-z0-9._-]*)$").tag(config=True)

    job_reason = ""  # why the job waits or how it failed, in Slurm's word; empty if that isn't known
    job_start = ""  # when Slurm expects a waiting job to start, in UTC; empty if that isn't known

    async def query_alone(self) -> str:
        """Return what the query for this job alone prints; CommandError if it fails."""
        return await self._run_for_job(self.batch_query_cmd, QUERY_DELAY)

    async def _query(self) -> str:
        """Return the job's state and host, empty if Slurm doesn't have it, from an answer about many jobs if it can.

        An answer is this job's only if it names its account; and only the job's own query can say that it is gone.
        """
        query = shared_query(self.batch_query_many_cmd) if self.batch_query_many_cmd else None
        found = await query.ask(self) if query else None
        if found and found.user == self.req_username:
            self.job_reason = found.reason if found.reason not in ("None", "(null)") else ""
            self.job_start = found.start
            return f"{found.state} {found.host}"
        try:
            output = await self.query_alone()
        except CommandError as error:
            if error.says_no_such_account and await self._gone_with_account(found):
                return ""
            raise
        if found and output:
            raise CommandError(f"its number is that of a job of {found.user}")
        self.job_reason = self.job_start = ""  # Slurm gives none, and the last one known may belong to another state
        return output

    async def _gone_with_account(self, found: JobState | None) -> bool:
        """Return whether the job of an account that sudo refuses has ended, as far as it can be known.

        The account may have been removed, or its host can't look it up for a while: the server's own silence counts.
        Slurm's word on many jobs (`found`) shows a removed account's as a number.
        """
        if found and not re.search(self.state_ended_re, found.state):
            return False
        if not self.server or not self.server.port or await asyncio.to_thread(self.server.is_up):
            return False
        self.log.warning("%s: job %s has gone, and its account", self._log_name, self.job_id)
        return True

    async def query_job_status(self) -> JobStatus:
        """Ask Slurm for the job: NOTFOUND only if Slurm knows it no more or says that it has ended."""
        if not self.job_id:
            return JobStatus.NOTFOUND
        try:
            output = await self._query()
        except Exception as error:  # a failed command says nothing about the job
            if isinstance(error, CommandError) and error.says_no_such_job:
                return JobStatus.NOTFOUND
            self.log.warning("%s: state of job %s unknown: %s", self._log_name, self.job_id, error)
            return JobStatus.UNKNOWN
        if not output:
            return JobStatus.NOTFOUND
        self.job_status = status = output.splitlines()[-1].strip()
        if re.search(self.state_ended_re, status):
            return JobStatus.NOTFOUND
        if self.state_isrunning():
            return JobStatus.RUNNING
        if self.state_ispending():
            return JobStatus.PENDING
        self.log.warning("%s: state of job %s not understood: %r", self._log_name, self.job_id, status)
        return JobStatus.UNKNOWN

    def _how_it_ended(self) -> str:
        """Return `: FAILED (NonZeroExitCode)` or the like, empty if Slurm has forgotten."""
        ended = re.search(self.state_ended_re, self.job_status)
        reason = f" ({self.job_reason})" if self.job_reason else ""
        return f": {ended[0]}{reason}" if ended else ""

    def _ended_early(self) -> JobEndedError:
        message = f"The Slurm job {self.job_id} ended before its server was up{self._how_it_ended()}"
        if self.job_failure:
            return JobEndedError(f"{message}. It said:", self.job_failure)
        return JobEndedError(f"{message}. See its log file.")
