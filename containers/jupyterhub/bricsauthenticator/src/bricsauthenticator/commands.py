"""Commands on the way to Slurm: how they run, how many at the same time, and how many a second."""

import asyncio
import contextlib
import heapq
import itertools
import os
import re
import signal
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator

STARTS_A_SECOND = 8
"""Commands that start within one second at most, whoever asks for them."""

QUERY_DELAY = 30.0
"""Seconds by which a query for one job stands back behind commands that a person waits for."""

RETRY_LIMIT = 10.0
"""Longest pause, in seconds, between two tries of a command while Slurm can't be reached."""

LONGEST_OUTPUT = 1 << 20
"""Bytes that are read of what a command prints: more than 5000 jobs need."""

# Without a terminal sudo asks for a password where no rule matches, such as one for a group that the account has left.
_SUDO_REFUSES = re.compile(
    r"^sudo: (unknown user|a password is required)\b|\b(is not allowed to execute|may not run sudo)\b"
    # sudo-rs
    r"|^sudo: (user '[^']*' not found|interactive authentication is required|A terminal is required to authenticate)"
    r"|^sudo: I'm sorry \S+ I'm afraid I can't do that",
    re.MULTILINE,
)

# Said before the command has come to the login host, by ssh (sshd drops connections at its MaxStartups), or by sbatch
# before its request has come to Slurm's controller. It says "Protocol authentication error" also where it can't verify
# the controller's answer, such as munge having died meanwhile, and the job exists: only the line before that tells.
_NEVER_ARRIVED = re.compile(
    r"^(ssh: (connect to host|Could not resolve hostname)|(kex|ssh)_exchange_identification: |banner exchange: "
    r"|Connection timed out during banner exchange|Connection (closed|reset) by \S+ port \d+)"
    r"|Unable to contact slurm controller \(connect failure\)"
    r"|_create: REQUEST_SUBMIT_BATCH_JOB has authentication error",
    re.MULTILINE,
)

# Said by one of Slurm's commands, which a site's wrapper may let exit with 0 nonetheless.
_FAILED = re.compile(r"^(slurm_load_jobs error|s(queue|batch|cancel): (error|fatal)):", re.MULTILINE)


class CommandError(RuntimeError):
    """A command on the way to Slurm failed or took too long; its standard error is the message."""

    @property
    def never_arrived(self) -> bool:
        """Whether Slurm certainly hasn't received the command, so that it can be run again."""
        return bool(_NEVER_ARRIVED.search(str(self)))

    @property
    def for_user(self) -> str:
        """The message as users see it: a changed host key without the banner, which operators find in the log."""
        if "Host key verification failed" in str(self):
            return "the Slurm server has another SSH host key than this hub knows. Tell the people who run the hub."
        return str(self)

    @property
    def says_no_such_job(self) -> bool:
        """Whether Slurm answered, and doesn't know the job."""
        return "Invalid job id specified" in str(self)

    @property
    def says_no_such_account(self) -> bool:
        """Whether sudo answered, and doesn't know the account or won't run the command as it."""
        return bool(_SUDO_REFUSES.search(str(self)))


def pauses(first: float) -> Iterator[float]:
    """Yield how many seconds to wait before each further try: `first`, then longer, up to RETRY_LIMIT."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, RETRY_LIMIT)


class Queue:
    """The queue of commands: `at_once` run at the same time, STARTS_A_SECOND start in any second."""

    def __init__(self) -> None:
        self.at_once = 8
        self._running = 0
        self._starts: deque[float] = deque([float("-inf")] * STARTS_A_SECOND, STARTS_A_SECOND)
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def turn(self, delay: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it during the block. Commands that come up to `delay` seconds later go first."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        heapq.heappush(self._waiting, (loop.time() + delay, next(self._order), turn))
        self._next()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._running -= 1
            turn.cancel()
            self._next()

    def _next(self) -> None:
        """Start as many waiting commands as the limits allow."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._running < self.at_once:
            if self._waiting[0][2].done():
                heapq.heappop(self._waiting)
            elif (wait := self._starts[0] + 1 - loop.time()) > 0:
                self._timer = loop.call_later(wait, self._next)
                return
            else:
                self._running += 1
                self._starts.append(loop.time())
                heapq.heappop(self._waiting)[2].set_result(None)


_queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Queue] = weakref.WeakKeyDictionary()


def queue() -> Queue:
    """Return the one queue of all commands."""
    return _queues.setdefault(asyncio.get_running_loop(), Queue())


async def run(cmd: str, input: str, env: dict[str, str] | None, timeout: float) -> str:
    """Run `cmd` in a shell with `input` on its standard input and return its standard output, stripped.

    Raises CommandError if it exits other than 0, prints only Slurm's message that it has failed, or takes longer
    than `timeout` seconds. However this ends, also by cancellation, the command isn't left running.

    Its streams are files, not pipes: ssh with ControlMaster hands them to another process, which keeps a pipe open when
    the command is killed, and asyncio waits for a pipe's end.
    """
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open(os.memfd_create(name), "w+b")) for name in ("in", "out", "err")]
        streams[0].write(input.encode())
        streams[0].seek(0)
        stdin, stdout, stderr = streams
        process = await asyncio.create_subprocess_shell(
            cmd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except asyncio.TimeoutError:
            raise CommandError(f"no answer in {timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read(LONGEST_OUTPUT).decode(errors="replace").strip())
    if process.returncode or (not texts[0] and _FAILED.search(texts[1])):
        raise CommandError(texts[1] or f"exit status {process.returncode}")
    return texts[0]
