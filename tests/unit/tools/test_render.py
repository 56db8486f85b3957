"""`render`: options that contradict each other."""

from __future__ import annotations

import pytest

from hubenvs.errors import DefinitionError
from hubenvs.tools.render import _check_options


@pytest.mark.parametrize("output", [None, "folder"])
def test_secrets_in_the_folder_are_refused_by_their_option(output: str | None) -> None:
    """The error names --with-secrets, which is wrong, and not --target."""
    with pytest.raises(DefinitionError, match=r"^--with-secrets: ") as error:
        _check_options("kubernetes", ["kubernetes", "podman"], output, with_secrets=True)
    assert "leave it out" in error.value.hint
