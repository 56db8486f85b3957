"""How programs end: on Ctrl-C during `at_once`, and behind a relay."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from hubenvs.engines import process
from hubenvs.engines.process import Programs

from .helpers import once

pytestmark = once

# Goes on after SIGTERM, as a program does that hasn't started yet to pass it on.
STUBBORN = ("sh", "-c", "trap '' TERM; exec sleep 20")


def interrupted(programs: Programs, calls: Sequence[Callable[[], Any]]) -> float:
    """Run ``calls`` by `at_once`, interrupt them after 0.3 s, and return how many seconds they went on."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        programs.at_once(calls)
    return time.monotonic() - started - 0.3


class Slow(list[Callable[[], Any]]):
    """Calls of which it takes a second to get the next one, as on a busy machine."""

    def __iter__(self) -> Iterator[Callable[[], Any]]:
        for call in super().__iter__():
            yield call
            time.sleep(1)


def test_who_waits_at_a_socket_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    programs = Programs()

    def wait() -> bytes:
        with programs.connected(STUBBORN) as connection:
            connection.settimeout(10)
            return connection.recv(1)

    assert interrupted(programs, [wait]) < 5


def test_a_program_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    programs = Programs()
    assert interrupted(programs, [lambda: programs.run(STUBBORN)]) < 5


def test_a_relay_ends_with_its_program() -> None:
    """A client hears of it, and could otherwise wait until the task ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def relay() -> None:
            with contextlib.suppress(OSError):  # the server's end
                Programs().relay(server, ("true",), accepts=lambda _: True)

        thread = threading.Thread(target=relay)
        thread.start()
        with socket.create_connection(server.getsockname(), timeout=10) as client:
            assert client.recv(1) == b""
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert not thread.is_alive()


def test_a_program_that_was_being_started_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call would wait for it as long as it likes."""
    start = subprocess.Popen

    def start_slowly(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        running = start(*arguments, **options)
        time.sleep(1)
        return running

    monkeypatch.setattr(subprocess, "Popen", start_slowly)
    programs = Programs()
    assert interrupted(programs, [lambda: programs.run(("sleep", "10"))]) < 5


def test_ctrl_c_while_calls_are_still_begun() -> None:
    """The programs of those that have begun are ended, not waited for."""
    programs = Programs()
    assert interrupted(programs, Slow([lambda: programs.run(("sleep", "10"))] * 2)) < 5
