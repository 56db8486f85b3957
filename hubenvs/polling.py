"""Waiting until a condition holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds between two calls. Short: a call costs little, and a person is waiting.
INTERVAL = 0.1


def poll(look: Callable[[], T], timeout: float, interval: float = INTERVAL) -> T | None:
    """Call ``look`` every ``interval`` seconds until it returns a true value, and return that value.

    Return None once ``timeout`` seconds have passed; ``look`` is called at least once.
    """
    deadline = time.monotonic() + timeout
    while not (result := look()):
        if time.monotonic() > deadline:
            return None
        time.sleep(interval)
    return result
