"""Waiting until a condition holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Least seconds between two calls. Short: a person is waiting.
INTERVAL = 0.1


def poll(look: Callable[[], T], timeout: float, interval: float = INTERVAL) -> T | None:
    """Call ``look`` until it returns a true value, and return that value.

    Between two calls pass ``interval`` seconds, or as many as the last one took if that is more: a call that
    starts a program slows down what it waits for. Return None once ``timeout`` seconds have passed; ``look``
    is called at least once.
    """
    started = time.monotonic()
    deadline = started + timeout
    while not (result := look()):
        looked = time.monotonic()
        if looked > deadline:
            return None
        time.sleep(max(interval, looked - started))
        started = time.monotonic()
    return result
