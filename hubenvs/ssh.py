"""The check of SSH from the hub container to Slurm: what must work does, and what must not is refused.

Fabric's TCP connection is opened inside the hub container, by a relay there, so what is proved is the way the hub
itself has; the hub's own ``ssh`` runs too, which proves the key and the pinned host key that are mounted there.
"""

from __future__ import annotations

import io
import shlex
from dataclasses import dataclass
from functools import partial

from . import ready, state
from .console import Console
from .engine import Engine, exec_argv
from .errors import StateError
from .keys import ssh_key_pair
from .model import Environment

SERVICE_ACCOUNT = "jupyterspawner"
# Seconds for each connection and command; a healthy one takes well under one.
TIMEOUT = 15
# Its output goes nowhere: sudo keeps the service account's folder, where the user may not write, and a job that can't
# write its output fails as soon as it starts.
JOB = "#!/bin/sh\n#SBATCH --chdir=/ --output=/dev/null\nsleep 60\n"


@dataclass(frozen=True)
class Row:
    """One thing that was proved, or not: what it is, whether it holds, and what was seen."""

    what: str
    ok: bool
    seen: str


def check(env: Environment, engine: Engine, console: Console, brief: bool = False) -> None:
    """Check SSH from the hub to Slurm in ``env`` and print what was proved (one line if ``brief`` and all holds).

    Raises StateError with the first row that fails.
    """
    if "jupyterhub" not in env.containers:
        raise StateError(f"{env.name} has no hub container", "nothing to check SSH from")
    ready.require_running(env, engine)
    with console.busy("check", "SSH from the hub to Slurm"):
        rows = _rows(env, engine)
    failed = [row for row in rows if not row.ok]
    if failed or not brief:
        console.table(("", "check", "seen"), [("ok" if row.ok else "FAIL", row.what, row.seen) for row in rows])
    if failed:
        logs = f"`invoke logs {env.options} --container slurm` shows the server's side"
        if env.slurm_elsewhere:
            logs = f"the logs of sshd and sudo on {env.slurm.ssh_hostname} show why"
        raise StateError(f"check: {failed[0].what}: {failed[0].seen}", logs)
    if brief:
        console.say("check", f"SSH from the hub to Slurm: {len(rows)} of {len(rows)} hold")


class _AtOnce(io.StringIO):
    """A text that is read in one piece: Invoke asks for one character at a time, and sleeps 10 ms after each."""

    def read(self, size: int | None = -1, /) -> str:
        return super().read()


def _rows(env: Environment, engine: Engine) -> list[Row]:
    # Imported here: Fabric takes a third of a second, and most tasks don't need it.
    import paramiko
    from fabric import Config, Connection
    from invoke.runners import Result

    hub = env.container("jupyterhub")
    values = state.read_secrets(env.deploy_folder)
    if "ssh_key" not in values:
        raise StateError(f"{env.name} has no SSH key in its deploy folder", f"invoke up {env.options}")
    # Nobody's where a site has its own users.
    account = env.dev_users[0].account if env.dev_users else ""
    host, port = env.slurm.ssh_hostname, env.slurm.ssh_port
    # Fabric splits this and runs it without a shell; `env` hands on the engine's configuration. -N ends the relay with
    # its input: one left behind would keep its connection, and sshd would wait for that when it is to stop.
    relay = shlex.join((*_environment(engine), *exec_argv(hub, "nc", "-N", host, str(port), interactive=True)))
    known_hosts = env.deploy_folder / state.SECRETS / "known_hosts"

    def connect(user: str, **credentials: object) -> Connection:
        connection = Connection(
            host,
            user=user,
            port=port,
            gateway=relay,
            connect_timeout=TIMEOUT,
            connect_kwargs={"allow_agent": False, "look_for_keys": False, "banner_timeout": TIMEOUT, **credentials},
            inline_ssh_env=False,
            config=Config(lazy=True),  # not the user's own ~/.ssh/config
        )
        connection.client.load_host_keys(str(known_hosts))
        # Fabric accepts unknown hosts unless told otherwise.
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        return connection

    key = paramiko.PKey.from_path(env.deploy_folder / state.SECRETS / "ssh_key")  # of whatever kind a site's is
    # First, since ssh itself says best why a server can't be reached, and then there is nothing more to ask.
    own = engine.run(exec_argv(hub, "ssh", f"{SERVICE_ACCOUNT}@{host}", "whoami"), check=False, timeout=TIMEOUT)
    seen = own.text if own.returncode == 0 else own.stderr.strip().replace("\n", " ")
    rows = [Row("the hub's own ssh, with its mounted key", own.text == SERVICE_ACCOUNT, seen)]
    if not rows[0].ok:
        return rows

    def refused(what: str, connection: Connection, expected: type[Exception]) -> Row:
        try:
            connection.open()
        except expected as error:
            return Row(what, True, f"refused ({type(error).__name__})")
        else:
            return Row(what, False, "accepted")
        finally:
            connection.client.close()  # Fabric closes only what it opened

    try:
        with connect(SERVICE_ACCOUNT, pkey=key) as connection:

            def run(*command: str, stdin: str = "", **variables: str) -> Result:
                result: Result = connection.run(
                    shlex.join(command),
                    hide=True,
                    warn=True,
                    in_stream=_AtOnce(stdin),
                    env=variables,
                    timeout=TIMEOUT,
                )
                return result

            def wrapper(name: str, stdin: str = "", user: str = account, **variables: str) -> Result:
                return run("sudo", "-n", "-u", user, f"{env.slurm.wrappers_bin}/{name}", stdin=stdin, **variables)

            def row(what: str, ok: bool, result: Result) -> None:
                text = (result.stdout.strip() or result.stderr.strip()).splitlines()
                rows.append(Row(what, ok, text[0] if text else f"exit status {result.exited}"))

            who = run("whoami")
            row(f"log-in as {SERVICE_ACCOUNT}, host key pinned", who.stdout.strip() == SERVICE_ACCOUNT, who)
            if account:
                submitted = wrapper("slurmspawner_sbatch", stdin=JOB)
                job = submitted.stdout.strip()
                row(f"slurmspawner_sbatch as {account}", submitted.ok and job.isdecimal(), submitted)
                asked = wrapper("slurmspawner_squeue", SLURMSPAWNER_JOB_ID=job)
                row(f"slurmspawner_squeue as {account}", asked.ok and len(asked.stdout.split()) >= 1, asked)
                if teller := env.slurm.query_many_as:
                    # Wrappers of another source, or a site, may lack it: the hub does without.
                    if run("sudo", "-n", "-l", "-u", teller, f"{env.slurm.wrappers_bin}/slurmspawner_squeue_many").ok:
                        told = wrapper("slurmspawner_squeue_many", stdin=job, user=teller)
                        row(f"slurmspawner_squeue_many as {teller}", told.stdout.startswith(f"{job}|{account}|"), told)
                    other = wrapper("slurmspawner_squeue", user=teller, SLURMSPAWNER_JOB_ID=job)
                    row(f"no other wrapper as {teller}", not other.ok and not other.stdout, other)
                cancelled = wrapper("slurmspawner_scancel", SLURMSPAWNER_JOB_ID=job)
                row(f"slurmspawner_scancel as {account}", cancelled.ok, cancelled)
                other = run("sudo", "-n", "-u", account, "/usr/bin/id")
                row(f"no other command as {account}", not other.ok and "uid=" not in other.stdout, other)
            for what, command in (
                ("no command as root", ("sudo", "-n", "/usr/bin/id")),
                ("no wrapper as root", ("sudo", "-n", "-u", "root", f"{env.slurm.wrappers_bin}/slurmspawner_squeue")),
            ):
                result = run(*command)
                row(what, not result.ok and "uid=" not in result.stdout, result)
        # A site's server would count these, and shut the hub out with those who do such things (PerSourcePenalties).
        if not env.slurm_elsewhere:
            other_key = paramiko.Ed25519Key.from_private_key(io.StringIO(ssh_key_pair("stranger")[0]))
            # A wrong password is refused anywhere; here the server must not offer to look at one at all.
            password, no_password = connect(SERVICE_ACCOUNT, password="wrong"), paramiko.BadAuthenticationType
            root, stranger = connect("root", pkey=key), connect(SERVICE_ACCOUNT, pkey=other_key)
            rows += engine.at_once(
                [
                    partial(refused, "no log-in as root", root, paramiko.AuthenticationException),
                    partial(refused, "no log-in with a password", password, no_password),
                    partial(refused, "no log-in with another key", stranger, paramiko.AuthenticationException),
                ]
            )
    except (paramiko.SSHException, OSError, EOFError) as error:
        rows.append(Row(f"SSH to {host}:{port} from {hub}", False, f"{type(error).__name__}: {error}"))
    return rows


def _environment(engine: Engine) -> tuple[str, ...]:
    value = engine.environment.get("CONTAINERS_CONF")
    return ("env", f"CONTAINERS_CONF={value}") if value else ()
