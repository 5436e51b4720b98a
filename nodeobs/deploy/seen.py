"""Nodes and the agents' pods, as far as they matter here: equal where nothing that matters has changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from nodeobs.agents.pods import Condition, Pod
from nodeobs.deploy.children import INSTANCE
from nodeobs.deploy.targets import RUNTIMES
from nodeobs.errors import InvalidInput
from nodeobs.model import Toleration, decode_json


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what is read of a built-in kind; what is absent may also be null."""


class _Labelled(_Read, frozen=True):
    name: str
    labels: dict[str, str] | None = None


class _NodeInfo(_Read, frozen=True):
    container_runtime_version: str = ""


class _NodeStatus(_Read, frozen=True):
    conditions: tuple[Condition, ...] | None = None
    node_info: _NodeInfo | None = None


class Taint(_Read, frozen=True):
    """What keeps pods off a node that do not tolerate it."""

    key: str
    effect: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"

    def is_tolerated(self, tolerations: Iterable[Toleration]) -> bool:
        """Whether one of them matches, as the scheduler matches them."""
        return any(
            one.effect in ("", self.effect)
            and (one.key == self.key or (not one.key and one.operator == "Exists"))
            and (one.operator == "Exists" or one.value == self.value)
            for one in tolerations
        )


class _NodeSpec(_Read, frozen=True):
    taints: tuple[Taint, ...] | None = None


class _Node(_Read, frozen=True):
    metadata: _Labelled
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _PodStatus(_Read, frozen=True):
    pod_ip: str | None = msgspec.field(default=None, name="podIP")


class _Pod(_Read, frozen=True):
    metadata: _Labelled
    status: _PodStatus = _PodStatus()


class Node(msgspec.Struct, frozen=True):
    """A node of the cluster."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    runtime: str
    """The target that its container runtime is; empty where it is none that is known, or not reported yet."""
    taints: tuple[Taint, ...] = ()
    """Those that keep pods of a DaemonSet off it."""

    def is_selected(self, selector: Mapping[str, str]) -> bool:
        """Whether it has all these labels."""
        return all(self.labels.get(key) == value for key, value in selector.items())


class AgentPod(msgspec.Struct, frozen=True):
    """A pod of one of the DaemonSets."""

    instance: str
    """Name of the DaemonSet."""
    address: str
    """Empty where it has none yet."""
    pod: Pod

    @property
    def ready(self) -> bool:
        """Whether its agent answers."""
        return any(one.type == "Ready" and one.status == "True" for one in self.pod.status.conditions or ())


def read_node(raw: bytes) -> Node:
    """From JSON; InvalidInput for what is none."""
    node = decode_json(raw, _Node)
    info = node.status.node_info
    runtime = info.container_runtime_version.partition("://")[0] if info else ""
    ready = any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or ())
    taints = tuple(one for one in node.spec.taints or () if _keeps_off(one))
    return Node(node.metadata.name, node.metadata.labels or {}, ready, RUNTIMES.get(runtime, ""), taints)


def _keeps_off(taint: Taint) -> bool:
    """The DaemonSet controller lets its pods tolerate what Kubernetes itself says of a node's condition."""
    return taint.effect in ("NoSchedule", "NoExecute") and not taint.key.startswith("node.kubernetes.io/")


def read_agent_pod(raw: bytes) -> AgentPod:
    """From JSON; InvalidInput for what is none."""
    read = decode_json(raw, _Pod)
    instance = (read.metadata.labels or {}).get(INSTANCE, "")
    if not instance:
        raise InvalidInput(f"it has no label {INSTANCE}, so that it is of no NodeObservability")
    return AgentPod(instance, read.status.pod_ip or "", decode_json(raw, Pod))
