"""The engine: the one door through which every program is started, and what podman says there is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from . import state
from .commands import pod_network
from .errors import CommandError, StateError, quoted
from .host import containers_conf, rootless
from .names import LABEL_INSTANCE, LABEL_PART_OF, PART_OF

OLDEST = (4, 3)
# What Git sets for its hooks (githooks(5)): the working copies are other repositories than the one it runs them for.
GIT_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}
# Seconds: a question to podman is answered at once, unless it hangs; a change takes longer; and a program that is told
# to end has its own to clean up.
ANSWER, LONGEST, GRACE = 30, 600, 5


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit status and what it wrote (``stdout`` as bytes, ``stderr`` as text)."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Return what it wrote to stdout, as text without the last newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")


@dataclass(frozen=True)
class Holdings:
    """All that the engine has: pods, containers and volumes as podman describes them, and the names of secrets."""

    pods: Sequence[Mapping[str, Any]]
    containers: Sequence[Mapping[str, Any]]
    volumes: Sequence[Mapping[str, Any]]
    secrets: frozenset[str]

    @property
    def volume_names(self) -> set[str]:
        """Return the names of all volumes, whoever made them."""
        return {volume["Name"] for volume in self.volumes}


class Engine:
    """Runs programs, podman above all, in the environment that this host needs.

    ``folder`` is where a containers.conf is put if the host needs one (None: nowhere, podman will only be asked);
    ``echo`` gets each command, quoted.
    """

    def __init__(self, folder: Path | None, echo: Callable[[str], None] | None = None) -> None:
        self._echo = echo
        self._running: set[subprocess.Popen[bytes]] = set()
        self._interrupted = False
        self._version: tuple[int, ...] | None = None
        self._folder = folder

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The variables that a command of ours gets; a containers.conf is made first if this host needs one."""
        own = {name: value for name, value in os.environ.items() if name not in GIT_HOOK}
        if not (self._folder and (configuration := containers_conf())):
            return own
        path = self._folder / "containers.conf"
        if not path.exists() or path.read_text() != configuration:
            state.write(state.make(self._folder) / path.name, configuration)
        return {**own, "CONTAINERS_CONF": str(path)}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        check: bool = True,
        timeout: float | None = LONGEST,
        log: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        terminal: bool = False,
        whole: bool = False,
    ) -> Completed:
        """Run ``argv`` to its end and return what came of it.

        ``stdin`` is what it reads (nothing if not given), ``timeout`` in seconds. ``log`` is a file that takes all it
        writes instead, ``stdout`` one for that alone, ``terminal`` lets it have our streams. ``whole``: if we are
        interrupted, it may end by itself first, in a session of its own that the terminal's Ctrl-C doesn't reach; what
        podman has half done to the network nobody can undo. Raises CommandError if it fails and ``check`` is set or if
        it takes too long, StateError if the program isn't there. However this ends, the program isn't left running.
        """
        if self._echo:
            self._echo(quoted(argv))
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL if stdin is None else subprocess.PIPE}
        if terminal:
            given = {}
        elif log:
            given |= {"stdout": log, "stderr": subprocess.STDOUT}
        else:
            given |= {"stdout": stdout or subprocess.PIPE, "stderr": subprocess.PIPE}
        given |= {"env": self.environment, "start_new_session": whole}
        if self._interrupted and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt  # what `at_once` runs side by side goes no further
        try:
            process = subprocess.Popen(argv, **given)
        except (FileNotFoundError, PermissionError):
            raise StateError(f"{argv[0]} is not installed", "run scripts/bootstrap, it says what is missing") from None
        self._running.add(process)
        try:
            written, errors = process.communicate(stdin, timeout)
        except KeyboardInterrupt:
            if whole:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=ANSWER)
            raise
        except subprocess.TimeoutExpired:
            raise CommandError(
                argv, None, "", f"stopped after {timeout:g} s; `invoke doctor` looks at the host"
            ) from None
        finally:
            _end(process)
            self._running.discard(process)
        result = Completed(process.returncode, written or b"", (errors or b"").decode(errors="replace"))
        if check and result.returncode != 0:
            raise CommandError(argv, result.returncode, result.stderr or result.text)
        return result

    def relay(self, server: socket.socket, argv: Sequence[str]) -> None:
        """Serve at ``server``, which listens, until interrupted; each connection gets a process that runs ``argv``."""
        open_ones: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []
        try:
            while True:
                connection, _ = server.accept()
                process = subprocess.Popen(
                    argv, env=self.environment, stdin=connection.fileno(), stdout=connection.fileno()
                )
                open_ones.append((connection, process))
        finally:
            for connection, process in open_ones:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    connection.shutdown(socket.SHUT_RDWR)  # a program that reads its end of file tidies up
                    process.wait(GRACE)
                connection.close()
                _end(process)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run ``calls`` side by side and return what each returns, in their order, or raise the first one's error.

        All run to their end; if we are interrupted, the programs that they run are ended.
        """
        try:
            with ThreadPoolExecutor(max_workers=max(1, len(calls))) as pool:
                running = [pool.submit(call) for call in calls]
                try:
                    wait(running)
                except BaseException:
                    self._interrupted = True
                    for process in tuple(self._running):
                        process.terminate()
                    raise
        finally:
            self._interrupted = False  # what was side by side has ended; tidying up may go on
        return [future.result() for future in running]

    def json(self, argv: Sequence[str]) -> Any:
        """Run ``argv`` and return the JSON it prints (an empty list if it prints nothing)."""
        printed = self.run(argv, timeout=ANSWER).stdout or b"[]"
        try:
            return json.loads(printed) or []
        except ValueError:
            self.version()  # says so if it is too old
            raise StateError(f"`{quoted(argv)}` printed no JSON", f"is this the real {argv[0]}?") from None

    def version(self) -> tuple[int, ...]:
        """Return podman's version, such as (4, 3, 1); raise StateError if there is none or it is too old."""
        if self._version:
            return self._version
        text = self.run(("podman", "--version"), timeout=ANSWER).text
        try:
            version = tuple(int(part) for part in text.split()[-1].split("-")[0].split(".")[:3])
        except (ValueError, IndexError):
            raise StateError(f"`podman --version` says {text!r}", "is this podman?") from None
        if version < OLDEST:
            raise StateError(f"podman {text.split()[-1]} is too old", "install podman 4.3 or newer")
        self._version = version
        return version

    @property
    def network(self) -> str:
        """The network that a pod is played on."""
        return pod_network(self.version(), rootless(), shutil.which("pasta") is not None)

    # -- what there is ---------------------------------------------------------------------------------------------

    def has_image(self, name: str) -> bool:
        """Return whether there is an image ``name``; a listing of all would take longer with each there is."""
        argv = ("podman", "image", "exists", name)
        done = self.run(argv, check=False, timeout=ANSWER)
        if done.returncode not in (0, 1):
            raise CommandError(argv, done.returncode, done.stderr)
        return done.returncode == 0

    def holdings(self) -> Holdings:
        """Return podman's current pods, containers, volumes and names of secrets."""
        pods, containers, volumes, secrets = self.at_once(
            (
                lambda: self.json(("podman", "pod", "ps", "--format=json")),
                lambda: self.json(("podman", "ps", "--all", "--format=json")),
                lambda: self.json(("podman", "volume", "ls", "--format=json")),
                # By name: podman 4.3 can't label one.
                lambda: self.run(("podman", "secret", "ls", "--format", "{{.Name}}"), timeout=ANSWER).text.split(),
            )
        )
        containers = [container for container in containers if not container.get("IsInfra")]
        return Holdings(pods, containers, volumes, frozenset(secrets))

    def logs(self, container: str, lines: int = 20) -> list[str]:
        """Return the last ``lines`` lines that ``container`` wrote."""
        done = self.run(("podman", "logs", "--tail", str(lines), container), check=False)
        return (done.text + "\n" + done.stderr).strip().splitlines()[-lines:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make ``process`` end if it hasn't: politely, since it may have to tidy up, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def instance_of(described: Mapping[str, Any]) -> str | None:
    """Return which instance something that podman describes belongs to, or None if it isn't ours."""
    labels = described.get("Labels") or {}
    return labels.get(LABEL_INSTANCE) if labels.get(LABEL_PART_OF) == PART_OF else None
