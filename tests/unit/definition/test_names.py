"""Names that are ours alone."""

from __future__ import annotations

import pytest

from hubenvs.definition.containers import CONTAINERS
from hubenvs.definition.names import check_instance, container_name, pod_name


def test_no_instance_is_called_as_a_part_of_another_pod() -> None:
    """The pod of an instance `slurm` would have the name of a container and a Secret of the plain pod."""
    assert pod_name("dev", "slurm") == container_name(pod_name("dev", None), "slurm")
    for container in CONTAINERS:
        with pytest.raises(ValueError, match="this is a container's name"):
            check_instance(container)
    check_instance("mine")
