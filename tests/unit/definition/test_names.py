"""Names that are ours alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubenvs.definition.containers import CONTAINERS
from hubenvs.definition.names import check_instance, checkout_id, container_name, pod_name


def test_no_instance_is_called_as_a_part_of_another_pod() -> None:
    """The pod of an instance `slurm` would have the name of a container and a Secret of the plain pod."""
    assert pod_name("dev", "slurm") == container_name(pod_name("dev", None), "slurm")
    for container in CONTAINERS:
        with pytest.raises(ValueError, match="this is a container's name"):
            check_instance(container)
    check_instance("mine")


def test_a_checkouts_path_need_not_be_text() -> None:
    """Such as a folder with a name in Latin-1."""
    assert checkout_id(Path(os.fsdecode(b"/caf\xe9"))) != checkout_id(Path("/café"))
    assert checkout_id(Path("/srv/hub")) == checkout_id(Path("/srv/x/../hub"))
