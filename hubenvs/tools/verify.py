"""Task `verify`: do what a user does. A step that fails is named, with the log lines about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..definition.containers import PASSWORD_KEY, PROVIDER_PASSWORD_KEY
from ..definition.layers import read_text
from ..deployment import folder
from ..engines.process import Completed
from ..errors import StateError
from ..polling import poll
from ..session import Session
from ..stages.wait import require_running
from .client import BROKEN, HubUser

# Seconds until a server must have stopped, and that cleaning up waits for one that is still starting.
STOP_TIMEOUT = 30
TIDY_TIMEOUT = 10
INTERVAL = 0.05  # seconds between two looks at the queue
SERVER = "verify"  # name of the server that is started if the user's default one is in use


class Walk:
    """The steps from the page to the kernel and back, with the time that each took."""

    def __init__(self, session: Session, user: HubUser) -> None:
        self.session = session
        self.env = session.env
        self.user = user
        self.server = ""  # name of the server that is started; empty: the user's default one
        self.steps: list[tuple[str, str, str]] = []

    @contextmanager
    def step(self, name: str, container: str) -> Iterator[list[str]]:
        """Time the block as step ``name``; the block may append what it saw to the list that it gets.

        An error becomes a StateError that names the step, with the last log lines of ``container``.
        """
        seen: list[str] = []
        started = time.monotonic()
        try:
            yield seen
        except BROKEN as error:
            details = getattr(error, "details", ())
            text = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
            if container not in self.env.containers:  # the site's own; the hub's log may tell more
                container = "jupyterhub"
            raise StateError(
                f"verify: step '{name}' failed: {text}",
                f"`invoke logs {self.env.options} --container {container}` shows more",
                (*details, *self.session.engine.logs(self.env.container_name(container), 8)),
            ) from error
        self.steps.append((name, f"{time.monotonic() - started:.2f} s", " ".join(seen)))

    def jobs(self, account: str) -> dict[str, tuple[str, str]]:
        """Return state and node of each job of ``account``, by job number."""
        command = ("squeue", "--noheader", "--format=%i %T %B", f"--user={account}")
        listing = self.session.engine.exec(self.env.container_name("slurm"), *command).text
        rows = [line.split() for line in listing.splitlines()]
        return {number: (state, node) for number, state, node in rows}

    def is_gone(self, job: str, account: str) -> bool:
        """Return whether Slurm, in the pod or elsewhere, has ended ``job`` of ``account``."""
        if "slurm" in self.env.containers:
            return self.jobs(account).get(job, ("COMPLETING", ""))[0] == "COMPLETING"
        wrapper = f"{self.env.slurm.wrappers_bin}/slurmspawner_squeue"
        query = ("sudo", "-n", "-u", account, f"SLURMSPAWNER_JOB_ID={job}", wrapper)
        done = self.as_hub(*query, check=False)
        is_unknown = "Invalid job id" in done.stderr
        return done.text.partition(" ")[0] in ("", "COMPLETING") and (done.returncode == 0 or is_unknown)

    def as_hub(self, *command: str, check: bool = True) -> Completed:
        """Run ``command`` on the Slurm side through the hub's own ssh."""
        hub = self.env.container_name("jupyterhub")
        return self.session.engine.exec(hub, "ssh", self.env.ssh_target, *command, check=check)


def verify(session: Session, url: str | None = None, token_file: str | None = None) -> None:
    """Do what a user does and print each step with its time; StateError at the step that fails.

    ``url``: where people find the hub if it isn't published on this host. ``token_file``: a file with an ID
    token of an external provider.
    """
    address = url or session.env.url
    if address is None:
        raise StateError(f"{session.env.name} publishes no hub", "say with --url where people find it")
    token = read_text(Path(token_file), session.env.root).strip() if token_file else None
    require_running(session)
    with session.reachable(), HubUser(address) as user, session.console.busy("verify", address):
        walk = Walk(session, user)
        try:
            _walk(walk, log_in(session, token))
        finally:
            session.console.table(("step", "time", "seen"), walk.steps)
    session.console.say("verify", f"{len(walk.steps)} steps, all well")


def log_in(session: Session, token: str | None = None) -> Callable[[HubUser], None]:
    """Return a function that logs in the first user: with ``token``, the password, or at the provider's page.

    Raises StateError if none of them is possible.
    """
    env = session.env
    secrets = folder.read_secrets(env.deploy_folder)
    if not secrets:
        raise StateError(f"{env.name} is not up from this checkout", f"invoke up {env.options}")
    if token:
        return lambda user: user.log_in_with(token)
    if env.auth.kind == "dummy":
        return lambda user: user.log_in(secrets[PASSWORD_KEY], env.user)
    if env.gateway_url:
        return lambda user: user.log_in_at_provider(env.user, secrets.get(PROVIDER_PASSWORD_KEY, ""))
    problem = f"{env.name}: there is no way to log in at {env.issuer} from here"
    raise StateError(problem, "give one of its ID tokens with --token-file")


def _walk(walk: Walk, enter: Callable[[HubUser], None]) -> None:
    env, user = walk.env, walk.user
    with walk.step("page", "gateway" if env.gateway_url else "jupyterhub"):
        # With an external provider the log-in page refuses everybody without a token.
        user.page("/hub/health" if env.auth.is_external else "/hub/login")
    with walk.step("login", "jupyterhub") as seen:
        enter(user)
        seen.append(user.name)
    walk.server = _unused_server(walk)
    with walk.step("form", "jupyterhub") as seen:
        _, options = user.spawn_form(walk.server)
        project = options["brics_project"][0]
        seen.append(project)
    account = f"{user.name}.{project.partition('.')[0]}"
    with walk.step("ssh", "slurm"):
        walk.as_hub("true")
    with walk.step("sudo", "slurm") as seen:
        walk.as_hub("sudo", "-n", "-l", "-u", account, f"{env.slurm.wrappers_bin}/slurmspawner_squeue")
        seen.append(account)
    with _stopped_on_error(walk):
        job = _start_and_compute(walk, project, account)
        with walk.step("stop", "jupyterhub"):
            user.stop(STOP_TIMEOUT, walk.server)
    with walk.step("gone", "slurm"):
        if not poll(lambda: walk.is_gone(job, account), STOP_TIMEOUT, INTERVAL):
            raise StateError(f"job {job} is still there after {STOP_TIMEOUT} s")


def _start_and_compute(walk: Walk, project: str, account: str) -> str:
    """Start a server in ``project``, run a cell in it, and return the job's number."""
    user, started = walk.user, time.monotonic()
    if "slurm" in walk.env.containers:
        _submit(walk, project, account)
    else:  # at a site, the hub can't list the user's jobs
        with walk.step("sbatch", "jupyterhub"):
            user.spawn({"brics_project": project}, walk.server)
    with walk.step("callback", "slurm"):
        user.wait_ready(walk.env.hub.start_timeout, walk.server)
    with walk.step("proxy", "jupyterhub") as seen:
        seen.append(f"JupyterLab's server {user.notebook_api('GET', '', walk.server).json()['version']}")
        seen.append(f"({time.monotonic() - started:.1f} s since the form)")
    with walk.step("kernel", "slurm") as seen, user.kernel(walk.server) as execute:
        printed = execute("import getpass, os\nprint(6 * 7, getpass.getuser(), os.environ['SLURM_JOB_ID'])")
        answer, who, job = printed.split()
        if (answer, who) != ("42", account):
            raise StateError(f"the kernel printed {printed!r}, not 42 {account}")
        seen.append(printed.strip())
    return job


def _unused_server(walk: Walk) -> str:
    """Return the name of a server that the user doesn't have: the default one, or else a named one.

    Raises StateError if both are in use, or named servers are off.
    """
    names = ("", SERVER) if walk.env.hub.named_servers else ("",)
    for name in names:
        if walk.user.server(name) is None:
            return name
    raise StateError(f"verify: {walk.user.name} has a server already", f"stop it at {walk.user.url}/hub/home")


@contextmanager
def _stopped_on_error(walk: Walk) -> Iterator[None]:
    """Stop the server that the block starts if the block fails."""
    try:
        yield
    except BaseException:
        with suppress(*BROKEN):  # the first error is the one to report
            try:
                walk.user.stop(STOP_TIMEOUT, walk.server)  # interrupts a start
            except StateError:  # not in every version of JupyterHub
                walk.user.wait_ready(TIDY_TIMEOUT, walk.server)
                walk.user.stop(STOP_TIMEOUT, walk.server)
        raise


def _submit(walk: Walk, project: str, account: str) -> None:
    """Send the spawn form for ``project``, and follow the job in the pod's Slurm until it runs."""
    before, timeout = set(walk.jobs(account)), walk.env.hub.start_timeout
    with walk.step("sbatch", "jupyterhub") as seen:
        walk.user.spawn({"brics_project": project}, walk.server)
        job = poll(lambda: _new_job(walk, before, account), timeout, INTERVAL)
        if not job:
            raise StateError(f"no job was submitted after {timeout} s")
        seen.append(f"job {job}")
    with walk.step("node", "slurm") as seen:
        node = poll(lambda: _node_of(walk, job, account), timeout, INTERVAL)
        if not node:
            state = walk.jobs(account).get(job, ("gone", ""))[0]
            raise StateError(f"job {job} is {state} after {timeout} s")
        seen.append(node)


def _new_job(walk: Walk, before: set[str], account: str) -> str:
    """Return the number of a job of ``account`` that isn't among ``before``, empty without one.

    Raises StateError if the spawn has failed, with the hub's words.
    """
    _require_spawn(walk)
    return next(iter(set(walk.jobs(account)) - before), "")


def _node_of(walk: Walk, job: str, account: str) -> str:
    """Return the node of ``job`` once it runs, empty before; StateError if job or spawn has failed."""
    state, node = walk.jobs(account).get(job, ("gone", ""))
    if state == "gone":
        raise StateError(f"job {job} ended at once", details=_job_log(walk, account, job))
    _require_spawn(walk)
    return node if state == "RUNNING" else ""


def _require_spawn(walk: Walk) -> None:
    if walk.user.server(walk.server) is None:
        walk.user.wait_ready(0, walk.server)  # raises with the hub's words


def _job_log(walk: Walk, account: str, job: str) -> list[str]:
    """Return the end of the log of ``job`` of ``account``."""
    user, _, project = account.partition(".")
    path = walk.env.hub.job_log.replace("~", f"/home/{project}/{user}.{project}", 1).replace("%j", job)
    container = walk.env.container_name("slurm")
    return walk.session.engine.exec(container, "tail", "-n", "12", path, check=False).text.splitlines()
