"""The status of a NodeObservability: how many nodes carry an agent, and what is missing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from nodeobs.agents.pods import Pod, newest_by_node
from nodeobs.deploy.drift import Held
from nodeobs.deploy.seen import AgentPod, Node
from nodeobs.model import Condition, NodeObservability, NodeObservabilityStatus, Toleration, replace

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
NO_NODES: Final = "NoNodes"
FAILED: Final = "Failed"
UNKNOWN: Final = "Unknown"

_Said = tuple[Literal["True", "False", "Unknown"], str, str]
"""Status, reason and message of the condition Ready."""

_NAMED: Final = 3
_LONGEST: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found out about a NodeObservability; all texts are sentences without their full stop."""

    selected: Sequence[Node]
    """Nodes that are to carry an agent."""
    pods: Iterable[AgentPod] = ()
    """Its own."""
    daemon_set: Held | None = None
    agents: bool = True
    """False: it does without them."""
    targets: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What does not work and will not by itself."""
    waiting: tuple[str, ...] = ()
    """What is yet to be done."""
    notes: tuple[str, ...] = ()
    """What is to be known."""


def status_of(observability: NodeObservability, findings: Findings, *, now: datetime) -> NodeObservabilityStatus:
    """The status; the very one that it has where nothing but the time has changed."""
    count, missing = _count(findings, observability.spec.tolerations)
    said: _Said
    if findings.problems:
        said = "False", FAILED, _sentences(*findings.problems, *missing, *findings.waiting, *findings.notes)
    elif not findings.selected:
        said = "False", NO_NODES, _sentences(*missing, *findings.waiting, *findings.notes)
    elif missing or findings.waiting:
        said = "False", PROGRESSING, _sentences(*missing, *findings.waiting, *findings.notes)
    else:
        said = "True", READY, _sentences(_all_is_well(count, findings), *_asleep(findings), *findings.notes)
    found = replace(
        observability.status,
        count=count,
        targets=findings.targets,
        observed_generation=observability.metadata.generation,
    )
    return _changed(observability.status, found, said, now=now)


def unknown_status(observability: NodeObservability, why: str, *, now: datetime) -> NodeObservabilityStatus:
    """The status where the cluster cannot be looked at: what was last known, and why there is nothing newer."""
    said: _Said = "Unknown", UNKNOWN, _sentences(f"what there is in the cluster cannot be followed: {why}")
    return _changed(observability.status, observability.status, said, now=now)


def _changed(
    before: NodeObservabilityStatus, found: NodeObservabilityStatus, said: _Said, *, now: datetime
) -> NodeObservabilityStatus:
    earlier = next((one for one in before.conditions if one.type == READY), None)
    since = earlier.last_transition_time if earlier is not None and earlier.status == said[0] else now
    ready = Condition(type=READY, status=said[0], reason=said[1], message=said[2], last_transition_time=since)
    after = replace(found, conditions=(*(one for one in before.conditions if one.type != READY), ready))
    return before if after == before else replace(after, last_updated=now)


def _count(findings: Findings, tolerations: Sequence[Toleration]) -> tuple[int, list[str]]:
    """How many nodes carry an agent that is ready, and what is missing.

    A node that is not Ready is not waited for: nobody knows for how long, and its agent may answer all the same.
    """
    if not findings.selected:
        return 0, ["no node is selected: none has the labels of spec.nodeSelector"]
    if not findings.agents:
        return 0, []
    own = [pod for pod in findings.pods if pod.pod.of_daemon_set]
    newest = newest_by_node(pod.pod for pod in own)
    ready = {pod.pod.node for pod in own if pod.ready and newest.get(pod.pod.node) is pod.pod}
    nodes = [node for node in findings.selected if node.ready]
    lacking = {
        node.name: newest[node.name].problem if node.name in newest else _why_no_pod(node, tolerations)
        for node in nodes
        if node.name not in ready
    }
    count = sum(node.name in ready for node in findings.selected)
    missing = []
    if lacking:
        shown = [f"{name}: {lacking[name]}" for name in sorted(lacking)[:_NAMED]]
        missing.append(
            f"agents are ready on {count} of {len(findings.selected)} nodes; {_listing(shown, len(lacking))}"
        )
    elif (left := _to_be_updated(findings.daemon_set, most=_updatable(findings.selected, newest))) is not None:
        missing.append(f"agents are being updated: {left}")
    return count, missing


def _why_no_pod(node: Node, tolerations: Sequence[Toleration]) -> str:
    taint = next((one for one in node.taints if not one.is_tolerated(tolerations)), None)
    return f"its taint {taint} is not among spec.tolerations" if taint else "has no pod of the DaemonSet yet"


def _updatable(selected: Sequence[Node], newest: Mapping[str, Pod]) -> int:
    """So many nodes can get a new agent: on one that is not Ready nobody has the old one end, or a new one begin."""
    pods = (newest.get(node.name) for node in selected if not node.ready)
    return len(selected) - sum(pod is None or pod.metadata.deletion_timestamp is not None for pod in pods)


def _to_be_updated(daemon_set: Held | None, *, most: int) -> str | None:
    if daemon_set is None:
        return "the DaemonSet is being made"
    roll_out = daemon_set.status
    if roll_out.observed_generation < daemon_set.metadata.generation:
        return "the DaemonSet controller has not seen the change yet"
    if roll_out.updated_number_scheduled < min(roll_out.desired_number_scheduled, most):
        return f"{roll_out.updated_number_scheduled} of {roll_out.desired_number_scheduled} nodes have the new one"
    return None


def _all_is_well(count: int, findings: Findings) -> str:
    if not findings.agents:
        return f"the kubelets of {len(findings.selected)} nodes are profiled through the API server, without agents"
    return f"agents are ready on {count} of {len(findings.selected)} nodes"


def _asleep(findings: Findings) -> list[str]:
    names = sorted(node.name for node in findings.selected if not node.ready)
    return [f"not Ready, and not waited for: {_listing(names[:_NAMED], len(names))}"] if names else []


def overlaps(name: str, selections: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """What is to be said about nodes that other NodeObservabilities select as well, by their names."""
    mine, said = selections[name], list[str]()
    for other in sorted(selections.keys() - {name}):
        if len(said) == _NAMED:
            break  # thousands of nodes, compared for each two of them, would take the leader's time
        shared = sorted(mine & selections[other])
        if shared:
            said.append(
                f"NodeObservability {other} selects {_listing(shared[:_NAMED], len(shared))} as well: a program gives "
                "one CPU profile at a time, so Runs of both at once can fail there with ProfilerInUse"
            )
    return tuple(said)


def _listing(shown: Sequence[str], total: int) -> str:
    more = total - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _sentences(*texts: str) -> str:
    whole = ". ".join(texts)
    return whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…"
