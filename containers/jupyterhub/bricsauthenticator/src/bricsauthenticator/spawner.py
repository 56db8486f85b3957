"""Servers as Slurm jobs, each in the account that its user has in the project chosen."""

import asyncio
import contextlib
import functools
import os
import random
import re
import shlex
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import batchspawner
import jupyterhub
from batchspawner.batchspawner import JobStatus, format_template
from jupyterhub.objects import Server
from jupyterhub.utils import AnyTimeoutError
from markupsafe import Markup
from sqlalchemy.exc import SQLAlchemyError
from tornado.log import app_log
from traitlets import Any as AnyTrait
from traitlets import Bool, Dict, Float, Integer, Unicode, default

import bricsauthenticator.handlers  # noqa: F401  which puts them in the place of the hub's own
from bricsauthenticator.commands import QUERY_DELAY, CommandError, queue, run
from bricsauthenticator.projects import USERNAME, Projects, project_of
from bricsauthenticator.queries import JobState, shared_query
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


SUBMIT_GRACE_TIME = 0.5
"""Seconds that a start which is given up waits for its job's id; JupyterHub goes on to stop it 1 s after."""

CHECK_TIME = 5.0
"""Seconds that a hub which starts waits for Slurm's word on a server, and as long for the server's own answer."""

FRESH_TIME = 3.0
"""Seconds in which a job that is waiting is looked at as often as one that starts: most don't wait longer."""


class JobEndedError(RuntimeError):
    """The job ended before its server was up; JupyterHub shows the message, with what the job said, to the user."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(f"{message}\n{said}" if said else message)
        self.jupyterhub_message = str(self)
        if said:
            self.jupyterhub_html_message = str(Markup("{}<pre>{}</pre>").format(message, said))


class SubmitError(CommandError):
    """The job couldn't be submitted; JupyterHub shows the message to the user."""

    def __init__(self, error: CommandError) -> None:
        super().__init__(str(error))
        self.jupyterhub_message = f"The Slurm job was not submitted: {error}"


class RunningServer(Server):
    """The server of a job that Slurm says is alive, or says nothing of: it may be slow to answer, or suspended."""

    async def wait_up(self, timeout: float = 10, **options: Any) -> Any:
        """Wait for an answer for CHECK_TIME at most, and do without: JupyterHub would stop the server otherwise."""
        try:
            return await super().wait_up(min(timeout, CHECK_TIME), **options)
        except AnyTimeoutError:
            app_log.warning("%s doesn't answer yet; it stays, its job is alive", self.url)
            return SimpleNamespace(headers={"X-JupyterHub-Version": jupyterhub.__version__})


def watch_interval(age: float) -> float:
    """Return how many seconds to wait between two looks at a job that has been waiting for `age` seconds."""
    return min(max(2.0, age / 10), 30.0)


def export_lines(variables: dict[str, str]) -> str:
    """Return lines of a shell script that set and export `variables`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


@functools.cache
def launcher() -> str:
    """Return the lines of a batch script that define `launch` (launcher.sh, with launcher.py in it)."""
    folder = Path(__file__).parent
    return (folder / "launcher.sh").read_text().replace("{launcher}", (folder / "launcher.py").read_text().strip())


_background: set[asyncio.Future[None]] = set()  # tasks that nobody waits for; asyncio itself wouldn't keep them


def _keep(task: asyncio.Future[None]) -> None:
    _background.add(task)
    task.add_done_callback(_background.discard)


class BricsSlurmSpawner(batchspawner.SlurmSpawner):
    """Runs a server as a Slurm job of `<user>.<project>`.

    How Slurm is reached, what the batch script says and how often Slurm is asked is the site's configuration
    (`exec_prefix`, `batch_*_cmd`, `batch_script`, `*poll_interval`). A job counts as gone only when Slurm says so: a
    command that fails says nothing about the job.
    """

    gres_enabled = Bool(help="Request `gpu:<ngpus>`; otherwise ngpus is logged and ignored").tag(config=True)
    form_choices = Dict(
        help="""What the form offers, by list: `durations` (HH:MM:SS), `gpus` ({count, label}), `partitions`,
        `reservations`. A list that is empty or missing offers nothing and accepts all. `free_text` (True): other values
        than those listed are accepted, except of `gpus`."""
    ).tag(config=True)
    command_timeout = Float(
        60.0, help="Seconds after which a command to submit, query or cancel a job is killed and has failed"
    ).tag(config=True)

    commands_at_once = Integer(
        8, min=1, help="Commands to Slurm that run at the same time, those of all servers counted; the others wait"
    ).tag(config=True)

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

    # A REST client may send any JSON, and JupyterHub stores it: apply_options() refuses what is wrong, not the trait.
    user_options = AnyTrait({})

    brics_projects = Dict(
        allow_none=True, default_value=None, help="The user's projects, from auth_state; None until they are known"
    )
    job_options = Dict(help="Checked options of the job, for the templates")
    job_reason = ""  # why the job waits or how it failed, in Slurm's word; empty if that isn't known
    job_start = ""  # when Slurm expects a waiting job to start, in UTC; empty if that isn't known
    job_failure = Unicode(help="What the job said before it ended, in lines; empty if it didn't")
    starting = False  # whether the job is submitted and its server's address not known yet
    submit_trouble = ""  # why the job isn't submitted yet though that was tried

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
            projects = spawner.brics_projects or {}
            return make_options_form(projects, spawner.gres_enabled, chosen, spawner.form_choices)

        return form

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, str]:
        """Return the options in the form; OptionsError (400) if they are wrong."""
        return validate_options(options_from_form(form_data), self.brics_projects, self.form_choices)

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        return lambda spawner, options: spawner.apply_options(options)

    def apply_options(self, options: object) -> None:
        """Check `options`, from the form or the REST API, and take account, home and what else makes the job.

        Raises OptionsError. JupyterHub calls it before the pre-spawn hook, so that a site's hook finds the account;
        start() calls it again, because the hook may have changed the options, or the site `apply_user_options`.
        """
        projects = self.brics_projects or {}
        valid = validate_options(options, projects, self.form_choices)
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
        self.starting = state.get("starting", False)
        self.job_failure = state.get("failure", "")

    def get_state(self) -> dict[str, Any]:
        """Return what another hub needs to query and cancel the job."""
        state = super().get_state()
        if self.job_id:
            state.update(username=self.req_username, homedir=self.req_homedir)
            state.update(starting=self.starting, failure=self.job_failure)
        return state

    def parse_job_id(self, output: str) -> str:
        """Return the job id in the last line of what `sbatch --parsable` prints; CommandError if there is none."""
        match = re.search(r"(?:^|\n)([0-9]+)(?:;[^\n;]*)?$", output)
        if not match:
            raise CommandError("the submit command printed no job id")
        return match[1]

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
        """Return what of the hub's environment a command gets: its secrets have names that ssh may send on."""
        return {name: os.environ[name] for name in self.env_keep if name in os.environ}

    async def _run_for_job(
        self, template: str, delay: float = 0, job_id: str = "", variables: dict[str, Any] | None = None
    ) -> str:
        job_id = job_id or self.job_id
        env = {**self.command_environment(), "SLURMSPAWNER_JOB_ID": job_id}
        return await self.run_command(self._command(template, job_id, variables), env=env, delay=delay)

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
        """Run `cmd` until Slurm has heard of it, for `command_timeout` at most, and return the job's id."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self.command_timeout, 1.0
        try:
            while True:
                try:
                    return self.parse_job_id(await self.run_command(cmd, input=script, env=env))
                except CommandError as error:
                    if not error.never_arrived or loop.time() + pause > deadline:
                        raise
                    self.submit_trouble = str(error).splitlines()[-1]
                    self.log.warning("%s: job not submitted, trying again: %s", self._log_name, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, CANCEL_RETRY_LIMIT)
        finally:
            self.submit_trouble = ""

    def _take_job_id(self, job_id: str) -> None:
        """Save the job's id, so that another hub knows it as well."""
        self.job_id, self.starting = job_id, True
        self._save()

    def _save(self) -> None:
        """Save the state in the database; if that is locked, a later commit will have to do."""
        self.orm_spawner.state = state = self.get_state()
        try:
            self.db.commit()
        except SQLAlchemyError as error:
            self.log.warning("%s: not saved yet: %s", self._log_name, error)
            self.db.rollback()
            self.orm_spawner.state = state

    def _withdraw(self, submission: asyncio.Future[str], variables: dict[str, Any]) -> None:
        """Cancel the job that comes of `submission`, whose start has been given up, once its id is known."""

        async def cancel() -> None:
            try:
                job_id = await submission
            except CommandError as error:
                self.log.info("%s: nothing came of the submission that was given up: %s", self._log_name, error)
                return
            pause, deadline = self.startup_poll_interval, asyncio.get_running_loop().time() + CANCEL_GIVE_UP_TIME
            while True:
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
                pause = min(2 * pause, CANCEL_RETRY_LIMIT)

        _keep(asyncio.ensure_future(cancel()))

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
        self.job_reason = self.job_start = ""  # it tells none, and the last one known may be of another state
        return output

    async def _gone_with_account(self, found: JobState | None) -> bool:
        """Return whether the job of an account that sudo refuses has ended, as far as it can be known.

        The account may have been removed, or its host can't look it up for a while: the server's own silence counts.
        Slurm's word on many jobs (`found`) shows a removed account's as a number.
        """
        if found and not re.search(self.state_ended_re, found.state):
            return False
        if not self.server or not self.server.port or await self.server.is_up():
            return False
        self.log.warning("%s: job %s has gone, and its account", self._log_name, self.job_id)
        return True

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

    def _ended_early(self) -> JobEndedError:
        message = f"The Slurm job {self.job_id} ended before its server was up{self._how_it_ended()}"
        if self.job_failure:
            return JobEndedError(f"{message}. It said:", self.job_failure)
        return JobEndedError(f"{message}. See its log file.")

    async def cancel_batch_job(self) -> None:
        """Tell Slurm to cancel the job; CommandError if that fails."""
        await self._run_for_job(self.batch_cancel_cmd)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the page of a pending server says, and how far its bar is, each time that changes."""
        shown: dict[str, Any] = {}
        while True:
            progress, message = self._progress()
            if (event := {"progress": progress, "message": message}) != shown:
                shown = event
                yield event
            await asyncio.sleep(self.startup_poll_interval)

    def _progress(self) -> tuple[int, str]:
        if not self.job_id:
            trouble = f": {self.submit_trouble}; trying again" if self.submit_trouble else ""
            return 10, f"Submitting the Slurm job{trouble}"
        if self.server and self.server.port:
            return 90, f"Slurm job {self.job_id} has started its server, waiting for an answer"
        if self.state_isrunning():
            return 70, f"Slurm job {self.job_id} is running, waiting for its server"
        if self.state_ispending():
            details = ", ".join(filter(None, [self.job_reason, self._expected_start()]))
            return 40, f"Slurm job {self.job_id} is waiting in the queue{f' ({details})' if details else ''}"
        return 25, f"Slurm job {self.job_id} is submitted"

    def _expected_start(self) -> str:
        """Return in how long Slurm expects the job to start; empty if it doesn't say."""
        try:
            start = datetime.fromisoformat(self.job_start).replace(tzinfo=timezone.utc)
        except ValueError:
            return ""
        minutes = round((start - datetime.now(timezone.utc)).total_seconds() / 60)
        if minutes < 1:
            return "expected to start soon"
        return f"expected to start in {f'{minutes} min' if minutes < 120 else f'{round(minutes / 60)} h'}"

    async def start(self) -> tuple[str, int]:
        """Submit the job and return host and port of its server once it has told the port.

        Raises OptionsError (400) before anything is run, CommandError if Slurm refuses the job, JobEndedError if it
        ends too early.
        """
        self.apply_options(self.user_options)
        if not self.gres_enabled:
            self.log.info("%s: ngpus=%s ignored, no gres is declared", self._log_name, self.user_options["ngpus"])
        self.ip, self.port = self.traits()["ip"].default_value, 0
        self.job_status = self.job_reason = self.job_start = self.job_failure = ""
        if self.server:
            # Committed before the first await: JupyterHub rolls back what is not, at the end of any request.
            self.server.port = 0
            self.db.commit()
        await self.submit_batch_script()
        return await self._wait_for_server()

    async def _wait_for_server(self) -> tuple[str, int]:
        """Return host and port of the job's server once both are known; JobEndedError if the job ends before."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()
        since: dict[JobStatus, float] = {}

        def on_news(change: Any) -> None:
            news.set()

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
            self.unobserve(on_news, ["port", "job_failure"])
        self.ip, self.starting = host, False
        self._save()
        self.log.info("%s: job %s listens at %s:%s", self._log_name, self.job_id, self.ip, self.port)
        return self.ip, self.port

    def take_port(self, port: int) -> bool:
        """Take the port that the server listens at, and return whether it will take until later to be of use.

        A job that Slurm has started anew tells another port than it had.
        """
        self.port = port
        if self.pending or not self.server:
            return True
        if self.server.port == port:
            return False
        self.log.info("%s: job %s was started anew, and listens at port %s", self._log_name, self.job_id, port)
        _keep(asyncio.ensure_future(self._move()))
        return True

    def take_failure(self, said: str) -> None:
        """Take what the job says of why it ends, so that a hub which starts before it has ended knows it too."""
        self.job_failure = said
        self._save()

    async def _move(self) -> None:
        """Let hub and proxy have the host that Slurm says, and the port that the job has told; else it tells again."""
        try:
            self.job_status = await self.query_alone()
            port, host = self.port, self.state_gethost() if self.state_isrunning() else None
            if host and self.server and not self.pending:
                self.server.ip, self.server.port = host, port
                self._save()
                await self.user.settings["proxy"].add_user(self.user, self.name)
        except Exception as error:
            self.log.warning("%s: address of job %s not known yet: %s", self._log_name, self.job_id, error)

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
