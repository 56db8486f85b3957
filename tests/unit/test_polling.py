"""How often something is looked at."""

from __future__ import annotations

import pytest

from hubenvs import polling


class Clock:
    """Stands in for the module time: nothing takes time but sleeping, and what adds to ``now``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.now += seconds


@pytest.mark.parametrize(("takes", "expected"), [(0, [0, 0.5, 1, 1.5, 2, 2.5]), (1, [0, 2, 4])])
def test_looking_takes_half_of_the_time_at_most(
    monkeypatch: pytest.MonkeyPatch, takes: float, expected: list[float]
) -> None:
    """A look that starts a program slows down what is waited for."""
    clock = Clock()
    looks: list[float] = []
    monkeypatch.setattr(polling, "time", clock)

    def look() -> None:
        looks.append(clock.now)
        clock.now += takes

    assert polling.poll(look, timeout=max(expected) - 0.1, interval=0.5) is None
    assert looks == expected
