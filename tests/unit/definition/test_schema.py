"""The values that keys accept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubenvs.definition.schema import DevUser, Endpoint


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        (8000, "127.0.0.1:8000"),
        ("8000", "127.0.0.1:8000"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_an_endpoint_is_an_address_and_a_port(text: str | int, shown: str) -> None:
    """A port alone is published on loopback."""
    assert str(Endpoint.model_validate(text)) == shown


@given(st.text())
def test_a_dev_user_that_parses_is_safe_in_a_shell(text: str) -> None:
    """No name that is accepted has a character that a shell would read."""
    try:
        user = DevUser.parse(text)
    except ValueError:
        return
    assert user.account == text
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
