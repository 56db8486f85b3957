"""Run programs: to their end, side by side, or behind a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import CommandError, StateError, log_line, quoted
from ..polling import poll

Argv = tuple[str, ...]

# Variables that Git sets for its hooks (githooks(5)). They name the hook's repository, not a working copy.
GIT_HOOK = {
    f"GIT_{name}" for name in ("DIR", "WORK_TREE", "INDEX_FILE", "PREFIX", "OBJECT_DIRECTORY", "COMMON_DIR")
}
# Seconds: the longest that a command may take, the longest for a query, and the time between SIGTERM and
# SIGKILL, in which a program can clean up.
LONGEST, ANSWER, GRACE = 600, 30, 5
# Seconds that a command with `finish_on_interrupt` gets after Ctrl-C.
FINISH = 30
# Connections that `relay` serves at a time; further ones wait.
RELAYS = 32


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit status and its output."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Return standard output as text, without the last newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")


class Programs:
    """Runs programs. ``echo`` is called with each command line."""

    def __init__(self, echo: Callable[[str], None] | None = None) -> None:
        self._echo = echo
        # With the socket, if any, at which somebody waits for the program.
        self._running: dict[subprocess.Popen[bytes], socket.socket | None] = {}
        self._interrupted = False

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | BinaryIO | None = None,
        check: bool = True,
        timeout: float | None = LONGEST,
        log: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        terminal: bool = False,
        finish_on_interrupt: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run ``argv`` to its end.

        ``stdin``: its input, or a file with it (None: nothing). ``timeout``: seconds. ``log``: a file for
        both output streams. ``stdout``: a file for standard output. ``terminal``: the program gets our own
        streams. ``variables``: added to its environment. ``finish_on_interrupt``: on Ctrl-C, give the command
        30 s to finish.

        Raises CommandError if it fails (with ``check``) or takes too long, StateError if it isn't installed.
        The program never outlives the call.
        """
        text = stdin if isinstance(stdin, bytes) else None
        streams = {} if terminal else _streams(stdin, stdout, log)
        # A session of its own keeps the terminal's Ctrl-C away.
        with self._started(argv, variables, start_new_session=finish_on_interrupt, **streams) as process:
            try:
                output, errors = process.communicate(text, timeout)
            except KeyboardInterrupt:
                if finish_on_interrupt:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.communicate(timeout=FINISH)
                raise
            except subprocess.TimeoutExpired:
                hint = f"stopped after {timeout:g} s; `invoke doctor` looks at the host"
                raise CommandError(argv, None, "", hint) from None
        result = Completed(process.returncode, output or b"", (errors or b"").decode(errors="replace"))
        if check and result.returncode != 0:
            raise CommandError(argv, result.returncode, result.stderr or result.text)
        return result

    @contextlib.contextmanager
    def _started(
        self,
        argv: Sequence[str],
        variables: Mapping[str, str] | None = None,
        peer: socket.socket | None = None,
        **options: Any,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``argv`` during the block, and end it if it still runs then; ``options`` are those of Popen.

        ``peer``: the socket at which the block waits for it. Raises StateError if it can't be started.
        """
        if self._echo:
            self._echo(quoted(argv))
        self._raise_if_interrupted()
        try:
            process = subprocess.Popen(argv, env=environment(variables), **options)
        except FileNotFoundError:
            hint = "run scripts/bootstrap, it says what is missing"
            raise StateError(f"{argv[0]} is not installed", hint) from None
        except PermissionError:
            raise StateError(f"{argv[0]} can't be started: permission denied", "make it executable") from None
        self._running[process] = peer
        try:
            self._raise_if_interrupted()  # Ctrl-C came before the process was in _running
            yield process
        finally:
            _end(process)
            del self._running[process]

    def _raise_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt in a call of `at_once` after Ctrl-C: it starts no further program."""
        if self._interrupted and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        """End all running programs, and wake the threads that read from one at a socket."""
        self._interrupted = True
        running = dict(self._running)
        for process, peer in running.items():
            process.terminate()
            if peer:
                with contextlib.suppress(OSError):  # closed meanwhile
                    peer.shutdown(socket.SHUT_RDWR)
        for process in running:
            _end(process)

    def show(self, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Run ``argv`` and pass on its output, which may contain users' text.

        At a terminal, control characters are escaped, because it would obey them. ``variables``: added to the
        environment of ``argv``. Raises CommandError if it fails.
        """
        if not sys.stdout.isatty():
            self.run(argv, terminal=True, timeout=None, variables=variables)
            return
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with self._started(argv, variables, **streams, stderr=subprocess.STDOUT) as process:
            assert process.stdout
            with process.stdout as output:
                for line in output:  # always UTF-8: the terminal's encoding may lack characters
                    sys.stdout.buffer.write(log_line(line.decode(errors="replace")).encode())
                    sys.stdout.buffer.flush()
            process.wait()
        if process.returncode != 0:
            raise CommandError(argv, process.returncode, "")

    def pipe(
        self, source: Sequence[str], target: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        """Run ``source`` and ``target`` side by side; the output of the first is the input of the second.

        ``variables``: added to the environment of ``source``. Raises CommandError if one fails.
        """
        ends = os.pipe()
        reader, writer = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb")

        def write() -> Completed:
            with writer:  # once it is closed, the target's input ends
                return self.run(source, check=False, timeout=None, stdout=writer, variables=variables)

        def read() -> Completed:
            with reader:  # once it is closed, the source can't wait for a target that has ended
                return self.run(target, check=False, timeout=None, stdin=reader)

        written, taken = self.at_once((write, read))
        # A broken pipe in the source is a consequence: the target's error is the cause.
        if written.returncode not in (0, -signal.SIGPIPE) and "broken pipe" not in written.stderr:
            raise CommandError(source, written.returncode, written.stderr)
        if taken.returncode != 0:
            raise CommandError(target, taken.returncode, taken.stderr or taken.text)

    @contextlib.contextmanager
    def background(
        self, argv: Sequence[str], listening: Sequence[tuple[str, int]], timeout: float
    ) -> Iterator[None]:
        """Run ``argv`` during the block, which begins when all addresses and ports of ``listening`` answer.

        Raises CommandError if it ends before, or takes longer than ``timeout`` seconds.
        """
        with tempfile.TemporaryFile() as log, self._started(argv, **_streams(None, None, log)) as process:
            ready = poll(lambda: process.poll() is not None or all(map(_answers, listening)), timeout)
            if not ready or process.poll() is not None:
                log.seek(0)
                raise CommandError(argv, process.poll(), log.read().decode(errors="replace"))
            yield

    @contextlib.contextmanager
    def connected(self, argv: Sequence[str]) -> Iterator[socket.socket]:
        """Run ``argv`` during the block, and give a socket that leads to its standard input and output."""
        socket_here, other_end = socket.socketpair()
        with socket_here, other_end:
            end = other_end.fileno()
            with self._started(argv, peer=socket_here, stdin=end, stdout=end, stderr=subprocess.DEVNULL):
                other_end.close()  # only the program has it now: when that ends, so does our input
                yield socket_here

    def relay(
        self, server: socket.socket, argv: Sequence[str], accepts: Callable[[socket.socket], bool]
    ) -> None:
        """Accept connections at ``server`` until interrupted; each gets a process that runs ``argv``.

        A connection for which ``accepts`` returns False is closed.
        """
        relays: list[tuple[socket.socket, Future[None]]] = []

        def serve(connection: socket.socket) -> None:
            end = connection.fileno()
            with connection, self._started(argv, stdin=end, stdout=end) as process:
                process.wait()

        with ThreadPoolExecutor(RELAYS) as pool:
            try:
                while True:
                    connection, _ = server.accept()
                    if accepts(connection):
                        relays.append((connection, pool.submit(serve, connection)))
                    else:
                        connection.close()
            finally:
                for connection, _ in relays:
                    with contextlib.suppress(OSError):  # its program has ended
                        connection.shutdown(socket.SHUT_RDWR)  # end of file: the program can clean up
                wait([future for _, future in relays], GRACE)
                for process in tuple(self._running):
                    _end(process)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run ``calls`` side by side and return their results in order; a call may use this itself.

        The first error is raised once all have ended. On Ctrl-C the programs that they run are ended.
        """
        try:
            with ThreadPoolExecutor(max_workers=max(1, len(calls))) as pool:
                try:
                    running = [pool.submit(call) for call in calls]
                    wait(running)
                except BaseException:
                    self._interrupt()
                    raise
        finally:
            if threading.current_thread() is threading.main_thread():  # which alone sees Ctrl-C
                self._interrupted = False  # cleaning up may run further programs
        return [future.result() for future in running]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a program that we start, with ``variables`` added."""
    return {name: value for name, value in os.environ.items() if name not in GIT_HOOK} | dict(variables or {})


def _answers(address: tuple[str, int]) -> bool:
    """Return whether something accepts connections at ``address``."""
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def _streams(stdin: bytes | BinaryIO | None, stdout: BinaryIO | None, log: BinaryIO | None) -> dict[str, Any]:
    """Return the standard streams for a program that doesn't get our own; see `Programs.run`."""
    source = subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
    if log:
        return {"stdin": source, "stdout": log, "stderr": subprocess.STDOUT}
    return {"stdin": source, "stdout": stdout or subprocess.PIPE, "stderr": subprocess.PIPE}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End ``process`` if it still runs: SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
