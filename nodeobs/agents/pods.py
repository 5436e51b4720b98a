"""Why an agent's pod does not serve, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from nodeobs.agents import failures


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what is read of a built-in kind; what is absent may also be null."""


class Condition(_Read, frozen=True):
    """Of a Pod or a Node."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None

    @property
    def why(self) -> str:
        """Reason and message."""
        return failures.clean(": ".join(filter(None, (self.reason, self.message))))


class _Waiting(_Read, frozen=True):
    reason: str | None = None
    message: str | None = None


class _Terminated(_Read, frozen=True):
    exit_code: int = 0
    reason: str | None = None


class _State(_Read, frozen=True):
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _Container(_Read, frozen=True):
    state: _State | None = None
    last_state: _State | None = None


class _Status(_Read, frozen=True):
    phase: str = ""
    reason: str | None = None
    message: str | None = None
    conditions: tuple[Condition, ...] | None = None
    init_container_statuses: tuple[_Container, ...] | None = None
    container_statuses: tuple[_Container, ...] | None = None


class _Owner(_Read, frozen=True):
    kind: str = ""


class _Metadata(_Read, frozen=True):
    name: str
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    owner_references: tuple[_Owner, ...] | None = None


class _Requirement(_Read, frozen=True):
    key: str = ""
    values: tuple[str, ...] | None = None


class _Term(_Read, frozen=True):
    match_fields: tuple[_Requirement, ...] | None = None


class _Selector(_Read, frozen=True):
    node_selector_terms: tuple[_Term, ...] | None = None


class _NodeAffinity(_Read, frozen=True):
    required: _Selector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class _Affinity(_Read, frozen=True):
    node_affinity: _NodeAffinity | None = None


class _Spec(_Read, frozen=True):
    node_name: str | None = None
    affinity: _Affinity | None = None


class Pod(_Read, frozen=True):
    """As much of a Pod as tells what is wrong with it."""

    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def of_daemon_set(self) -> bool:
        """Whether a DaemonSet made it, as agents are."""
        return any(owner.kind == "DaemonSet" for owner in self.metadata.owner_references or ())

    @property
    def node(self) -> str:
        """The node it runs on, or is meant for while it is not scheduled; empty where that is not known."""
        affinity = self.spec.affinity.node_affinity if self.spec.affinity else None
        terms = (affinity.required.node_selector_terms if affinity and affinity.required else None) or ()
        fields = (field for term in terms for field in term.match_fields or ())
        meant = next((field.values[0] for field in fields if field.key == "metadata.name" and field.values), "")
        return self.spec.node_name or meant

    @property
    def problem(self) -> str:
        """Why its agent does not serve."""
        return f"its pod {self.metadata.name} {self._state()}"

    def _state(self) -> str:
        status, conditions = self.status, {condition.type: condition for condition in self.status.conditions or ()}
        if self.metadata.deletion_timestamp is not None:
            return "is being deleted"
        if status.phase in ("Failed", "Succeeded"):
            return _with("has ended", failures.clean(": ".join(filter(None, (status.reason, status.message)))))
        scheduled = conditions.get("PodScheduled")
        if scheduled is not None and scheduled.status == "False":
            return _with("cannot be scheduled", scheduled.why)
        waiting = next(filter(None, map(_waiting, status.init_container_statuses or ())), "")
        waiting = waiting or next(filter(None, map(_waiting, status.container_statuses or ())), "")
        if waiting or status.phase != "Running":
            return waiting or f"is {status.phase or 'not running'}"
        ready = conditions.get("Ready")
        if ready is not None and ready.status != "True":
            return _with("is not ready", ready.why)
        return "runs, but is not among the endpoints of the agents' Service"


def newest_by_node(pods: Iterable[Pod]) -> dict[str, Pod]:
    """The DaemonSet's pod of each node; one that is being deleted only where there is no other."""
    chosen: dict[str, Pod] = {}
    for pod in sorted((pod for pod in pods if pod.of_daemon_set), key=_age):
        chosen[pod.node] = pod
    return chosen


def _age(pod: Pod) -> tuple[bool, float]:
    created = pod.metadata.creation_timestamp
    return pod.metadata.deletion_timestamp is None, created.timestamp() if created else 0.0


def _waiting(container: _Container) -> str:
    """What it waits for, if it is not just for the container before it."""
    waiting = container.state.waiting if container.state else None
    if waiting is None or waiting.reason == "PodInitializing":
        return ""
    text = _with(f"is not running: {waiting.reason or 'waiting'}", failures.clean(waiting.message or ""))
    ended = container.last_state.terminated if container.last_state else None
    return f"{text} (ended with exit code {ended.exit_code}, {ended.reason or 'no reason given'})" if ended else text


def _with(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what
