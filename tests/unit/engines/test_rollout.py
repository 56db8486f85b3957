"""A rollout in a cluster: ready, hopeless, or stuck on a pod of an earlier revision."""

from __future__ import annotations

from typing import Any

import pytest

from hubenvs.engines import rollout
from hubenvs.engines.rollout import Rollout
from hubenvs.errors import StateError

Document = dict[str, Any]
STATEFUL_SET: Document = {
    "kind": "StatefulSet",
    "metadata": {"generation": 2, "uid": "set"},
    "status": {"observedGeneration": 2, "updateRevision": "new"},
}


def pod(revision: str = "new", ready: bool = False, **status: Any) -> Document:
    labels = {rollout.REVISION: revision}
    condition = {"type": "Ready", "status": str(ready)}
    return {
        "kind": "Pod",
        "metadata": {"name": "hub-0", "uid": revision, "labels": labels},
        "status": {"conditions": [condition], **status},
    }


def waiting(reason: str) -> Document:
    return {"name": "slurm", "state": {"waiting": {"reason": reason, "message": "no such image"}}}


def wait(*looks: list[Document], events: list[str] | None = None) -> list[str]:
    """Wait for a rollout that looks like each of ``looks`` in turn, and return what was deleted or retried.

    Its first look, of before, has nothing.
    """
    return go_on([], *looks, events=events)


def go_on(*looks: list[Document], events: list[str] | None = None) -> list[str]:
    """Do the same from what is there already, the first of ``looks``."""
    done: list[str] = []
    remaining = list(looks)

    def look() -> list[Document]:
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    def retry() -> None:
        done.append("retried")

    Rollout("hub", 0.5, look, lambda _: events or [], done.append, lambda *_: ["its last line"], retry).wait()
    return done


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look without a pause, and have no patience with what lacks a node."""
    monkeypatch.setattr(rollout, "INTERVAL", 0)
    monkeypatch.setattr(rollout, "PATIENCE", 0.1)
    monkeypatch.setattr(rollout, "PULLING", 0.5)
    monkeypatch.setattr(rollout, "REFUSED", 0.1)


def test_it_ends_when_the_new_pod_is_ready() -> None:
    """A ready pod of the earlier revision, or of before the controller has looked, doesn't count."""
    stale = {**STATEFUL_SET, "status": {"observedGeneration": 1, "updateRevision": "old"}}
    assert (
        wait([stale, pod("old", True)], [STATEFUL_SET, pod("old", True)], [STATEFUL_SET, pod(ready=True)])
        == []
    )


def test_a_broken_pod_of_before_is_deleted() -> None:
    """The controller would wait for it for ever."""
    broken = pod("old", containerStatuses=[waiting("CrashLoopBackOff")])
    assert wait([STATEFUL_SET, broken], [STATEFUL_SET, pod(ready=True)]) == ["hub-0"]


@pytest.mark.parametrize("reason", sorted(rollout.HOPELESS))
def test_what_no_waiting_cures_is_said_at_once(reason: str) -> None:
    """With the container, the reason, the events and the end of the log."""
    with pytest.raises(StateError) as error:
        wait([STATEFUL_SET, pod(containerStatuses=[waiting(reason)])], events=["Failed: pull"])
    assert error.value.message == f"hub-0, container slurm: {reason}: no such image"
    assert error.value.details == ("Failed: pull", "its last line")


@pytest.mark.parametrize(
    "event",
    [
        "FailedMount: secret not found",
        "FailedScheduling: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    ],
)
def test_a_pod_without_a_node_or_volume_is_explained(event: str) -> None:
    """After a while its warnings are taken for the reason, long before the rollout's time is over."""
    with pytest.raises(StateError) as error:
        wait([STATEFUL_SET, pod()], events=["Pulled: image", event])
    assert error.value.message == f"hub-0: {event}"


def test_it_takes_only_so_long() -> None:
    """A pod that runs and never becomes ready ends the wait, with the log of what isn't ready."""
    running = {"name": "jupyterhub", "state": {"running": {}}, "ready": False}
    with pytest.raises(StateError, match=r"not ready after 0\.5 s") as error:
        wait([STATEFUL_SET, pod(containerStatuses=[running])])
    assert error.value.details == ("its last line",)


def test_a_deployment_ends_with_the_new_pod_alone() -> None:
    """While the earlier pod still serves, it isn't complete; a pod that can't start is explained."""

    def deployment(generation: int, **status: int) -> Document:
        observed = {"observedGeneration": generation, **status}
        return {"kind": "Deployment", "metadata": {"generation": 2}, "status": observed}

    old, new = deployment(1, replicas=1, updatedReplicas=1, availableReplicas=1), pod(ready=True)
    both = deployment(2, replicas=2, updatedReplicas=1, availableReplicas=2)
    done = deployment(2, replicas=1, updatedReplicas=1, availableReplicas=1)
    assert wait([old, pod("old", True)], [both, new, pod("old", True)], [done, new]) == []
    with pytest.raises(StateError, match="CrashLoopBackOff"):
        wait([both, pod(containerStatuses=[waiting("CrashLoopBackOff")])])


def test_a_pod_of_before_that_could_not_start_is_tried_anew_once() -> None:
    """What kept it from starting may be mended; the next one is explained."""
    broken = pod(containerStatuses=[waiting("ImagePullBackOff")])
    ending = {**broken, "metadata": {**broken["metadata"], "deletionTimestamp": "now"}}
    fresh = {**pod(ready=True), "metadata": {**broken["metadata"], "uid": "fresh"}}
    assert go_on([STATEFUL_SET, broken], [STATEFUL_SET, ending], [STATEFUL_SET, fresh]) == ["hub-0"]
    again = {**broken, "metadata": fresh["metadata"]}
    with pytest.raises(StateError, match="ImagePullBackOff"):
        go_on([STATEFUL_SET, broken], [STATEFUL_SET, ending], [STATEFUL_SET, again])


def test_what_the_registry_answers_is_said() -> None:
    """The reason stands in an event; the container's says only that it waits."""
    event = 'Failed: Failed to pull image "r/x": rpc error: failed to resolve "r/x": host r: 401 Unauthorized'
    with pytest.raises(StateError) as error:
        wait([STATEFUL_SET, pod(containerStatuses=[waiting("ImagePullBackOff")])], events=[event])
    assert error.value.message == "hub-0, container slurm: ImagePullBackOff: host r: 401 Unauthorized"


def test_a_pod_that_is_not_allowed_is_explained() -> None:
    """A quota, a limit or a policy refuses it. One that was mended is tried at once."""
    refused = ["FailedCreate: create Pod hub-0 in StatefulSet hub failed error: exceeded quota: small"]
    with pytest.raises(StateError, match="hub: no pod can be created: exceeded quota: small"):
        wait([STATEFUL_SET], events=refused)
    assert go_on([STATEFUL_SET], [STATEFUL_SET, pod(ready=True)], events=refused) == ["retried"]
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
    deployment = {
        "kind": "Deployment",
        "metadata": {"generation": 2},
        "status": {"observedGeneration": 2, "conditions": [condition]},
    }
    with pytest.raises(StateError, match="hub: no pod can be created: exceeded quota: small"):
        wait([deployment, pod("old", ready=True)])
