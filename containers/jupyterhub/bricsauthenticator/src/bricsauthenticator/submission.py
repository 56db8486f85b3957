"""Submits jobs, again until Slurm has received them."""

import asyncio
import functools
import random
import re
import shlex
from pathlib import Path

from batchspawner.batchspawner import format_template

from bricsauthenticator.cancellation import CancellableJob
from bricsauthenticator.commands import CommandError, pauses

SUBMIT_GRACE_TIME = 0.5
"""Seconds that a start which is given up waits for its job's id; JupyterHub goes on to stop it 1 s after."""


class SubmitError(CommandError):
    """The job couldn't be submitted; JupyterHub shows the message to the user."""

    def __init__(self, error: CommandError) -> None:
        super().__init__(str(error))
        self.jupyterhub_message = f"The Slurm job was not submitted: {error.for_user}"


def export_lines(variables: dict[str, str]) -> str:
    """Return lines of a shell script that set and export `variables`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


@functools.cache
def launcher() -> str:
    """Return the lines of a batch script that define `launch` (launcher.sh, with launcher.py in it)."""
    folder = Path(__file__).parent
    return (folder / "launcher.sh").read_text().replace("{launcher}", (folder / "launcher.py").read_text().strip())


class SubmittedJob(CancellableJob):
    """A job that is submitted and, if its start is given up meanwhile, cancelled."""

    submit_trouble = ""  # why the job isn't submitted yet though that was tried

    def parse_job_id(self, output: str) -> str:
        """Return the job id in the last line of what `sbatch --parsable` prints; CommandError if there is none."""
        match = re.search(r"(?:^|\n)([0-9]+)(?:;[^\n;]*)?$", output)
        if not match:
            raise CommandError("the submit command printed no job id")
        return match[1]

    async def submit_batch_script(self) -> str:
        """Submit the job and save its id in the hub's database; CommandError if Slurm refuses it."""
        env = self.get_env()
        # What is kept of the hub's environment says something about its machine, unless the site has set it.
        exports = {name: value for name, value in env.items() if name in self.environment or name not in self.env_keep}
        launched = bool(re.search(r"\{\{\s*launcher\b", self.batch_script))
        script = format_template(
            self.batch_script,
            **self.get_req_subvars(),
            # batchspawner-singleuser would choose a port by itself.
            cmd=" ".join([*self.cmd, *self.get_args()]) if launched else self.cmd_formatted_for_batch(),
            launcher=launcher(),
            environment=export_lines(exports),
            site_environment=export_lines({name: exports[name] for name in self.environment if name in exports}),
        )
        cmd = self._command(self.batch_submit_cmd)
        self.log.info("%s: submitting by %s", self._log_name, cmd)
        variables = self.get_req_subvars()
        submission = asyncio.ensure_future(self._submit(cmd, script, env))
        try:
            await asyncio.shield(submission)
        except asyncio.CancelledError:
            # Slurm may have the job already: learn its id, so that stop() can cancel it, or cancel it later.
            await asyncio.wait([submission], timeout=SUBMIT_GRACE_TIME)
            if not submission.done():
                self._withdraw(submission, variables)
                raise
            if not submission.cancelled() and not submission.exception():
                self._take_job_id(submission.result())
            raise
        except CommandError as error:
            raise SubmitError(error) from None
        self._take_job_id(submission.result())
        self.log.info("%s: job %s submitted", self._log_name, self.job_id)
        return self.job_id

    async def _submit(self, cmd: str, script: str, env: dict[str, str]) -> str:
        """Run `cmd`, again until Slurm has received it, for `command_timeout` at most, and return the job's id."""
        loop = asyncio.get_running_loop()
        deadline, waits = loop.time() + self.command_timeout, pauses(1.0)
        try:
            while True:
                pause = next(waits)
                try:
                    return self.parse_job_id(await self.run_command(cmd, input=script, env=env))
                except CommandError as error:
                    if not error.never_arrived or loop.time() + pause > deadline:
                        raise
                    self.submit_trouble = str(error).splitlines()[-1]
                    self.log.warning("%s: job not submitted, trying again: %s", self._log_name, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1))
        finally:
            self.submit_trouble = ""

    def _take_job_id(self, job_id: str) -> None:
        """Save the job's id, so that another hub knows it as well."""
        self.job_id, self.starting = job_id, True
        self._save()
