"""What counts as an answer."""

from __future__ import annotations

import pytest

from hubenvs.stages.wait import nodes_answer


@pytest.mark.parametrize(
    ("states", "answer"),
    [
        ("idle\nidle", True),
        ("mix", True),
        ("alloc\ndrain\ndrng\nresv", True),
        ("mix- alloc$", True),
        ("", False),
        ("idle\nidle*", False),
        ("mix*", False),
        ("down", False),
        ("unk*", False),
        ("inval", False),
    ],
)
def test_nodes_answer_whatever_is_on_them(states: str, answer: bool) -> None:
    """`up` doesn't wait for servers to end, nor for a drained node to be resumed, but for each slurmd."""
    assert nodes_answer(states) is answer
