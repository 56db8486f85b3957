"""What people write, as data with lines; and one layer over another."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubenvs.definition.layers import merge, parse_set, parse_yaml
from hubenvs.errors import DefinitionError


@pytest.mark.parametrize(
    "option",
    ["", "a." * 3000 + "a=1", "nodes", "=1", "a..b=1", "slurm.nodes=[1", "a={b: 1, b: 2}", "a=1\n---\n2"],
)
def test_a_malformed_set_is_refused(option: str) -> None:
    """--set takes key.key=value, nothing else."""
    with pytest.raises(DefinitionError, match="--set"):
        parse_set(option)


def test_origins_name_the_layer_that_won() -> None:
    """An error about a merged value points at the file and line that it was written in."""
    low = parse_yaml("a: {b: 1, c: 2}", "low.yaml")
    high = parse_yaml("\na:\n  c: 3", "high.yaml")
    data, origin = merge([low, high])
    assert data == {"a": {"b": 1, "c": 3}}
    assert (origin[("a", "b")], origin[("a", "c")]) == ("low.yaml:1", "high.yaml:3")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in a definition, the only error that comes out is ours."""
    with contextlib.suppress(DefinitionError):
        parse_yaml(text, "any.yaml")
