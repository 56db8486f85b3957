"""What `check` proves of SSH from the hub container to Slurm, row by row.

Fabric's TCP connection is opened inside the hub container, by a relay there, so what is proved is the way the hub
itself has; the hub's own ``ssh`` runs too, which proves the key and the pinned host key that are mounted there.
"""

from __future__ import annotations

import io
import itertools
import shlex
from collections.abc import Callable, Iterator
from functools import partial

import paramiko
from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut
from invoke.runners import Result

from . import state
from .commands import exec_argv
from .engine import Engine
from .errors import StateError
from .keys import ssh_key_pair
from .model import Environment
from .names import SERVICE_ACCOUNT
from .ssh import Row

# Seconds for each connection and command; a healthy one takes well under one.
TIMEOUT = 15
# Its output goes nowhere: sudo keeps the service account's folder, where the user may not write, and a job that can't
# write its output fails as soon as it starts.
JOB = "#!/bin/sh\n#SBATCH --chdir=/ --output=/dev/null\nsleep 60\n"
# Variables that make a wrapper run other code than its own; sudo must not let them be set for it.
CODE_VARIABLES = ("LD_PRELOAD", "PYTHONPATH")


def proofs(env: Environment, engine: Engine) -> list[Row]:
    """Return what was proved of ``env``, up to what can't be asked any more; raise StateError if there is no key."""
    way = Way(env, engine)
    # First, since ssh itself says best why a server can't be reached, and then there is nothing more to ask.
    rows = [_own_ssh(env, engine)]
    if not rows[0].ok:
        return rows
    try:
        proving = [partial(_service_account, env, way)]
        # A site's server would count these, and shut the hub out with those who do such things (PerSourcePenalties).
        if not env.slurm_elsewhere:
            proving += [partial(_strangers, way, engine), partial(_own_sudo, env, engine)]
        rows.extend(itertools.chain.from_iterable(engine.at_once(proving)))
    except (paramiko.SSHException, CommandTimedOut, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        rows.append(Row(f"SSH to {way.host}:{way.port} from {way.hub}", False, f"{type(error).__name__}: {reason}"))
    return rows


class Way:
    """The hub container's way to Slurm's sshd: where that is, the hub's key, and the host key it must have."""

    def __init__(self, env: Environment, engine: Engine) -> None:
        secrets = env.deploy_folder / state.SECRETS
        if "ssh_key" not in state.read_secrets(env.deploy_folder):
            raise StateError(f"{env.name} has no SSH key in its deploy folder", f"invoke up {env.options}")
        self.hub = env.container("jupyterhub")
        self.host, self.port = env.slurm.ssh_hostname, env.slurm.ssh_port
        self.key = paramiko.PKey.from_path(secrets / "ssh_key")  # of whatever kind a site's is
        self._known_hosts = str(secrets / "known_hosts")
        # Fabric splits this and runs it without a shell; `env` hands on the engine's configuration. -N ends the relay
        # with its input: one left behind would keep its connection, and sshd would wait for that when it is to stop.
        conf = engine.environment.get("CONTAINERS_CONF")
        relay = exec_argv(self.hub, "nc", "-N", self.host, str(self.port), interactive=True)
        self._relay = shlex.join((*(("env", f"CONTAINERS_CONF={conf}") if conf else ()), *relay))

    def connect(self, user: str, **credentials: object) -> Connection:
        """Return a connection, not yet open, that logs in as ``user`` with the ``credentials`` and nothing else."""
        connection = Connection(
            self.host,
            user=user,
            port=self.port,
            gateway=self._relay,
            connect_timeout=TIMEOUT,
            connect_kwargs={"allow_agent": False, "look_for_keys": False, "banner_timeout": TIMEOUT, **credentials},
            inline_ssh_env=False,
            config=Config(lazy=True),  # not the user's own ~/.ssh/config
        )
        connection.client.load_host_keys(self._known_hosts)
        # Fabric accepts unknown hosts unless told otherwise.
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        return connection


class Session:
    """The service account's commands over one connection."""

    def __init__(self, env: Environment, connection: Connection) -> None:
        self._bin = env.slurm.wrappers_bin
        self._connection = connection

    def run(self, *command: str, stdin: str = "") -> Result:
        """Run ``command``; it reads ``stdin``."""
        result: Result = self._connection.run(
            shlex.join(command), hide=True, warn=True, in_stream=_AtOnce(stdin), timeout=TIMEOUT
        )
        return result

    def wrapper(self, name: str, user: str, stdin: str = "", **variables: str) -> Result:
        """Run the wrapper ``name`` as ``user`` with ``variables``, which sudo is given, as by the hub."""
        given = (f"{key}={value}" for key, value in variables.items())
        return self.run("sudo", "-n", "-u", user, *given, f"{self._bin}/{name}", stdin=stdin)

    def may(self, name: str, user: str) -> bool:
        """Return whether sudo lets the wrapper ``name`` be run as ``user``."""
        return bool(self.run("sudo", "-n", "-l", "-u", user, f"{self._bin}/{name}").ok)


class _AtOnce(io.StringIO):
    """A text that is read in one piece: Invoke asks for one character at a time, and sleeps 10 ms after each."""

    def read(self, size: int | None = -1, /) -> str:
        return super().read()


def _row(what: str, ok: bool, result: Result) -> Row:
    text = (result.stdout.strip() or result.stderr.strip()).splitlines()
    return Row(what, ok, text[0] if text else f"exit status {result.exited}")


def _own_ssh(env: Environment, engine: Engine) -> Row:
    argv = exec_argv(env.container("jupyterhub"), "ssh", env.ssh_target, "whoami")
    own = engine.run(argv, check=False, timeout=TIMEOUT)
    seen = own.text if own.returncode == 0 else own.stderr.strip().replace("\n", " ")
    return Row("the hub's own ssh, with its mounted key", own.text == SERVICE_ACCOUNT, seen)


def _service_account(env: Environment, way: Way) -> list[Row]:
    """Log in as the service account, and do there what it may do and what it must not be able to do."""
    with way.connect(SERVICE_ACCOUNT, pkey=way.key) as connection:
        session = Session(env, connection)
        return [*_allowed(env, session), *_forbidden(env, session)]


def _allowed(env: Environment, session: Session) -> Iterator[Row]:
    """Log in, and submit, ask about and cancel a job as the first dev user; a site's users are none of ours."""
    who = session.run("whoami")
    yield _row(f"log-in as {SERVICE_ACCOUNT}, host key pinned", who.stdout.strip() == SERVICE_ACCOUNT, who)
    if not env.dev_users:
        return
    account, teller = env.dev_users[0].account, env.slurm.query_many_as
    submitted = session.wrapper("slurmspawner_sbatch", account, stdin=JOB)
    job = submitted.stdout.strip()
    yield _row(f"slurmspawner_sbatch as {account}", submitted.ok and job.isdecimal(), submitted)
    asked = session.wrapper("slurmspawner_squeue", account, SLURMSPAWNER_JOB_ID=job)
    yield _row(f"slurmspawner_squeue as {account}", asked.ok and len(asked.stdout.split()) >= 1, asked)
    # Wrappers of another source, or a site, may lack this one: the hub does without.
    if teller and session.may("slurmspawner_squeue_many", teller):
        told = session.wrapper("slurmspawner_squeue_many", teller, stdin=job)
        yield _row(f"slurmspawner_squeue_many as {teller}", told.stdout.startswith(f"{job}|{account}|"), told)
    cancelled = session.wrapper("slurmspawner_scancel", account, SLURMSPAWNER_JOB_ID=job)
    yield _row(f"slurmspawner_scancel as {account}", cancelled.ok, cancelled)


def _forbidden(env: Environment, session: Session) -> Iterator[Row]:
    """Try as the service account what sudo must not let it do."""
    if env.dev_users:
        account = env.dev_users[0].account
        for variable in CODE_VARIABLES:
            other = session.wrapper("slurmspawner_squeue", account, **{variable: "/nowhere"})
            # The wrapper, without the number of a job, would fail too: it must be sudo that has something to say.
            refused = not other.ok and other.stderr.startswith("sudo:")
            yield _row(f"no {variable} for a wrapper as {account}", refused, other)
        if teller := env.slurm.query_many_as:
            other = session.wrapper("slurmspawner_squeue", teller, SLURMSPAWNER_JOB_ID="1")
            yield _row(f"no other wrapper as {teller}", not other.ok and not other.stdout, other)
    if env.slurm_elsewhere:
        yield from _no_other_command(env, session.run)
    else:
        shell = session.run("id")
        yield _row(f"no shell for {SERVICE_ACCOUNT}", not shell.ok and "uid=" not in shell.stdout, shell)
    wrapper = session.wrapper("slurmspawner_squeue", "root")
    yield _row("no wrapper as root", not wrapper.ok and "uid=" not in wrapper.stdout, wrapper)


def _own_sudo(env: Environment, engine: Engine) -> list[Row]:
    """Try sudo inside our own container: over SSH, sshd refuses what sudo should refuse as well."""

    def run(*command: str) -> Result:
        argv = exec_argv(env.container("slurm"), *command, user=SERVICE_ACCOUNT)
        done = engine.run(argv, check=False, timeout=TIMEOUT)
        return Result(stdout=done.text, stderr=done.stderr, exited=done.returncode)

    return list(_no_other_command(env, run))


def _no_other_command(env: Environment, run: Callable[..., Result]) -> Iterator[Row]:
    """Try other commands than the wrappers with sudo; ``run`` runs a command as the service account."""
    if env.dev_users:
        account = env.dev_users[0].account
        other = run("sudo", "-n", "-u", account, "/usr/bin/id")
        yield _row(f"no other command as {account}", not other.ok and "uid=" not in other.stdout, other)
    command = run("sudo", "-n", "/usr/bin/id")
    yield _row("no command as root", not command.ok and "uid=" not in command.stdout, command)


def _strangers(way: Way, engine: Engine) -> list[Row]:
    """Try to log in as nobody must be able to."""
    other_key = paramiko.Ed25519Key.from_private_key(io.StringIO(ssh_key_pair("stranger")[0]))
    root, stranger = way.connect("root", pkey=way.key), way.connect(SERVICE_ACCOUNT, pkey=other_key)
    # A wrong password is refused anywhere; here the server must not offer to look at one at all.
    password, not_offered = way.connect(SERVICE_ACCOUNT, password="wrong"), paramiko.BadAuthenticationType
    return engine.at_once(
        [
            partial(_refused, "no log-in as root", root, paramiko.AuthenticationException),
            partial(_refused, "no log-in with a password", password, not_offered),
            partial(_refused, "no log-in with another key", stranger, paramiko.AuthenticationException),
        ]
    )


def _refused(what: str, connection: Connection, expected: type[Exception]) -> Row:
    try:
        connection.open()
    except expected as error:
        return Row(what, True, f"refused ({type(error).__name__})")
    else:
        return Row(what, False, "accepted")
    finally:
        connection.client.close()  # Fabric closes only what it opened
