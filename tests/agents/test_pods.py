"""What is said of a pod that does not serve."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeobs.agents.pods import Pod, newest_by_node


def pod(name: str = "agent-x", *, metadata: dict[str, Any] | None = None, **rest: Any) -> Pod:
    owner = {"kind": "DaemonSet", "name": "node-observability-agent", "uid": "u", "apiVersion": "apps/v1"}
    meta = {"name": name, "ownerReferences": [owner]} | (metadata or {})
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, **rest}), type=Pod)


def waiting(why: str, message: str | None = None, **last: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": why, "message": message}}
    return {"name": "agent", "state": state, "lastState": {"terminated": last} if last else {}}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes:\n no room",
}
NOT_READY = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers: [agent]"}
SERVING = {"type": "Ready", "status": "True", "reason": None, "message": None}
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (pod(), "is not running"),
        (pod(status={"phase": "Pending"}), "is Pending"),
        (
            pod(status={"phase": "Pending", "conditions": [UNSCHEDULABLE]}),
            "cannot be scheduled: Unschedulable: 0/3 nodes: no room",
        ),
        (
            pod(status={"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff", "no such image")]}),
            "is not running: ImagePullBackOff: no such image",
        ),
        (
            pod(
                status={
                    "phase": "Running",
                    "conditions": [NOT_READY],
                    "containerStatuses": [waiting("CrashLoopBackOff", exitCode=2, reason="Error")],
                }
            ),
            "is not running: CrashLoopBackOff (ended with exit code 2, Error)",
        ),
        (
            pod(
                status={
                    "phase": "Pending",
                    "initContainerStatuses": [waiting("ErrImagePull")],
                    "containerStatuses": [waiting("PodInitializing")],
                }
            ),
            "is not running: ErrImagePull",
        ),
        (
            pod(status={"phase": "Running", "conditions": [NOT_READY]}),
            "is not ready: ContainersNotReady: containers: [agent]",
        ),
        (
            pod(status={"phase": "Running", "conditions": [SERVING]}),
            "runs, but is not among the endpoints of the agents' Service",
        ),
        (
            pod(status={"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}),
            "has ended: Evicted: disk pressure",
        ),
        (pod(metadata=DELETED, status={"phase": "Running"}), "is being deleted"),
    ],
)
def test_the_reason_is_the_most_telling_one(found: Pod, said: str) -> None:
    assert found.problem == f"its pod agent-x {said}"


def test_a_pod_belongs_to_the_node_it_is_meant_for() -> None:
    def pinned(node: str) -> dict[str, Any]:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        required = {"nodeSelectorTerms": [{"matchFields": None}, term]}
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}

    chosen = newest_by_node(
        [
            pod("a-old", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"}, spec={"nodeName": "a"}),
            pod("a-new", metadata={"creationTimestamp": "2026-01-01T00:00:05Z"}, spec={"nodeName": "a"}),
            pod("b", spec=pinned("b")),
            pod("c-new", metadata=DELETED | {"creationTimestamp": "2026-01-02T00:00:00Z"}, spec={"nodeName": "c"}),
            pod("c-old", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"}, spec={"nodeName": "c"}),
            pod("operator", metadata={"ownerReferences": [{"kind": "ReplicaSet"}]}, spec={"nodeName": "d"}),
            pod("by-hand", metadata={"ownerReferences": None}, spec={"nodeName": "d"}),
        ]
    )
    assert {node: found.metadata.name for node, found in chosen.items()} == {"a": "a-new", "b": "b", "c": "c-old"}
