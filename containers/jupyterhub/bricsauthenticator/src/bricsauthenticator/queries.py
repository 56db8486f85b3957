"""One question to Slurm about many jobs, its answer shared by the servers that run as these jobs."""

from __future__ import annotations

import asyncio
import functools
import weakref
from dataclasses import dataclass
from logging import Logger
from typing import NamedTuple, Protocol

from bricsauthenticator.commands import CommandError

PAUSE = 600.0
"""Seconds until a command that doesn't work here, though queries for one job do, is tried again."""

MOST_JOBS = 5000
"""Jobs in one question: their numbers become one argument of squeue, which Linux limits to 128 KiB."""


class Asker(Protocol):
    """The attributes of a spawner that a query uses: its job, and how to ask Slurm about it."""

    job_id: str
    log: Logger

    async def run_command(self, cmd: str, input: str | None = None, env: dict[str, str] | None = None) -> str:
        """Run `cmd` and return what it prints; CommandError if it fails."""

    def command_environment(self) -> dict[str, str]:
        """Return the environment of a command that belongs to no user."""

    async def query_alone(self) -> str:
        """Return what the query for this job alone prints; CommandError if it fails."""


class JobState(NamedTuple):
    """Slurm's answer about a job: squeue's `%u`, `%T`, `%B`, `%r` and, from newer wrappers, `%S` in UTC."""

    user: str
    state: str
    host: str
    reason: str
    start: str = ""


def parse(output: str) -> dict[str, JobState]:
    """Return the jobs by number in lines of `number|user|state|host|reason|start`; other lines say nothing."""
    rows = (line.strip().split("|") for line in output.splitlines())
    return {row[0]: JobState(*row[1:]) for row in rows if len(row) in (5, 6)}


@dataclass(frozen=True)
class Question:
    """One run of the command: its serial number, its jobs, and a future of the answer (None: it failed)."""

    number: int
    jobs: frozenset[str]
    answer: asyncio.Future[dict[str, JobState] | None]


class SharedQuery:
    """Asks Slurm by one command, one at a time, about the jobs of all spawners that ask here.

    A spawner takes the latest answer if it hasn't had that yet, so that any number of them with the same poll interval
    cost one command an interval, and none sees an answer older than that.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.seen: weakref.WeakKeyDictionary[Asker, int] = weakref.WeakKeyDictionary()
        self.latest: Question | None = None
        self.paused_until = 0.0
        self.warned = False

    async def ask(self, spawner: Asker) -> JobState | None:
        """Return Slurm's answer about the job of `spawner`; None if the job has to be queried alone.

        Raises CommandError if Slurm can't be asked now.
        """
        job = spawner.job_id
        self.seen.setdefault(spawner, 0)
        while not self._paused():
            question = self.latest
            if question and job in question.jobs and question.number > self.seen[spawner]:
                answer = await asyncio.shield(question.answer)
                self.seen[spawner] = question.number
                if answer is not None:
                    return answer.get(job)
                if not self._paused():
                    raise CommandError("the query for many jobs failed")
            elif question and not question.answer.done():
                await asyncio.wait([question.answer])
            else:
                others = [other.job_id for other in self.seen if other.job_id and other is not spawner]
                jobs = frozenset([job, *others[: MOST_JOBS - 1]])
                number = question.number + 1 if question else 1
                self.latest = Question(number, jobs, asyncio.ensure_future(self._run(spawner, jobs)))
        return None

    def _paused(self) -> bool:
        return asyncio.get_running_loop().time() < self.paused_until

    async def _run(self, spawner: Asker, jobs: frozenset[str], again: bool = False) -> dict[str, JobState] | None:
        try:
            output = await spawner.run_command(self.command, "\n".join(jobs), spawner.command_environment())
        except Exception as error:
            if isinstance(error, CommandError) and error.says_no_such_job:  # squeue's words when asked about one only
                return {}
            spawner.log.debug("%s: %s", self.command, error)
            if await self._answers_alone(spawner):
                if not again:  # Slurm may have come back between the two
                    return await self._run(spawner, jobs, again=True)
                self.paused_until = asyncio.get_running_loop().time() + PAUSE
                if not self.warned:
                    self.warned = True
                    spawner.log.warning("Slurm is asked about each job by itself, for %s: %s", self.command, error)
            return None
        self.warned = False
        return parse(output)

    async def _answers_alone(self, spawner: Asker) -> bool:
        """Return whether a query for the job of `spawner` alone works: then the shared command is at fault."""
        try:
            await spawner.query_alone()
        except Exception as error:
            return isinstance(error, CommandError) and error.says_no_such_job
        return True


@functools.cache
def shared_query(command: str) -> SharedQuery:
    """Return the one SharedQuery of `command`."""
    return SharedQuery(command)
