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

    type: Annotated[str, Meta(max_length=316)]
    """What it is about, such as Ready or Finished."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Meta(max_length=1024)] = ""
    """Why, in one word for programs."""
    message: Annotated[str, Meta(max_length=32768)] = ""
    """Why, in a sentence for people."""
    last_transition_time: Instant | None = None
    """When ``status`` last changed."""


Conditions = Annotated[tuple[Condition, ...], Meta(max_length=64)]


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
    """What Runs and files call it; ``kubelet``, ``crio`` and ``containerd`` need neither url nor socket."""
    url: Annotated[str, Meta(max_length=2048)] | None = None
    """Where the agents ask for profiles, ending in ``/debug/pprof``; ``$(NODE_IP)`` is the node's address."""
    socket: Annotated[str, Meta(max_length=107, pattern=r"\A/")] | None = None
    """Path of a unix socket on the node that offers ``/debug/pprof``."""


class Toleration(Document, frozen=True, kw_only=True):
    """A taint that an agent's pod tolerates (core/v1 Toleration)."""

    key: Annotated[str, Meta(max_length=317)] = ""
    """Of the taint. Empty, with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the taint's value matters."""
    value: Annotated[str, Meta(max_length=63)] = ""
    """Of the taint, with operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Of the taint. Empty: any."""
    toleration_seconds: int | None = None
    """How long a taint with effect NoExecute is tolerated. Default: for ever."""


Quantities = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=317)],
        Annotated[str, Meta(max_length=32, pattern=r"\A[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?\Z")],
    ],
    Meta(max_length=16),
]
"""Amounts of resources, as Kubernetes writes them."""


class ResourceAmounts(Document, frozen=True, kw_only=True):
    """What an agent's container gets (core/v1 ResourceRequirements)."""

    requests: Quantities = field(default_factory=lambda: {"cpu": "10m", "memory": "64Mi"})
    """What is kept free for it on its node."""
    limits: Quantities = field(default_factory=lambda: {"memory": "256Mi"})
    """What it may use at most."""


class NodeObservabilitySpec(Document, frozen=True, kw_only=True):
    """Which nodes carry agents, and which targets they may profile."""

    node_selector: Labels = field(default_factory=dict)
    """Labels of the nodes that carry agents. Empty: every node."""
    type: Literal["crio-kubelet", "scripting"] = "crio-kubelet"
    """``crio-kubelet`` profiles the kubelet and the container runtime, ``scripting`` runs scripts."""
    targets: Annotated[tuple[TargetSpec, ...], Meta(max_length=64)] = ()
    """What the agents may profile. Empty: every target that they offer."""
    via: Literal["agents", "apiServer"] = "agents"
    """``agents`` on the nodes, or ``apiServer``: kubelets alone, through the API server's node proxy."""
    tolerations: Annotated[tuple[Toleration, ...], Meta(max_length=64)] = (Toleration(operator="Exists"),)
    """Taints of nodes that carry agents all the same. Default: all; an empty list: none."""
    priority_class_name: Annotated[str, Meta(max_length=253)] = ""
    """PriorityClass of the agents' pods."""
    resources: ResourceAmounts = field(default_factory=ResourceAmounts)
    """What each agent requests, and may use."""


class NodeObservabilityStatus(Document, frozen=True, kw_only=True):
    """What became of the spec."""

    count: int = 0
    """So many nodes carry an agent."""
    last_updated: Instant | None = None
    """When this was last found out."""
    targets: Annotated[tuple[TargetName, ...], Meta(max_length=64)] = ()
    """What the agents offer: the targets that a Run may name."""
    conditions: Conditions = ()
    """Ready: whether every selected node has an agent that can profile."""
    observed_generation: int = 0
    """The ``metadata.generation`` that this tells of."""


class NodeObservability(Resource, frozen=True, kw_only=True):
    """Which nodes carry agents, and which targets they may profile. Cluster-scoped."""

    KIND: ClassVar[str] = "NodeObservability"

    spec: NodeObservabilitySpec = field(default_factory=NodeObservabilitySpec)
    """Which nodes carry agents, and which targets they may profile."""
    status: NodeObservabilityStatus = field(default_factory=NodeObservabilityStatus)
    """What became of the spec; written by the service."""


class DebugSettings(Document, frozen=True, kw_only=True):
    """What to turn on for debugging."""

    enable_crio_profiling: bool = False
    """Whether CRI-O offers its profiles on its socket."""


class MachineConfigSpec(Document, frozen=True, kw_only=True):
    """Which nodes' CRI-O is to offer its profiles."""

    debug: DebugSettings = field(default_factory=DebugSettings)
    """What to turn on."""
    node_selector: Labels = field(default_factory=dict)
    """Labels of the nodes where it is turned on, those of the control plane left out. Empty: every other node."""


class MachineConfigStatus(Document, frozen=True, kw_only=True):
    """What became of the spec."""

    conditions: Conditions = ()
    """DebugEnabled: whether the nodes have it; Ready: whether all is done."""
    last_reconcile: Instant | None = None
    """When this was last found out."""


class NodeObservabilityMachineConfig(Resource, frozen=True, kw_only=True):
    """Turns CRI-O's profiling on through OpenShift's machine configuration. Cluster-scoped."""

    KIND: ClassVar[str] = "NodeObservabilityMachineConfig"

    spec: MachineConfigSpec = field(default_factory=MachineConfigSpec)
    """Which nodes' CRI-O is to offer its profiles."""
    status: MachineConfigStatus = field(default_factory=MachineConfigStatus)
    """What became of the spec; written by the service."""


class NodeObservabilityRef(Document, frozen=True, kw_only=True):
    """The NodeObservability a Run belongs to."""

    name: DnsName
    """Its name; it has to exist."""
    type: Literal["crio-kubelet", "scripting"] | None = None
    """Its type; must match where it is given."""


class AnsweredAlert(Document, frozen=True, kw_only=True):
    """One alert that a Run answers; the same three (with the trigger) are a duplicate."""

    fingerprint: Annotated[str, Meta(min_length=1, max_length=64)]
    """Alertmanager's identifier of the alert's labels."""
    starts_at: Instant
    """When the alert began."""


class RunTrigger(Document, frozen=True, kw_only=True):
    """What created a Run."""

    kind: TriggerKind
    """``alert``: a notification of Alertmanager. ``api``: the service's API. ``resource``: kubectl or the like."""
    name: Annotated[str, Meta(max_length=253)] = ""
    """The trigger rule's name, for alerts."""
    alerts: Annotated[tuple[AnsweredAlert, ...], Meta(max_length=10_000)] = ()
    """The alerts that it answers; one that is sent again starts nothing."""


class RunSpec(Document, frozen=True, kw_only=True):
    """What to collect. Immutable once created but for ``cancel`` and ``ttlSecondsAfterFinished``."""

    node_observability_ref: NodeObservabilityRef
    """The NodeObservability whose nodes are profiled; one Run on it at a time."""
    profiles: Annotated[tuple[ProfileType, ...], Meta(min_length=1, max_length=8)] = (ProfileType.CPU,)
    """What to collect from each target. cpu and trace cover the duration, the others are taken at its end."""
    targets: Annotated[tuple[TargetName, ...], Meta(max_length=64)] = ()
    """Names of the targets to profile. Empty: all of the NodeObservability's."""
    duration_seconds: DurationSeconds = 30
    """How long to profile, in seconds (1 to 3600)."""
    nodes: Annotated[tuple[NodeRef, ...], Meta(max_length=5000)] = ()
    """Names or addresses of the nodes to profile, of those that the NodeObservability selects. Empty: all."""
    node_selector: Labels = field(default_factory=dict)
    """Labels of the nodes to profile, of those that the NodeObservability selects; with ``nodes``, both hold."""
    cancel: bool = False
    """True ends the Run as Cancelled; what was collected until then is kept. Cannot be taken back."""
    ttl_seconds_after_finished: Annotated[int, Meta(ge=0, le=31_536_000)] | None = None
    """The Run is deleted so many seconds after it finished, its output is not. Default: kept as history."""
    trigger: RunTrigger | None = None
    """What created the Run; set by the service alone."""


class AgentRef(Document, frozen=True, kw_only=True):
    """An agent: its node's name, and where it was asked."""

    name: Annotated[str, Meta(max_length=253)]
    """The node's name."""
    ip: Annotated[str, Meta(max_length=253)] = ""
    """Address of the agent."""
    port: Port = 0
    """Port of the agent."""


class FailedAgent(AgentRef, frozen=True, kw_only=True):
    """An agent that delivered nothing, and why."""

    reason: FailureReason = FailureReason.INTERNAL
    """Why, in one word for programs."""
    message: Annotated[str, Meta(max_length=1024)] = ""
    """Why, in a sentence for people."""


class RunSummary(Document, frozen=True, kw_only=True):
    """The numbers of a finished Run."""

    nodes: int = 0
    """So many nodes were asked."""
    failed: int = 0
    """So many of them delivered nothing."""
    bytes: int = 0
    """Size of all profiles together, the merged ones included."""
    start_skew_seconds: float = 0.0
    """Seconds between the first node's start of profiling and the last one's."""


class DriverClaim(Document, frozen=True, kw_only=True):
    """Which process drives the Run, and in which term of leadership; a lower term never overwrites a higher one."""

    holder: Annotated[str, Meta(max_length=1024)]
    """The process, as its Lease or lock names it."""
    term: int
    """Number of its leadership."""


class RunStatus(Document, frozen=True, kw_only=True):
    """How far a Run is, and what came of it."""

    phase: Phase = Phase.PENDING
    """Where the Run stands. Pending, Running and Retrieving hold the NodeObservability; the others are final."""
    start_timestamp: Instant | None = None
    """When the agents were started."""
    finished_timestamp: Instant | None = None
    """When the Run reached a final phase."""
    agents: Annotated[tuple[AgentRef, ...], Meta(max_length=10_000)] = ()
    """Agents of the Run; those that fail move to ``failedAgents``."""
    failed_agents: Annotated[tuple[FailedAgent, ...], Meta(max_length=10_000)] = ()
    """Agents that delivered nothing, and why."""
    output: Annotated[str, Meta(max_length=4096)] = ""
    """Folder or object prefix that holds the profiles and their manifest."""
    summary: RunSummary | None = None
    """The numbers of a finished Run."""
    driver: DriverClaim | None = None
    """Which process carries the Run."""
    conditions: Conditions = ()
    """Ready, Finished, and Degraded: True when anything is missing."""


class Run(Resource, frozen=True, kw_only=True):
    """One request to collect, from start to finish. Namespaced."""

    KIND: ClassVar[str] = "NodeObservabilityRun"

    spec: RunSpec
    """What to collect. Only cancel and ttlSecondsAfterFinished can be changed later."""
    status: RunStatus = field(default_factory=RunStatus)
    """How far the Run is, and what came of it; written by the service."""

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
