"""NodeObservability and NodeObservabilityRun in their storage version, v1beta1."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from nodeobs.model.documents import Document
from nodeobs.model.fields import DnsName, DurationSeconds, Labels, NodeRef, ObjectNamespace, Port, TargetName
from nodeobs.model.reasons import FailureReason

GROUP = "nodeobservability.olm.openshift.io"
API_VERSION = f"{GROUP}/v1beta1"

Instant = Annotated[datetime, Meta(tz=True)]


class ProfileType(enum.StrEnum):
    """What Go's pprof endpoints offer."""

    CPU = "cpu"
    HEAP = "heap"
    ALLOCS = "allocs"
    GOROUTINE = "goroutine"
    MUTEX = "mutex"
    BLOCK = "block"
    THREADCREATE = "threadcreate"
    TRACE = "trace"


class Phase(enum.StrEnum):
    """Where a Run stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    RETRIEVING = "Retrieving"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    REJECTED = "Rejected"
    CANCELLED = "Cancelled"

    @property
    def final(self) -> bool:
        """Whether the Run has finished; the others hold the NodeObservability."""
        return self not in (Phase.PENDING, Phase.RUNNING, Phase.RETRIEVING)


class TriggerKind(enum.StrEnum):
    """What created a Run."""

    ALERT = "alert"
    API = "api"
    RESOURCE = "resource"


class OwnerReference(Document, frozen=True, kw_only=True):
    """The object without which this one is to be deleted (metav1.OwnerReference)."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class Metadata(Document, frozen=True, kw_only=True):
    """Object metadata. ``uid``, ``resourceVersion``, ``generation`` and the timestamps are the store's to give.

    Labels and annotations have the API server's bounds and no others: ``kubectl apply`` keeps whole objects there.
    """

    name: DnsName
    namespace: ObjectNamespace = ""
    """Empty for NodeObservabilities, which belong to the whole cluster."""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: Instant | None = None
    deletion_timestamp: Instant | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, Annotated[str, Meta(max_length=63)]] = field(default_factory=dict)
    annotations: dict[str, Annotated[str, Meta(max_length=262_144)]] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    generation: int = 0


class Condition(Document, frozen=True, kw_only=True):
    """A standard Kubernetes condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: Annotated[str, Meta(max_length=32768)] = ""
    last_transition_time: Instant | None = None


class Resource(Document, frozen=True, kw_only=True):
    """Base of what the store keeps; ``kind`` is the class's own."""

    KIND: ClassVar[str]

    metadata: Metadata

    @property
    def finished(self) -> bool:
        """Whether it is only kept for the record; there can be many such, and they can be large."""
        return False


class TargetSpec(Document, frozen=True, kw_only=True):
    """A target that the agents of a NodeObservability may profile; at most one of ``url`` and ``socket``."""

    name: TargetName
    url: Annotated[str, Meta(max_length=2048)] | None = None
    socket: Annotated[str, Meta(max_length=107, pattern=r"\A/")] | None = None


class NodeObservabilitySpec(Document, frozen=True, kw_only=True):
    """Which nodes carry agents, and which targets they may profile."""

    node_selector: Labels = field(default_factory=dict)
    type: Literal["crio-kubelet", "scripting"] = "crio-kubelet"
    targets: Annotated[tuple[TargetSpec, ...], Meta(max_length=64)] = ()
    """Empty: every target that the agents offer."""
    via: Literal["agents", "apiServer"] = "agents"


class NodeObservabilityStatus(Document, frozen=True, kw_only=True):
    """What became of the spec."""

    count: int = 0
    last_updated: Instant | None = None
    targets: tuple[TargetName, ...] = ()
    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0


class NodeObservability(Resource, frozen=True, kw_only=True):
    """Which nodes carry agents, and which targets they may profile. Cluster-scoped."""

    KIND: ClassVar[str] = "NodeObservability"

    spec: NodeObservabilitySpec = field(default_factory=NodeObservabilitySpec)
    status: NodeObservabilityStatus = field(default_factory=NodeObservabilityStatus)


class DebugSettings(Document, frozen=True, kw_only=True):
    """What to turn on for debugging."""

    enable_crio_profiling: bool = False


class MachineConfigSpec(Document, frozen=True, kw_only=True):
    """Which nodes' CRI-O is to offer its profiles."""

    debug: DebugSettings = field(default_factory=DebugSettings)
    node_selector: Labels = field(default_factory=dict)


class MachineConfigStatus(Document, frozen=True, kw_only=True):
    """What became of the spec."""

    conditions: tuple[Condition, ...] = ()
    last_reconcile: Instant | None = None


class NodeObservabilityMachineConfig(Resource, frozen=True, kw_only=True):
    """Turns CRI-O's profiling on through OpenShift's machine configuration. Cluster-scoped."""

    KIND: ClassVar[str] = "NodeObservabilityMachineConfig"

    spec: MachineConfigSpec = field(default_factory=MachineConfigSpec)
    status: MachineConfigStatus = field(default_factory=MachineConfigStatus)


class NodeObservabilityRef(Document, frozen=True, kw_only=True):
    """The NodeObservability a Run belongs to."""

    name: DnsName
    type: Literal["crio-kubelet", "scripting"] | None = None
    """Must match the parent's where it is given."""


class AnsweredAlert(Document, frozen=True, kw_only=True):
    """One alert that a Run answers; the same three (with the trigger) are a duplicate."""

    fingerprint: Annotated[str, Meta(min_length=1, max_length=64)]
    starts_at: Instant


class RunTrigger(Document, frozen=True, kw_only=True):
    """What created a Run."""

    kind: TriggerKind
    name: Annotated[str, Meta(max_length=253)] = ""
    """The trigger rule's name, for alerts."""
    alerts: Annotated[tuple[AnsweredAlert, ...], Meta(max_length=10_000)] = ()


class RunSpec(Document, frozen=True, kw_only=True):
    """What to collect. Immutable once created but for ``cancel`` and ``ttlSecondsAfterFinished``."""

    node_observability_ref: NodeObservabilityRef
    profiles: Annotated[tuple[ProfileType, ...], Meta(min_length=1, max_length=8)] = (ProfileType.CPU,)
    targets: Annotated[tuple[TargetName, ...], Meta(max_length=64)] = ()
    """Empty: all of the NodeObservability's."""
    duration_seconds: DurationSeconds = 30
    nodes: Annotated[tuple[NodeRef, ...], Meta(max_length=5000)] = ()
    node_selector: Labels = field(default_factory=dict)
    cancel: bool = False
    ttl_seconds_after_finished: Annotated[int, Meta(ge=0, le=31_536_000)] | None = None
    trigger: RunTrigger | None = None


class AgentRef(Document, frozen=True, kw_only=True):
    """An agent: its node's name, and where it was asked."""

    name: str
    ip: str = ""
    port: Port = 0


class FailedAgent(AgentRef, frozen=True, kw_only=True):
    """An agent that delivered nothing, and why."""

    reason: FailureReason = FailureReason.INTERNAL
    message: Annotated[str, Meta(max_length=1024)] = ""


class RunSummary(Document, frozen=True, kw_only=True):
    """The numbers of a finished Run."""

    nodes: int = 0
    failed: int = 0
    bytes: int = 0
    start_skew_seconds: float = 0.0


class DriverClaim(Document, frozen=True, kw_only=True):
    """Which process drives the Run, and in which term of leadership; a lower term never overwrites a higher one."""

    holder: str
    term: int


class RunStatus(Document, frozen=True, kw_only=True):
    """How far a Run is, and what came of it."""

    phase: Phase = Phase.PENDING
    start_timestamp: Instant | None = None
    finished_timestamp: Instant | None = None
    agents: tuple[AgentRef, ...] = ()
    failed_agents: tuple[FailedAgent, ...] = ()
    output: str = ""
    summary: RunSummary | None = None
    driver: DriverClaim | None = None
    conditions: tuple[Condition, ...] = ()


class Run(Resource, frozen=True, kw_only=True):
    """One request to collect, from start to finish. Namespaced."""

    KIND: ClassVar[str] = "NodeObservabilityRun"

    spec: RunSpec
    status: RunStatus = field(default_factory=RunStatus)

    @property
    def finished(self) -> bool:
        """Whether its phase is a final one."""
        return self.status.phase.final

    @property
    def key(self) -> str:
        """``namespace/name``, as people write it."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class AnsweredRecord(AnsweredAlert, frozen=True, kw_only=True):
    """An alert that was answered with a Run, remembered after the Run is gone."""

    run: str
    answered_at: Instant
    nodes: tuple[NodeRef, ...] = ()
    """The nodes that the alert named; empty: all."""


class TriggerRecord(Resource, frozen=True, kw_only=True):
    """The alerts that one trigger answered lately, newest last. Bounded; the name is the trigger's."""

    KIND: ClassVar[str] = "TriggerRecord"

    answered: tuple[AnsweredRecord, ...] = ()
