"""Wait for the pod of a StatefulSet or a Deployment, and say early why it can't become ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import StateError

Document = Mapping[str, Any]
REVISION = "controller-revision-hash"
# Reasons of a waiting container that don't go away by themselves.
HOPELESS = {
    "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
}  # fmt: skip
# Warnings that say why a pod has no node, no volumes or no network.
STUCK = ("FailedScheduling", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
CREATE, PULL = "FailedCreate: ", "Failed: Failed to pull image "
# Seconds without a node or volumes after which a pod's last warning is reported as the error.
PATIENCE = 30
INTERVAL = 0.5  # seconds between two looks; each takes 0.1 s of CPU from the pod that starts
REFUSED = 10  # seconds without a pod being created after which the rollout fails
PULLING = 900  # seconds more that a rollout may take while no container runs


@dataclass
class Rollout:
    """A rollout of the StatefulSet or Deployment ``name``, which may take ``timeout`` seconds.

    ``look`` returns it and its pods, ``events`` the warnings about the object with a uid, ``log`` the end of
    a container's log. ``delete`` deletes a pod. ``retry`` has its controller try at once to create one.
    """

    name: str
    timeout: float
    look: Callable[[], list[dict[str, Any]]]
    events: Callable[[str], list[str]]
    delete: Callable[[str], None]
    log: Callable[[str, str], list[str]]
    retry: Callable[[], None]
    _earlier: set[str] = field(default_factory=set)  # uids of the pods before the rollout
    _refused_since: float | None = None

    def wait(self) -> None:
        """Wait until the pod of the newest revision is ready; StateError if it can't or takes too long."""
        deadline = time.monotonic() + self.timeout
        last = deadline + PULLING
        stuck_since: dict[str, float] = {}
        items = self.look()
        self._earlier = {item["metadata"]["uid"] for item in items if item["kind"] == "Pod"}
        if self._refusal(items):
            self.retry()  # the next attempt may be a quarter of an hour away, and the reason may be mended
        while True:
            self._require_not_refused(items)
            deployment = next((item for item in items if item["kind"] == "Deployment"), None)
            stateful_set = next((item for item in items if item["kind"] == "StatefulSet"), None)
            pod = max((item for item in items if item["kind"] == "Pod"), key=_age, default=None)
            if deployment and _has_newest(deployment):
                if _is_complete(deployment):
                    return
                if pod and not _is_ending(pod):
                    self._examine(pod, stuck_since)
            if stateful_set and self._is_current(stateful_set):
                if pod and self._is_of(stateful_set, pod) and self._examine(pod, stuck_since):
                    return
                self._replace_broken(stateful_set, pod)
            if pod and not _running(pod):  # its images are being pulled
                deadline = min(time.monotonic() + self.timeout, last)
            if time.monotonic() > deadline:
                raise self._error(pod, f"not ready after {self.timeout:g} s")
            time.sleep(INTERVAL)
            items = self.look()

    def _refusal(self, items: list[dict[str, Any]]) -> str:
        """Return why a pod isn't created: a quota, a limit or a policy of the namespace; "" if it is."""
        has_pod = any(item["kind"] == "Pod" for item in items)
        for item in items:
            for condition in item.get("status", {}).get("conditions", ()):
                if (condition["type"], condition["status"]) == ("ReplicaFailure", "True"):
                    return str(condition["message"])
            if item["kind"] == "StatefulSet" and not has_pod:
                events = [each for each in self.events(item["metadata"]["uid"]) if each.startswith(CREATE)]
                return events[-1].partition(" failed error: ")[2] if events else ""
        return ""

    def _require_not_refused(self, items: list[dict[str, Any]]) -> None:
        """Raise StateError if no pod could be created for `REFUSED` seconds."""
        if not (refusal := self._refusal(items)):
            self._refused_since = None
            return
        self._refused_since = self._refused_since or time.monotonic()
        if time.monotonic() - self._refused_since > REFUSED:
            hint = "change `limits`, or ask for other quotas, limits or policies there; then `invoke up`"
            raise StateError(f"{self.name}: no pod can be created: {refusal}", hint)

    @staticmethod
    def _is_current(stateful_set: Document) -> bool:
        """Return whether the controller has seen the applied spec."""
        status, generation = stateful_set.get("status", {}), stateful_set["metadata"]["generation"]
        return bool(status.get("observedGeneration", 0) >= generation and status.get("updateRevision"))

    @staticmethod
    def _is_of(stateful_set: Document, pod: Document) -> bool:
        revision = pod["metadata"].get("labels", {}).get(REVISION)
        return bool(revision == stateful_set["status"]["updateRevision"] and not _is_ending(pod))

    def _replace_broken(self, stateful_set: Document, pod: Document | None) -> None:
        """Delete a pod of an earlier revision that isn't ready: the controller waits for it for ever."""
        if pod is None or _is_ending(pod):
            return
        if not self._is_of(stateful_set, pod) and not _is_ready(pod):
            self.delete(pod["metadata"]["name"])

    def _examine(self, pod: Document, stuck_since: dict[str, float]) -> bool:
        """Return whether ``pod`` is ready; StateError if it never will be.

        An earlier pod that has a node is deleted once instead: the reason may have been mended.
        """
        try:
            return self._is_up(pod, stuck_since)
        except StateError:
            uid, has_node = pod["metadata"]["uid"], "containerStatuses" in pod.get("status", {})
            if uid not in self._earlier or not has_node:
                raise
            self._earlier.remove(uid)
            self.delete(pod["metadata"]["name"])
            return False

    def _is_up(self, pod: Document, stuck_since: dict[str, float]) -> bool:
        if _is_ready(pod):
            return True
        status = pod.get("status", {})
        for item in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            waiting = item.get("state", {}).get("waiting") or {}
            if (reason := waiting.get("reason")) in HOPELESS:
                message = self._refused_pull(pod) or waiting.get("message", "")
                raise self._error(pod, f"{reason}: {message}", item["name"])
            ended = item.get("lastState", {}).get("terminated")
            if ended and item.get("restartCount", 0) > 1:
                problem = f"ended {item['restartCount']} times, with exit status {ended.get('exitCode')}"
                raise self._error(pod, problem, item["name"])
        if status.get("reason") in ("Evicted", "SysctlForbidden"):
            raise self._error(pod, f"{status['reason']}: {status.get('message', '')}")
        uid, now = pod["metadata"]["uid"], time.monotonic()
        if not _running(pod) and now - stuck_since.setdefault(uid, now) > PATIENCE:
            if events := [event for event in self.events(uid) if event.startswith(STUCK)]:
                raise self._error(pod, events[-1])
            stuck_since[uid] = now
        return False

    def _refused_pull(self, pod: Document) -> str:
        """Return the registry's error in the last failed pull of an image of ``pod``; "" without one."""
        found = [each for each in self.events(pod["metadata"]["uid"]) if each.startswith(PULL)]
        return found[-1].removeprefix(PULL).rpartition('": ')[2] if found else ""

    def _error(self, pod: Document | None, problem: str, container: str = "") -> StateError:
        where, details = self.name, []
        if pod:
            where = f"{pod['metadata']['name']}" + (f", container {container}" if container else "")
            details = self.events(pod["metadata"]["uid"])[-5:]
            for name in [container] if container else _not_ready(pod)[:1]:
                details += self.log(pod["metadata"]["name"], name)
        return StateError(f"{where}: {problem.strip()}", "mend it and run `invoke up` again", details)


def _is_ending(pod: Document) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _age(pod: Document) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def _has_newest(deployment: Document) -> bool:
    """Return whether ``deployment`` has a pod with the applied spec."""
    status = deployment.get("status", {})
    is_current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return bool(is_current and status.get("updatedReplicas"))


def _is_complete(deployment: Document) -> bool:
    """Return whether the pod with the applied spec is ready, and no other is left."""
    status = deployment["status"]
    return bool(status.get("availableReplicas") == status.get("replicas") == status["updatedReplicas"])


def _is_ready(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _running(pod: Document) -> bool:
    """Return whether a container of ``pod`` runs or has run."""
    status = pod.get("status", {})
    statuses = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return any("waiting" not in item.get("state", {"waiting": {}}) for item in statuses)


def _not_ready(pod: Document) -> list[str]:
    """Return the names of the containers of ``pod`` that run and aren't ready."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return [item["name"] for item in statuses if "running" in item.get("state", {}) and not item.get("ready")]
