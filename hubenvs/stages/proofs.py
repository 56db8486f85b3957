"""The proofs of `check`.

Fabric's TCP connection is opened by a relay in the hub container, so it takes the same route as the hub's.
The hub's own ``ssh`` runs too: it proves the key and the pinned host key that are mounted there.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

import paramiko
from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut
from invoke.runners import Result

from ..definition.environment import Environment
from ..definition.names import SERVICE_ACCOUNT
from ..deployment import folder
from ..errors import StateError
from ..plan.keys import ssh_key_pair
from ..plan.known_hosts import PublicKey, host_trust
from ..session import Session

# Paramiko's threads raise their errors for us, and print them too where nobody listens.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

# Seconds for each connection and command; a healthy one takes well under one.
TIMEOUT = 30
# Without output: sudo keeps the service account's folder, where the user can't write, and a job that can't
# write its output fails at once.
JOB = "#!/bin/sh\n#SBATCH --chdir=/ --output=/dev/null\nsleep 60\n"
# Algorithms of host keys that Paramiko knows.
HOST_KEYS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512",
    "rsa-sha2-256",
)  # fmt: skip
# Variables that make a wrapper run other code; sudo must refuse them.
CODE_VARIABLES = ("LD_PRELOAD", "PYTHONPATH")


@dataclass(frozen=True)
class Proof:
    """One proof: what it is about, whether it holds, and what was seen."""

    what: str
    ok: bool
    seen: str


def prove(session: Session) -> list[Proof]:
    """Return the proofs, up to the first connection that fails; StateError without a key to connect with."""
    server = Server(session)
    # First, because ssh explains best why a server can't be reached. Without it, nothing else can be proved.
    proofs = [_hub_ssh(session)]
    if not proofs[0].ok:
        return proofs
    try:
        calls = [partial(_service_account, session, server)]
        # A site's server may count failed log-ins and shut the hub out (PerSourcePenalties).
        if not session.env.slurm_elsewhere:
            calls += [partial(_strangers, session, server), partial(_local_sudo, session)]
        with server.relays:
            proofs.extend(itertools.chain.from_iterable(session.programs.at_once(calls)))
    except (paramiko.SSHException, CommandTimedOut, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        what = f"SSH to {server.host}:{server.port} from {server.hub}"
        proofs.append(Proof(what, False, f"{type(error).__name__}: {reason}"))
    return proofs


class Server:
    """Slurm's sshd as the hub reaches it: its address, the hub's key, and the host keys to trust.

    ``relays``: a context that ends the relays of all connections.
    """

    def __init__(self, session: Session) -> None:
        env = session.env
        secrets = env.deploy_folder / folder.SECRETS
        if "ssh_key" not in folder.read_secrets(env.deploy_folder):
            raise StateError(f"{env.name} has no SSH key in its deploy folder", f"invoke up {env.options}")
        self.hub = env.container_name("jupyterhub")
        self.host, self.port = env.slurm.ssh_hostname, env.slurm.ssh_port
        self.key = paramiko.PKey.from_path(secrets / "ssh_key")  # a site's key can be of any kind
        self._engine = session.engine
        self._known_hosts = (secrets / "known_hosts").read_text()
        # -N ends the relay with its input. Otherwise its connection would remain, and sshd would wait for it
        # when it ends.
        relay = session.engine.exec_command(self.hub, "nc", "-N", self.host, str(self.port), interactive=True)
        self._connected = partial(session.programs.connected, relay)
        self.relays = ExitStack()

    def connect(self, user: str, **credentials: object) -> Connection:
        """Return a connection, not yet open, that logs in as ``user`` with ``credentials`` only."""
        connection = Connection(
            self.host,
            user=user,
            port=self.port,
            connect_timeout=TIMEOUT,
            connect_kwargs={
                # Not Fabric's `gateway`: as in ssh_config, ~ and %h in a path would mean something there. Not
                # Paramiko's ProxyCommand: it waits for its timeout when the program has ended.
                "sock": self.relays.enter_context(self._connected()),
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": TIMEOUT,
                # A server with several host keys then shows one that is in known_hosts.
                "disabled_algorithms": {"keys": [name for name in HOST_KEYS if not self._is_known(name)]},
                **credentials,
            },
            inline_ssh_env=False,
            config=Config(lazy=True),  # without the user's ~/.ssh/config
        )
        # Fabric accepts unknown hosts unless told otherwise.
        connection.client.set_missing_host_key_policy(_Pinned(self.host_keys))
        return connection

    def _is_known(self, algorithm: str) -> bool:
        kind = "ssh-rsa" if algorithm.startswith("rsa") else algorithm
        return not self.host_keys or any(key.startswith(f"{kind} ") for key in self.host_keys)

    @cached_property
    def host_keys(self) -> frozenset[PublicKey]:
        """The host keys to trust. Paramiko knows no host certificates, so these are verified here."""
        trust = host_trust(self._known_hosts, self.host, self.port)
        if not trust.authorities:
            return trust.keys
        scan = ("ssh-keyscan", "-c", "-p", str(self.port), self.host)
        lines = self._engine.exec(self.hub, *scan, check=False, timeout=TIMEOUT).text.splitlines()
        # Without the server's name, which starts each line.
        certified = [trust.certified(" ".join(line.split()[-2:])) for line in lines]
        return trust.keys.union(key for key in certified if key)


class _Pinned:
    """Paramiko's policy for a server without an entry of its own: accept it if it shows one of ``keys``."""

    def __init__(self, keys: frozenset[PublicKey]) -> None:
        self._keys = keys

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if f"{key.get_name()} {key.get_base64()}" not in self._keys:
            problem = f"BadHostKey: {hostname} shows a {key.get_name()} key that isn't in known_hosts"
            raise paramiko.SSHException(problem)


class Commands:
    """The service account's commands over one connection. ``wrappers_bin`` is the folder of the wrappers."""

    def __init__(self, wrappers_bin: str, connection: Connection) -> None:
        self._bin = wrappers_bin
        self._connection = connection

    def run(self, *command: str, stdin: str = "") -> Result:
        """Run ``command`` with ``stdin`` as its standard input."""
        result: Result = self._connection.run(
            shlex.join(command), hide=True, warn=True, in_stream=_AtOnce(stdin), timeout=TIMEOUT
        )
        return result

    def wrapper(self, name: str, user: str, stdin: str = "", **variables: str) -> Result:
        """Run the wrapper ``name`` as ``user``, with ``variables`` on sudo's command line as the hub does."""
        assignments = (f"{key}={value}" for key, value in variables.items())
        return self.run("sudo", "-n", "-u", user, *assignments, f"{self._bin}/{name}", stdin=stdin)

    def may(self, name: str, user: str) -> bool:
        """Return whether sudo allows the wrapper ``name`` as ``user``."""
        return bool(self.run("sudo", "-n", "-l", "-u", user, f"{self._bin}/{name}").ok)


class _AtOnce(io.StringIO):
    """Standard input that is read at once. Invoke reads single characters, and sleeps 10 ms after each."""

    def read(self, size: int | None = -1, /) -> str:
        return super().read()


def _proof(what: str, ok: bool, result: Result) -> Proof:
    lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
    return Proof(what, ok, lines[0] if lines else f"exit status {result.exited}")


def _hub_ssh(session: Session) -> Proof:
    hub, target = session.env.container_name("jupyterhub"), session.env.ssh_target
    done = session.engine.exec(hub, "ssh", target, "whoami", check=False, timeout=TIMEOUT)
    seen = done.text if done.returncode == 0 else done.stderr.strip().replace("\n", " ")
    logged_in = done.text.split()[-1:] == [SERVICE_ACCOUNT]
    return Proof("the hub's own ssh, with its mounted key", logged_in, seen)


def _job_id(output: str) -> str:
    """Return the job id in the last line of sbatch's ``output``, read as the hub does; empty without one."""
    match = re.search(r"(?:^|\n)([0-9]+)(?:;[^\n;]*)?$", output.strip())
    return match[1] if match else ""


def _service_account(session: Session, server: Server) -> list[Proof]:
    """Log in as the service account, and try allowed and forbidden commands."""
    with server.connect(SERVICE_ACCOUNT, pkey=server.key) as connection:
        commands = Commands(session.env.slurm.wrappers_bin, connection)
        return [*_allowed(session.env, commands), *_forbidden(session.env, commands)]


def _allowed(env: Environment, commands: Commands) -> Iterator[Proof]:
    """Log in, and submit, query and cancel a job as the first dev user; a site's users aren't known here."""
    who = commands.run("whoami")
    logged_in = who.stdout.split()[-1:] == [SERVICE_ACCOUNT]  # a host may greet first
    yield _proof(f"log-in as {SERVICE_ACCOUNT}, host key pinned", logged_in, who)
    if not env.dev_users:
        return
    account, query_account = env.dev_users[0].account, env.slurm.query_many_as
    submitted = commands.wrapper("slurmspawner_sbatch", account, stdin=JOB)
    job = _job_id(submitted.stdout)
    yield _proof(f"slurmspawner_sbatch as {account}", submitted.ok and bool(job), submitted)
    queried = commands.wrapper("slurmspawner_squeue", account, SLURMSPAWNER_JOB_ID=job)
    yield _proof(f"slurmspawner_squeue as {account}", queried.ok and bool(queried.stdout.strip()), queried)
    # Wrappers of another source, or a site, may lack this one. The hub does without it.
    if query_account and commands.may("slurmspawner_squeue_many", query_account):
        queried = commands.wrapper("slurmspawner_squeue_many", query_account, stdin=job)
        ok = any(line.startswith(f"{job}|{account}|") for line in queried.stdout.splitlines())
        yield _proof(f"slurmspawner_squeue_many as {query_account}", ok, queried)
    cancelled = commands.wrapper("slurmspawner_scancel", account, SLURMSPAWNER_JOB_ID=job)
    yield _proof(f"slurmspawner_scancel as {account}", cancelled.ok, cancelled)


def _forbidden(env: Environment, commands: Commands) -> Iterator[Proof]:
    """Try commands that sudo must refuse to the service account, or sshd already where Slurm is ours."""
    if env.slurm_elsewhere:
        yield from _no_other_command(env, commands.run)
    else:
        shell = commands.run("id")
        yield _proof(f"no shell for {SERVICE_ACCOUNT}", not shell.ok and "uid=" not in shell.stdout, shell)
    if env.dev_users:
        account = env.dev_users[0].account
        for variable in CODE_VARIABLES:
            other = commands.wrapper("slurmspawner_squeue", account, **{variable: "/nowhere"})
            # Without a job's number the wrapper would fail too. The refusal must be sudo's.
            refused = not other.ok and other.stderr.startswith("sudo:")
            yield _proof(f"no {variable} for a wrapper as {account}", refused, other)
        if query_account := env.slurm.query_many_as:
            other = commands.wrapper("slurmspawner_squeue", query_account, SLURMSPAWNER_JOB_ID="1")
            silent = other.stdout == commands.run("true").stdout  # a host may greet first
            yield _proof(f"no other wrapper as {query_account}", not other.ok and silent, other)
    wrapper = commands.wrapper("slurmspawner_squeue", "root")
    yield _proof("no wrapper as root", not wrapper.ok and "uid=" not in wrapper.stdout, wrapper)


def _local_sudo(session: Session) -> list[Proof]:
    """Try sudo inside our own container: over SSH, sshd refuses such commands before sudo sees them."""
    container = session.env.container_name("slurm")

    def run(*command: str) -> Result:
        argv = session.engine.exec_command(container, *command, user=SERVICE_ACCOUNT)
        done = session.engine.run(argv, check=False, timeout=TIMEOUT)
        return Result(stdout=done.text, stderr=done.stderr, exited=done.returncode)

    return list(_no_other_command(session.env, run))


def _no_other_command(env: Environment, run: Callable[..., Result]) -> Iterator[Proof]:
    """Try other commands than the wrappers with sudo; ``run`` runs a command as the service account."""
    if env.dev_users:
        account = env.dev_users[0].account
        other = run("sudo", "-n", "-u", account, "/usr/bin/id")
        yield _proof(f"no other command as {account}", not other.ok and "uid=" not in other.stdout, other)
    command = run("sudo", "-n", "/usr/bin/id")
    yield _proof("no command as root", not command.ok and "uid=" not in command.stdout, command)


def _strangers(session: Session, server: Server) -> list[Proof]:
    """Try log-ins that sshd must refuse."""
    other_key = paramiko.Ed25519Key.from_private_key(io.StringIO(ssh_key_pair("stranger")[0]))
    root = server.connect("root", pkey=server.key)
    stranger = server.connect(SERVICE_ACCOUNT, pkey=other_key)
    # Any server refuses a wrong password; ours must not even offer to look at one.
    password = server.connect(SERVICE_ACCOUNT, password="wrong")
    not_offered, failed = paramiko.BadAuthenticationType, paramiko.AuthenticationException
    return session.programs.at_once(
        [
            partial(_refused, "no log-in as root", root, failed),
            partial(_refused, "no log-in with a password", password, not_offered),
            partial(_refused, "no log-in with another key", stranger, failed),
        ]
    )


def _refused(what: str, connection: Connection, expected: type[Exception]) -> Proof:
    try:
        connection.open()
    except expected as error:
        return Proof(what, True, f"refused ({type(error).__name__})")
    else:
        return Proof(what, False, "accepted")
    finally:
        connection.client.close()  # Fabric closes only connections that it has opened
