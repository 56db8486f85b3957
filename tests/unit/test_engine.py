"""What of all that podman describes is ours."""

from __future__ import annotations

from hubenvs import engine


def test_only_labelled_things_are_ours() -> None:
    """Something without our label belongs to somebody else, whatever its name."""
    ours = {"Labels": {"app.kubernetes.io/part-of": "jupyterhub-slurm", "app.kubernetes.io/instance": "x"}}
    assert engine.instance_of(ours) == "x"
    assert engine.instance_of({"Labels": {"app.kubernetes.io/instance": "x"}}) is None
    assert engine.instance_of({"Labels": None}) is None
