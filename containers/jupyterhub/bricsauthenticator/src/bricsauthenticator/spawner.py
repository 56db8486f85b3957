"""Servers as Slurm jobs, each in the account that its user has in the project chosen."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from traitlets import Any as AnyTrait
from traitlets import Bool, Dict, default

import bricsauthenticator.database
import bricsauthenticator.handlers
import bricsauthenticator.stopping  # noqa: F401  all three replace parts of JupyterHub when they are imported
from bricsauthenticator.progress import progress_of
from bricsauthenticator.projects import USERNAME, Projects, project_of
from bricsauthenticator.resumption import ResumedJob
from bricsauthenticator.spawner_options_form import (
    OptionsError,
    make_options_form,
    options_from_form,
    validate_options,
)
from bricsauthenticator.submission import SubmitError
from bricsauthenticator.watching import JobEndedError

REPEAT_TIME = 5.0
"""Seconds after which a pending server says again how far it is, though nothing has changed."""

__all__ = ["BricsSlurmSpawner", "JobEndedError", "SubmitError"]


class BricsSlurmSpawner(ResumedJob):
    """Runs a server as a Slurm job of `<user>.<project>`.

    How Slurm is reached, what the batch script says and how often Slurm is asked is the site's configuration
    (`exec_prefix`, `batch_*_cmd`, `batch_script`, `*poll_interval`).
    """

    gres_enabled = Bool(help="Request `gpu:<ngpus>`; otherwise ngpus is logged and ignored").tag(config=True)
    form_choices = Dict(
        help="""What the form offers, by list: `durations` (HH:MM:SS), `gpus` ({count, label}), `partitions`,
        `reservations`. A list that is empty or missing offers nothing and accepts all. `free_text` (True): other values
        than those listed are accepted, except of `gpus`."""
    ).tag(config=True)

    # A REST client may send any JSON, and JupyterHub stores it: apply_options() refuses what is wrong, not the trait.
    user_options = AnyTrait({})

    brics_projects = Dict(
        allow_none=True, default_value=None, help="The user's projects, from auth_state; None until they are known"
    )

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
        """Check `options`, from the form or the REST API, and set account, home and the job's requests by them.

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

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """Add USER, HOME and SHELL of the account on the Slurm side to `env`; the hub's machine doesn't know it."""
        env.update(USER=self.req_username, HOME=self.req_homedir, SHELL="/bin/bash")
        return env

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield message and percentage for the page of a pending server, each time that they change.

        And every REPEAT_TIME, so that the handler can end if the page has been left.
        """
        shown: dict[str, Any] = {}
        until = time.monotonic()
        while True:
            progress, message = progress_of(self)
            event = {"progress": progress, "message": message}
            if event != shown or time.monotonic() > until:
                shown, until = event, time.monotonic() + REPEAT_TIME
                yield event
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
        self.job_status = self.job_reason = self.job_start = self.job_failure = ""
        if self.server:
            # Committed before the first await: JupyterHub rolls back what is not, at the end of any request.
            self.server.port = 0
            self.db.commit()
        await self.submit_batch_script()
        return await self._wait_for_server()
