"""`verify`: what a user does, hop by hop, each with its time; the hop that breaks is named with its own log lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
from websockets.exceptions import WebSocketException

from . import ready, state
from .client import HubUser
from .commands import exec_argv
from .console import Console
from .engine import Engine
from .errors import HubEnvsError, StateError
from .model import PASSWORD_KEY, Environment

# Seconds for a server to start and to stop, and to start after all if it is to be stopped unused; on a loaded laptop
# a start takes some ten.
START_TIMEOUT = 90
STOP_TIMEOUT = 30
TIDY_TIMEOUT = 10
SERVER = "verify"  # the name of the server that is started beside one that the user has
# What a hop may break with.
BROKEN = (HubEnvsError, OSError, ValueError, LookupError, httpx.HTTPError, WebSocketException)


class Walk:
    """The way from the page to the kernel and back; remembers each hop and how long it took."""

    def __init__(self, env: Environment, engine: Engine, user: HubUser) -> None:
        self.env = env
        self.engine = engine
        self.user = user
        self.server = ""  # the name of the server that is started; empty: the user's default one
        self.hops: list[tuple[str, str, str]] = []

    @contextmanager
    def hop(self, name: str, container: str) -> Iterator[list[str]]:
        """Time the block as hop ``name``; it may put what it saw into the list that it gets.

        A failure becomes a StateError that names the hop, with the last log lines of ``container``.
        """
        seen: list[str] = []
        started = time.monotonic()
        try:
            yield seen
        except BROKEN as error:
            details = getattr(error, "details", ())
            text = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
            if container not in self.env.containers:  # a site's own: what the hub says of it
                container = "jupyterhub"
            raise StateError(
                f"verify: hop '{name}' failed: {text}",
                f"`invoke logs {self.env.options} --container {container}` shows more",
                (*details, *self.engine.logs(self.env.container(container), 8)),
            ) from error
        self.hops.append((name, f"{time.monotonic() - started:.2f} s", " ".join(seen)))

    def jobs(self, account: str) -> dict[str, tuple[str, str]]:
        """Return the jobs of ``account``: state and node by job number."""
        command = ("squeue", "--noheader", "--format=%i %T %B", f"--user={account}")
        listing = self.engine.run(exec_argv(self.env.container("slurm"), *command)).text
        return {number: (status, node) for number, status, node in (line.split() for line in listing.splitlines())}

    def is_gone(self, job: str, account: str) -> bool:
        """Return whether Slurm, wherever it is, is done with ``job`` of ``account``."""
        if "slurm" in self.env.containers:
            return self.jobs(account).get(job, ("COMPLETING", ""))[0] == "COMPLETING"
        wrapper = f"{self.env.slurm.wrappers_bin}/slurmspawner_squeue"
        ask = self.as_hub("sudo", "-n", "-u", account, f"SLURMSPAWNER_JOB_ID={job}", wrapper)
        done = self.engine.run(ask, check=False)
        return done.text.partition(" ")[0] in ("", "COMPLETING") and (
            done.returncode == 0 or "Invalid job id" in done.stderr
        )

    def as_hub(self, *command: str) -> tuple[str, ...]:
        """Return the command that runs ``command`` where Slurm is, by the hub's own ssh."""
        return exec_argv(self.env.container("jupyterhub"), "ssh", self.env.ssh_target, *command)


def verify(
    env: Environment, engine: Engine, console: Console, url: str | None = None, token: str | None = None
) -> None:
    """Walk through ``env`` as its user and print each hop with its time; raise StateError at the one that breaks.

    ``url`` is where people find the hub if it isn't published, ``token`` an external provider's ID token.
    """
    where = url or env.url
    if where is None:
        raise StateError(f"{env.name} publishes no hub", "say with --url where people find it")
    ready.require_running(env, engine)
    with HubUser(where) as user, console.busy("verify", where):
        walk = Walk(env, engine, user)
        try:
            _walk(walk, log_in(env, token))
        finally:
            console.table(("hop", "time", "seen"), walk.hops)
    console.say("verify", f"{len(walk.hops)} hops, all well")


def log_in(env: Environment, token: str | None = None) -> Callable[[HubUser], None]:
    """Return what logs the environment's first user in: by ``token``, the password, or at the provider's page.

    Raises StateError if there is nothing to log in with.
    """
    secrets = state.read_secrets(env.deploy_folder)
    if not secrets:
        raise StateError(f"{env.name} is not up from this checkout", f"invoke up {env.options}")
    if token:
        return lambda user: user.log_in_with(token)
    if env.auth.kind == "dummy":
        return lambda user: user.log_in(secrets[PASSWORD_KEY], env.user)
    if env.gateway_url:
        return lambda user: user.log_in_at_provider(env.user)
    raise StateError(
        f"{env.name}: there is no way to log in at {env.issuer} from here",
        "give one of its ID tokens with --token-file",
    )


def _walk(walk: Walk, log_in: Callable[[HubUser], None]) -> None:
    env, engine, user = walk.env, walk.engine, walk.user
    with walk.hop("page", "gateway" if env.gateway_url else "jupyterhub"):
        # Who brings no token to the hub's own port is turned away at the log-in.
        user.page("/hub/health" if env.auth.at_provider else "/hub/login")
    with walk.hop("login", "jupyterhub") as seen:
        log_in(user)
        seen.append(user.name)
    walk.server = _server_of_its_own(env, user)
    with walk.hop("form", "jupyterhub") as seen:
        _, options = user.spawn_form(walk.server)
        project = options["brics_project"][0]
        seen.append(project)
    account = f"{user.name}.{project.partition('.')[0]}"
    with walk.hop("ssh", "slurm"):
        engine.run(walk.as_hub("true"))
    with walk.hop("sudo", "slurm") as seen:
        wrapper = f"{env.slurm.wrappers_bin}/slurmspawner_squeue"
        engine.run(walk.as_hub("sudo", "-n", "-l", "-u", account, wrapper))
        seen.append(account)
    with _none_left(walk):
        started = time.monotonic()
        if "slurm" in env.containers:
            _submitted(walk, project, account)
        else:  # what a site's queue has in it is the site's
            with walk.hop("sbatch", "jupyterhub"):
                user.spawn({"brics_project": project}, walk.server)
        with walk.hop("callback", "slurm"):
            user.wait_ready(START_TIMEOUT, walk.server)
        with walk.hop("proxy", "jupyterhub") as seen:
            seen.append(f"JupyterLab's server {user.notebook_api('GET', '', walk.server).json()['version']}")
            seen.append(f"({time.monotonic() - started:.1f} s since the form)")
        with walk.hop("kernel", "slurm") as seen, user.kernel(walk.server) as execute:
            printed = execute("import getpass, os\nprint(6 * 7, getpass.getuser(), os.environ['SLURM_JOB_ID'])")
            answer, who, job = printed.split()
            if (answer, who) != ("42", account):
                raise StateError(f"the kernel printed {printed!r}, not 42 {account}")
            seen.append(printed.strip())
        with walk.hop("stop", "jupyterhub"):
            user.stop(STOP_TIMEOUT, walk.server)
    stopped = time.monotonic()
    with walk.hop("gone", "slurm"):
        while not walk.is_gone(job, account):
            _not_longer_than(STOP_TIMEOUT, stopped, f"job {job} is still there")


def _server_of_its_own(env: Environment, user: HubUser) -> str:
    """Return the name of a server that ``user`` doesn't have: the default one, or if that is in use a named one.

    Raises StateError if there is none that could be started.
    """
    names = ("", SERVER) if env.hub.named_servers else ("",)
    for name in names:
        if user.server(name) is None:
            return name
    raise StateError(f"verify: {user.name} has a server already", f"stop it at {user.url}/hub/home")


@contextmanager
def _none_left(walk: Walk) -> Iterator[None]:
    """Stop the server that the block starts if the block doesn't come to its end."""
    try:
        yield
    except BaseException:
        with suppress(*BROKEN):  # what broke is what is told
            walk.user.wait_ready(TIDY_TIMEOUT, walk.server)  # the hub doesn't stop a server that is starting
            walk.user.stop(STOP_TIMEOUT, walk.server)
        raise


def _submitted(walk: Walk, project: str, account: str) -> None:
    """Send the spawn form for ``project``, and follow its job in our own Slurm until it runs."""
    before = set(walk.jobs(account))
    started = time.monotonic()
    with walk.hop("sbatch", "jupyterhub") as seen:
        walk.user.spawn({"brics_project": project}, walk.server)
        job = ""
        while not job:
            job = next(iter(set(walk.jobs(account)) - before), "")
            _not_longer_than(START_TIMEOUT, started, "no job was submitted", walk)
        seen.append(f"job {job}")
    with walk.hop("node", "slurm") as seen:
        status = ("", "")
        while status[0] != "RUNNING":
            status = walk.jobs(account).get(job, ("gone", ""))
            if status[0] == "gone":
                raise StateError(f"job {job} ended at once", details=_job_log(walk.env, walk.engine, account, job))
            _not_longer_than(START_TIMEOUT, started, f"job {job} is {status[0]}", walk)
        seen.append(status[1])


def _not_longer_than(seconds: float, since: float, otherwise: str, spawning: Walk | None = None) -> None:
    """Rest a moment; raise StateError saying ``otherwise`` once ``seconds`` have passed, or if the spawn has failed."""
    if spawning is not None and spawning.user.server(spawning.server) is None:
        spawning.user.wait_ready(0, spawning.server)  # raises with the hub's own words
    if time.monotonic() - since > seconds:
        raise StateError(f"{otherwise} after {seconds:g} s")
    time.sleep(0.05)


def _job_log(env: Environment, engine: Engine, account: str, job: str) -> list[str]:
    """Return the end of what job number ``job`` of ``account`` wrote."""
    user, _, project = account.partition(".")
    path = env.hub.job_log.replace("~", f"/home/{project}/{user}.{project}", 1).replace("%j", job)
    return engine.run(exec_argv(env.container("slurm"), "tail", "-n", "12", path), check=False).text.splitlines()
