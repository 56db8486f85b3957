"""A Slurm job: its account, its state in the hub's database, and the commands to Slurm about it."""

import asyncio
import functools
import os
import shlex
from typing import Any

import batchspawner
from batchspawner.batchspawner import format_template
from sqlalchemy.exc import SQLAlchemyError
from traitlets import Dict, Float, Integer, Unicode, default

from bricsauthenticator.commands import queue, run


class Job(batchspawner.SlurmSpawner):
    """A spawner that runs commands about its job as the account that its job has."""

    command_timeout = Float(
        60.0, help="Seconds after which a command to submit, query or cancel a job is killed and has failed"
    ).tag(config=True)

    commands_at_once = Integer(
        8, min=1, help="Commands to Slurm that run at the same time, those of all servers counted; the others wait"
    ).tag(config=True)

    job_options = Dict(help="Checked options of the job, for the templates")
    job_failure = Unicode(help="What the job said before it ended, in lines; empty if it didn't")
    starting = False  # whether the job is submitted and its server's address not known yet

    @functools.cached_property
    def _log_name(self) -> str:
        """The user's name, and the server's; a log line isn't worth a failure while the database is locked."""
        return super()._log_name

    @default("req_username")
    def _req_username_default(self) -> str:
        return ""

    @default("req_homedir")
    def _req_homedir_default(self) -> str:
        return ""

    def get_req_subvars(self) -> dict[str, Any]:
        """Return the variables of all templates; those that come from outside are quoted for the shell."""
        outside = {"username": self.req_username, "homedir": self.req_homedir, **self.job_options}
        return {**super().get_req_subvars(), **{name: value and shlex.quote(value) for name, value in outside.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a job left running by an earlier hub, with the account to ask for it as."""
        super().load_state(state)
        self.req_username = state.get("username", "")
        self.req_homedir = state.get("homedir", "")
        self.starting = state.get("starting", False)
        self.job_failure = state.get("failure", "")

    def get_state(self) -> dict[str, Any]:
        """Return the state with which another hub can query and cancel the job."""
        state = super().get_state()
        if self.job_id:
            state.update(username=self.req_username, homedir=self.req_homedir)
            state.update(starting=self.starting, failure=self.job_failure)
        return state

    def _save(self) -> bool:
        """Save the state in the database, and return whether it could; if not, a later commit will have to do."""
        self.orm_spawner.state = state = self.get_state()
        try:
            self.db.commit()
        except SQLAlchemyError as error:
            self.db.rollback()  # first: nothing can be read from the database before
            self.log.warning("%s: not saved yet: %s", self._log_name, error)
            self.orm_spawner.state = state
            return False
        return True

    def _command(self, template: str, job_id: str = "", variables: dict[str, Any] | None = None) -> str:
        values = {**(variables or self.get_req_subvars()), "job_id": shlex.quote(job_id)}
        return f"{format_template(self.exec_prefix, **values)} {format_template(template, **values)}"

    async def run_command(
        self, cmd: str, input: str | None = None, env: dict[str, str] | None = None, delay: float = 0
    ) -> str:
        """Run `cmd` in a shell when its turn comes and return its standard output, stripped.

        Raises CommandError if it exits other than 0 or takes longer than `command_timeout`. `delay` is how many seconds
        others may come later and still go first.
        """
        commands = queue()
        commands.at_once = self.commands_at_once
        async with commands.turn(delay):
            return await run(cmd, input or "", env, self.command_timeout)

    def command_environment(self) -> dict[str, str]:
        """Return the variables in `env_keep`, and no others: ssh could send the hub's secrets on."""
        return {name: os.environ[name] for name in self.env_keep if name in os.environ}

    async def _run_for_job(
        self, template: str, delay: float = 0, job_id: str = "", variables: dict[str, Any] | None = None
    ) -> str:
        job_id = job_id or self.job_id
        env = {**self.command_environment(), "SLURMSPAWNER_JOB_ID": job_id}
        return await self.run_command(self._command(template, job_id, variables), env=env, delay=delay)


_background: set[asyncio.Future[None]] = set()  # tasks that nobody waits for; asyncio keeps no reference


def keep(task: asyncio.Future[None]) -> None:
    """Keep a reference to `task`, which nobody waits for, until it has ended."""
    _background.add(task)
    task.add_done_callback(_background.discard)
