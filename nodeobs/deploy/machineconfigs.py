"""NodeObservabilityMachineConfigs: which nodes they turn CRI-O's profiling on for, and how far that has come. Pure.

Nothing is remembered but what the cluster holds: a finalizer on each that has turned something on, the nodes' labels,
the MachineConfig and its pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

from nodeobs.deploy.machines import API_VERSION, LABEL, WORKERS, Machine, Made, Pool
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_POOL
from nodeobs.model import GROUP, Condition, MachineConfigStatus, NodeObservabilityMachineConfig, replace

FINALIZER: Final = f"{GROUP}/machine-configs"
"""On each that has turned something on which is to be turned off again."""

_NAMED: Final = 3
_LONGEST: Final = 4096


class Verdict(NamedTuple):
    """What its conditions say."""

    enabled: bool
    """Whether the nodes have it."""
    reason: str
    """Of Ready: ``Ready``, ``Progressing``, ``Failed`` or ``Invalid``."""
    message: str

    @property
    def ready(self) -> bool:
        """Whether all is done."""
        return self.reason == "Ready"


@dataclass(frozen=True, kw_only=True)
class View:
    """The cluster, as memory has it."""

    openshift: bool
    """Whether the service was told that this is OpenShift."""
    served: bool = False
    """Whether the API server has machine configuration."""
    stranded: bool = False
    """Whether it has, and what was turned on there cannot be turned off as the service is told that it has not."""
    known: bool = True
    """Whether nodes, MachineConfigs and pools could be read; else nothing is to be concluded from their absence."""
    configs: Sequence[NodeObservabilityMachineConfig] = ()
    unread: Sequence[str] = ()
    """Names of those that cannot be read: what they want is not known, so that nothing is turned off."""
    machines: Sequence[Machine] = ()
    machine_config: Made | None = None
    pools: Mapping[str, Pool] = field(default_factory=dict)
    problems: Sequence[str] = ()
    """What could not be written."""

    @property
    def asking(self) -> list[NodeObservabilityMachineConfig]:
        """Those that are to be on."""
        return [one for one in self.configs if asks(one)]

    @property
    def held(self) -> list[NodeObservabilityMachineConfig]:
        """Those of them that may be turned on: they have the finalizer by which it is turned off again."""
        return [one for one in self.asking if is_held(one)]

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the nodes that are to have it."""
        return frozenset(machine.name for machine in self._chosen(self.asking))

    @property
    def chosen(self) -> list[Machine]:
        """Nodes for which it may be turned on now."""
        return self._chosen(self.held)

    @property
    def to_label(self) -> list[Machine]:
        """Nodes that lack the label. Somebody else's is as good as ours, and with a value it is theirs to take off."""
        return [machine for machine in self.chosen if not machine.labelled and not machine.mislabelled]

    @property
    def to_unlabel(self) -> list[Machine]:
        """Nodes that have our label for nothing; none where one that cannot be read may want it."""
        if self.unread:
            return []
        wanted = self.wanted
        return [machine for machine in self.machines if machine.ours and machine.name not in wanted]

    def _chosen(self, configs: Sequence[NodeObservabilityMachineConfig]) -> list[Machine]:
        return [
            machine
            for machine in self.machines
            if not machine.control_plane and any(machine.is_selected(one.spec.node_selector) for one in configs)
        ]

    @property
    def pool(self) -> Pool | None:
        """Ours, or somebody else's of that name."""
        return self.pools.get(MACHINE_POOL)


def asks(config: NodeObservabilityMachineConfig) -> bool:
    """Whether it is to be on: one that is being deleted does not ask any more."""
    return config.metadata.deletion_timestamp is None and config.spec.debug.enable_crio_profiling


def is_held(config: NodeObservabilityMachineConfig) -> bool:
    """Whether it has our finalizer."""
    return FINALIZER in config.metadata.finalizers


def verdict(config: NodeObservabilityMachineConfig, view: View) -> Verdict:
    """What is to be said of one of them."""
    if not view.known and (asks(config) or is_held(config)):
        message = (
            "nodes, MachineConfigs or MachineConfigPools cannot be read, and the service's log says why; it takes the "
            "roles of `nodeobs manifests --openshift`"
        )
        return Verdict(enabled=False, reason="Failed", message=message)
    if view.stranded and is_held(config) and not asks(config):
        message = (
            "what was turned on stays on: this is OpenShift, but the service's setting openshift is off; it is turned "
            "off once that is on"
        )
        return Verdict(enabled=False, reason="Failed", message=message)
    return _on(config, view) if asks(config) else _off(view)


def status_of(config: NodeObservabilityMachineConfig, said: Verdict, *, now: datetime) -> MachineConfigStatus:
    """The status; the very one that it has where nothing but the time has changed."""
    before = config.status
    reason = "Enabled" if said.enabled else said.reason if asks(config) else "Disabled"
    conditions = (
        _condition(before, "DebugEnabled", reason, said.message, holds=said.enabled, now=now),
        _condition(before, "Ready", said.reason, said.message, holds=said.ready, now=now),
    )
    return before if before.conditions == conditions else replace(before, conditions=conditions, last_reconcile=now)


def left(view: View) -> str:
    """What is yet to be turned off, in a sentence; empty where nothing is."""
    if view.unread:
        return (
            f"nothing is turned off while NodeObservabilityMachineConfig {_names(view.unread)} cannot be read: mend it"
        )
    if view.to_unlabel:
        return f"the label {LABEL} is being taken off {_names(machine.name for machine in view.to_unlabel)}"
    if view.asking:
        return ""
    if view.machine_config is not None and view.machine_config.ours:
        return f"MachineConfig {MACHINE_CONFIG} is being deleted"
    if view.pool is not None and view.pool.ours:
        return pool_needed(view) or f"MachineConfigPool {MACHINE_POOL} is being deleted"
    return ""


def pool_needed(view: View) -> str:
    """Why the pool cannot be deleted yet, though nothing is on any more; empty where it can.

    With a pool go the configurations that were rendered for it, and a node that still has one of them is lost.
    """
    if labelled := [machine.name for machine in view.machines if machine.labelled]:
        return (
            f"MachineConfigPool {MACHINE_POOL} stays while {_names(labelled)} has the label {LABEL}, which somebody "
            "else set"
        )
    workers = view.pools.get(WORKERS)
    if workers is not None and not workers.updated:
        return workers.progress
    if moving := [machine.name for machine in view.machines if machine.in_pool]:
        return f"MachineConfigPool {MACHINE_POOL} stays until {_names(moving)} is back in the pool of {WORKERS}s"
    if view.pool is not None and view.pool.status.machine_count:
        return f"MachineConfigPool {MACHINE_POOL} still counts {view.pool.status.machine_count} nodes"
    return ""


def _on(config: NodeObservabilityMachineConfig, view: View) -> Verdict:
    if not view.openshift:
        return Verdict(
            enabled=False,
            reason="Invalid",
            message="nothing is changed: machine configuration is OpenShift's, and the service's setting openshift is "
            "off; elsewhere CRI-O's profiling is turned on in each node's own configuration",
        )
    if not view.served:
        message = f"nothing is changed: the API server has no {API_VERSION}, though the setting openshift is on"
        return Verdict(enabled=False, reason="Failed", message=message)
    selected = [machine for machine in view.machines if machine.is_selected(config.spec.node_selector)]
    mine = [machine for machine in selected if not machine.control_plane]
    apart = _apart(selected)
    if not mine:
        if apart:
            return Verdict(enabled=False, reason="Invalid", message=_sentences(apart[0], "no other node is selected"))
        message = "no node is selected: none has the labels of spec.nodeSelector"
        return Verdict(enabled=False, reason="Progressing", message=message)
    if problems := [*view.problems, *_mislabelled(mine)]:
        return Verdict(enabled=False, reason="Failed", message=_sentences(*problems, *apart))
    reason, message = _rolled_out(mine, view)
    return Verdict(enabled=reason == "Ready", reason=reason, message=_sentences(message, *apart))


def _rolled_out(mine: Sequence[Machine], view: View) -> tuple[str, str]:
    pool = view.pool
    unlabelled = [machine.name for machine in mine if not machine.labelled]
    if pool is None or view.machine_config is None or unlabelled:
        return "Progressing", "the MachineConfig, its pool and the nodes' labels are being written"
    if pool.degraded is not None:
        return "Failed", _degraded(pool)
    labelled = sum(machine.labelled and not machine.control_plane for machine in view.machines)
    # A pool that has not noticed yet what we did says that all is well.
    if pool.updated and pool.has(MACHINE_CONFIG) and pool.status.machine_count >= labelled:
        return "Ready", f"CRI-O's profiling is on for {len(mine)} nodes"
    return "Progressing", pool.progress


def _off(view: View) -> Verdict:
    waiting = left(view) if view.served and view.known else ""
    if not waiting:
        return Verdict(enabled=False, reason="Ready", message="CRI-O's profiling is not turned on by this")
    if view.problems or view.unread:
        return Verdict(enabled=False, reason="Failed", message=_sentences(*view.problems, waiting))
    workers = view.pools.get(WORKERS)
    if not view.asking and workers is not None and workers.degraded is not None:
        return Verdict(enabled=False, reason="Failed", message=_sentences(_degraded(workers)))
    return Verdict(enabled=False, reason="Progressing", message=waiting)


def _degraded(pool: Pool) -> str:
    why = pool.degraded
    told = ": ".join(filter(None, [why.reason, why.message])) if why else ""
    return f"MachineConfigPool {pool.name} is degraded{': ' if told else ''}{told}"


def _apart(selected: Sequence[Machine]) -> list[str]:
    names = [machine.name for machine in selected if machine.control_plane]
    return [f"of the control plane, and left alone: {_names(names)}"] if names else []


def _mislabelled(mine: Sequence[Machine]) -> list[str]:
    names = [machine.name for machine in mine if machine.mislabelled]
    why = "has a value that somebody else set, with which the pool does not select it"
    return [f"the label {LABEL} of {_names(names)} {why}"] if names else []


def _condition(
    before: MachineConfigStatus, kind: str, reason: str, message: str, *, holds: bool, now: datetime
) -> Condition:
    status: Literal["True", "False"] = "True" if holds else "False"
    earlier = next((one for one in before.conditions if one.type == kind), None)
    since = earlier.last_transition_time if earlier is not None and earlier.status == status else now
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=since)


def _names(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _sentences(*texts: str) -> str:
    whole = ". ".join(texts)
    return whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…"
