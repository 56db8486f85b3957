"""What the server refuses is said by `up` before it builds or changes anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.integration.helpers import PUBLISHED, SETTINGS, invoke

from .conftest import Cluster


def refused(cluster: Cluster, path: Path | None = None) -> str:
    """Return what `up` says that fails there; ``path``: as for `invoke`."""
    options = (*cluster.options, *SETTINGS, *PUBLISHED)
    done = invoke("up", "--env", "dev_dummyauth", *options, check=False, path=path)
    assert done.returncode != 0
    assert "secrets" not in done.stdout  # which come after the build
    return done.stderr


def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    """The hint makes it."""
    said = refused(replace(cluster, namespace="nowhere"))
    assert f"{cluster.context}/nowhere: there is no such namespace" in said
    assert f"kubectl --context {cluster.context} create namespace nowhere" in said


def test_what_has_our_name_without_our_labels_is_left_alone(cluster: Cluster) -> None:
    """`up` names it, and `down` does not remove it."""
    name = "jupyterhub-slurm-dev-dummyauth"
    cluster.kubectl("create", "service", "clusterip", name, "--tcp=80")
    try:
        before = cluster.get("service", name)
        assert f"there is a Service {name} without this suite's labels" in refused(cluster)
        invoke("down", "--env", "dev_dummyauth", *cluster.options)
        assert cluster.get("service", name) == before
    finally:
        cluster.kubectl("delete", "service", name)


def test_a_missing_right_is_named(cluster: Cluster, stranger: Path) -> None:
    """One to look, and one to change: `view` is a ClusterRole that every cluster has."""
    assert 'User "stranger" cannot list resource' in refused(cluster, stranger)
    may_look = ("create", "rolebinding", "looks", "--clusterrole=view", "--user=stranger")
    may_see = ("create", "role", "sees", "--verb=get,list", "--resource=secrets")
    for arguments in (may_look, may_see, ("create", "rolebinding", "sees", "--role=sees", "--user=stranger")):
        cluster.kubectl(*arguments)
    try:
        said = refused(cluster, stranger)
        assert "a right is missing" in said
        assert 'User "stranger" cannot patch resource' in said
    finally:
        cluster.kubectl("delete", "rolebinding/looks", "rolebinding/sees", "role/sees")
