"""Servers as Slurm jobs, each in the account that its user has in the project chosen."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections.abc import AsyncIterator
from typing import Any

import batchspawner
from batchspawner.batchspawner import JobStatus, format_template
from traitlets import Any as AnyTrait
from traitlets import Bool, Dict, Float, Unicode, default

import bricsauthenticator.handlers  # noqa: F401  which puts them in the place of the hub's own
from bricsauthenticator.projects import USERNAME, Projects, project_of
from bricsauthenticator.queries import CommandError, shared_query
from bricsauthenticator.spawner_options_form import (
    OptionsError,
    make_options_form,
    options_from_form,
    validate_options,
)

CANCEL_RETRY_LIMIT = 10.0
"""Longest pause, in seconds, between two tries to cancel a job while Slurm can't be reached."""

CANCEL_GIVE_UP_TIME = 3600.0
"""Seconds after which a job that can't be cancelled is left to Slurm, which ends it at its time limit."""

CANCEL_CONFIRM_TIME = 10.0
"""Seconds to wait for a cancelled job to end, as in batchspawner; Slurm has taken the order by then."""


class JobEndedError(RuntimeError):
    """The job ended before its server was up; JupyterHub shows the message to the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.jupyterhub_message = message


def export_lines(variables: dict[str, str]) -> str:
    """Return lines of a shell script that set and export `variables`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


class BricsSlurmSpawner(batchspawner.SlurmSpawner):
    """Runs a server as a Slurm job of `<user>.<project>`.

    How Slurm is reached, what the batch script says and how often Slurm is asked is the site's configuration
    (`exec_prefix`, `batch_*_cmd`, `batch_script`, `*poll_interval`). A job counts as gone only when Slurm says so: a
    command that fails says nothing about the job.
    """

    gres_enabled = Bool(help="Request `gpu:<ngpus>`; otherwise ngpus is logged and ignored").tag(config=True)
    command_timeout = Float(
        60.0, help="Seconds after which a command to submit, query or cancel a job is killed and has failed"
    ).tag(config=True)

    batch_query_many_cmd = Unicode(
        help="""Command line that reads job numbers, a line each, and prints `number|user|state|host|reason` of those
        that Slurm has. All servers share its answer. Empty, or where it doesn't work: `batch_query_cmd` for each job.
        It belongs to no user, so `exec_prefix` isn't put before it."""
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

    # A REST client may send any JSON, and JupyterHub stores it: apply_options() refuses what is wrong, not the trait.
    user_options = AnyTrait({})

    brics_projects = Dict(
        allow_none=True, default_value=None, help="The user's projects, from auth_state; None until they are known"
    )
    job_options = Dict(help="Checked options of the job, for the templates")
    job_reason = ""  # why the job waits or how it failed, in Slurm's word; empty if that isn't known

    @default("auth_state_hook")
    def _auth_state_hook_default(self) -> Any:
        def take_projects(spawner: "BricsSlurmSpawner", auth_state: Projects | None) -> None:
            spawner.brics_projects = auth_state or {}

        return take_projects

    @default("options_form")
    def _options_form_default(self) -> Any:
        async def form(spawner: "BricsSlurmSpawner") -> str:
            # JupyterHub runs the hook for the server asked for, but repeats a refused form with the default server.
            await spawner.run_auth_state_hook(await spawner.user.get_auth_state())
            chosen = getattr(spawner.handler, "chosen", {})
            return make_options_form(spawner.brics_projects or {}, spawner.gres_enabled, chosen)

        return form

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, str]:
        """Return the options in the form; OptionsError (400) if they are wrong."""
        return validate_options(options_from_form(form_data), self.brics_projects)

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        return lambda spawner, options: spawner.apply_options(options)

    def apply_options(self, options: object) -> None:
        """Check `options`, from the form or the REST API, and take account, home and what else makes the job.

        Raises OptionsError. JupyterHub calls it before the pre-spawn hook, so that a site's hook finds the account;
        start() calls it again, because the hook may have changed the options, or the site `apply_user_options`.
        """
        projects = self.brics_projects or {}
        valid = validate_options(options, projects)
        key = valid.pop("brics_project")
        username = projects[key]["username"]
        if not USERNAME.fullmatch(username) or username.partition(".")[2] != project_of(key):
            raise OptionsError("Your account in this project has no valid name.")
        self.req_username = username
        self.req_homedir = f"/home/{project_of(key)}/{username}"
        if self.gres_enabled:
            valid["gres"] = f"gpu:{valid['ngpus']}" if valid["ngpus"] != "0" else ""
        else:
            del valid["ngpus"]
        # What is left empty leaves the site's own default (c.SlurmSpawner.req_…) in force.
        self.job_options = {name: value for name, value in valid.items() if value}

    @default("req_username")
    def _req_username_default(self) -> str:
        return ""

    @default("req_homedir")
    def _req_homedir_default(self) -> str:
        return ""

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """Add USER, HOME and SHELL of the account on the Slurm side to `env`; the hub's machine doesn't know it."""
        env.update(USER=self.req_username, HOME=self.req_homedir, SHELL="/bin/bash")
        return env

    def get_req_subvars(self) -> dict[str, Any]:
        """Return the variables of all templates; those that come from outside are quoted for the shell."""
        outside = {"username": self.req_username, "homedir": self.req_homedir, **self.job_options}
        return {**super().get_req_subvars(), **{name: value and shlex.quote(value) for name, value in outside.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a job left running by an earlier hub, with the account to ask for it as."""
        super().load_state(state)
        self.req_username = state.get("username", "")
        self.req_homedir = state.get("homedir", "")

    def get_state(self) -> dict[str, Any]:
        """Return what another hub needs to query and cancel the job."""
        state = super().get_state()
        if self.job_id:
            state.update(username=self.req_username, homedir=self.req_homedir)
        return state

    def parse_job_id(self, output: str) -> str:
        """Return the job id in the last line of what `sbatch --parsable` prints; CommandError if there is none."""
        match = re.search(r"(?:^|\n)([0-9]+)(?:;[^\n;]*)?$", output)
        if not match:
            raise CommandError("the submit command printed no job id")
        return match[1]

    def _command(self, template: str) -> str:
        variables = {**self.get_req_subvars(), "job_id": shlex.quote(self.job_id)}
        return f"{format_template(self.exec_prefix, **variables)} {format_template(template, **variables)}"

    async def run_command(self, cmd: str, input: str | None = None, env: dict[str, str] | None = None) -> str:
        """Run `cmd` in a shell and return its standard output, stripped.

        Raises CommandError if it exits other than 0 or takes longer than `command_timeout`. However this ends, also by
        cancellation, the command isn't left running.
        """
        process = await asyncio.create_subprocess_shell(
            cmd,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate((input or "").encode()), self.command_timeout)
        except asyncio.TimeoutError:
            raise CommandError(f"no answer in {self.command_timeout:g} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            message = err.decode(errors="replace").strip()
            raise CommandError(message or f"exit status {process.returncode}")
        return out.decode(errors="replace").strip()

    def command_environment(self) -> dict[str, str]:
        """Return what of the hub's environment a command gets: its secrets have names that ssh may send on."""
        return {name: os.environ[name] for name in self.env_keep if name in os.environ}

    async def _run_for_job(self, template: str) -> str:
        env = {**self.command_environment(), "SLURMSPAWNER_JOB_ID": self.job_id}
        return await self.run_command(self._command(template), env=env)

    async def submit_batch_script(self) -> str:
        """Submit the job and save its id in the hub's database; CommandError if Slurm refuses it."""
        env = self.get_env()
        # What is kept of the hub's environment says something about its machine, unless the site has set it.
        exports = {name: value for name, value in env.items() if name in self.environment or name not in self.env_keep}
        script = format_template(
            self.batch_script,
            **self.get_req_subvars(),
            cmd=self.cmd_formatted_for_batch(),
            environment=export_lines(exports),
            site_environment=export_lines({name: exports[name] for name in self.environment if name in exports}),
        )
        cmd = self._command(self.batch_submit_cmd)
        self.log.info("%s: submitting by %s", self._log_name, cmd)
        submission = asyncio.ensure_future(self.run_command(cmd, input=script, env=env))
        try:
            await asyncio.shield(submission)
        finally:
            # Slurm may have the job already when the start is given up: learn its id, so that stop() can cancel it.
            self.job_id = self.parse_job_id(await submission)
            self.orm_spawner.state = self.get_state()
            self.db.commit()
        self.log.info("%s: job %s submitted", self._log_name, self.job_id)
        return self.job_id

    async def query_alone(self) -> str:
        """Return what the query for this job alone prints; CommandError if it fails."""
        return await self._run_for_job(self.batch_query_cmd)

    async def _query(self) -> str:
        """Return the job's state and host, empty if Slurm doesn't have it, from an answer about many jobs if it can.

        An answer is this job's only if it names its account; and only the job's own query can say that it is gone.
        """
        query = shared_query(self.batch_query_many_cmd) if self.batch_query_many_cmd else None
        found = await query.ask(self) if query else None
        if found and found.user == self.req_username:
            self.job_reason = found.reason if found.reason not in ("None", "(null)") else ""
            return f"{found.state} {found.host}"
        output = await self.query_alone()
        if found and output:
            raise CommandError(f"its number is that of a job of {found.user}")
        self.job_reason = ""  # it tells none, and the last one known may be of another state
        return output

    async def query_job_status(self) -> JobStatus:
        """Ask Slurm for the job: NOTFOUND only if Slurm knows it no more or says that it has ended."""
        if not self.job_id:
            return JobStatus.NOTFOUND
        try:
            output = await self._query()
        except Exception as error:  # whatever failed, it says nothing about the job
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

    async def cancel_batch_job(self) -> None:
        """Tell Slurm to cancel the job; CommandError if that fails."""
        await self._run_for_job(self.batch_cancel_cmd)

    async def progress(self) -> AsyncIterator[dict[str, str]]:
        """Yield what the page of a pending server says, each time it changes."""
        shown = ""
        while True:
            if not self.job_id:
                message = "Submitting the Slurm job"
            elif self.state_isrunning():
                message = f"Slurm job {self.job_id} is running, waiting for its server"
            else:
                reason = f" ({self.job_reason})" if self.job_reason else ""
                message = f"Slurm job {self.job_id} is waiting in the queue{reason}"
            if message != shown:
                shown = message
                yield {"message": message}
            await asyncio.sleep(self.startup_poll_interval)

    async def start(self) -> tuple[str, int]:
        """Submit the job and return host and port of its server once it has told the port.

        Raises OptionsError (400) before anything is run, CommandError if Slurm refuses the job, JobEndedError if it
        ends too early.
        """
        self.apply_options(self.user_options)
        if not self.gres_enabled:
            self.log.info("%s: ngpus=%s ignored, no gres is declared", self._log_name, self.user_options["ngpus"])
        self.ip, self.port = self.traits()["ip"].default_value, 0
        if self.server:
            self.server.port = 0
        await self.submit_batch_script()
        return await self._wait_for_server()

    async def _wait_for_server(self) -> tuple[str, int]:
        """Return host and port of the job's server once both are known; JobEndedError if the job ends before."""
        port_known = asyncio.Event()

        def on_port(change: Any) -> None:
            port_known.set()

        self.observe(on_port, "port")
        try:
            host = None
            while not (host and self.port):
                port_known.clear()
                status = await self.query_job_status()
                if status == JobStatus.NOTFOUND:
                    how = self._how_it_ended()
                    raise JobEndedError(
                        f"The Slurm job {self.job_id} ended before its server was up{how}. See its log file."
                    )
                if status == JobStatus.RUNNING:
                    host = self.state_gethost()
                if not (host and self.port):
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(port_known.wait(), self.startup_poll_interval)
        finally:
            self.unobserve(on_port, "port")
        self.ip = host
        self.db.commit()
        self.log.info("%s: job %s listens at %s:%s", self._log_name, self.job_id, self.ip, self.port)
        return self.ip, self.port

    async def poll(self) -> int | None:
        """Return None if the server is there, else a status.

        A hub that starts asks this about each server that it finds in its database, so about one that was starting
        when the hub before it ended as well: the answer comes when that start has. JupyterHub's own hook for this,
        get_url(), couldn't answer that there is no server any more.
        """
        if self._check_pending and self.job_id and self.server and not self.server.port:
            return await self._resume_start()
        return await super().poll()

    async def _resume_start(self) -> int | None:
        """Go on with the start that an earlier hub began; return None if the server is up, else a status.

        To JupyterHub it is a start like any other, whose page shows its progress, and which can be interrupted.
        """
        self.log.info("%s: job %s was starting when the hub ended, waiting for it", self._log_name, self.job_id)

        def resumed(start: asyncio.Future) -> None:
            self._spawn_pending = False
            # A failure is kept, for the page to show.
            if start.cancelled() or not start.exception():
                self._spawn_future = None

        self._check_pending, self._spawn_pending = False, True
        start = asyncio.ensure_future(self._finish_start())
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
            return None
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
        """Do what JupyterHub does in a start after the job is submitted."""
        self.server.ip, self.server.port = await asyncio.wait_for(self._wait_for_server(), self.start_timeout)
        self.db.commit()
        await self.user._wait_up(self)
        await self.user.settings["proxy"].add_user(self.user, self.name)

    async def stop(self, now: bool = False) -> None:
        """Cancel the job; with `now` return when Slurm has the order, else when the job has ended too.

        The hub forgets the job when this returns, so it goes on for long if Slurm can't be reached.
        """
        if await self._cancel_until_taken() and not now:
            await self._wait_until_gone()

    async def _cancel_until_taken(self) -> bool:
        """Tell Slurm to cancel the job until it takes the order; False if there is none, or no hope to cancel it."""
        pause = self.startup_poll_interval
        deadline = asyncio.get_running_loop().time() + CANCEL_GIVE_UP_TIME
        while self.job_id:
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
            pause = min(2 * pause, CANCEL_RETRY_LIMIT)
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
