"""From what the agents delivered to the manifest, and from the manifest to the Run's status. Pure.

The status always comes from the manifest, so that a leader that finds a manifest finishes the Run as the one that
wrote it would have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from nodeobs.agents.agent import Agent, AgentOutcome, start_skew
from nodeobs.agents.roster import Selection
from nodeobs.model import (
    AgentRef,
    Condition,
    FailedAgent,
    FailureReason,
    Phase,
    PieceResult,
    PieceState,
    Run,
    RunStatus,
    RunSummary,
    TriggerKind,
    encode_json,
    replace,
)
from nodeobs.outputs.manifest import MANIFEST_NAME, MERGED, Manifest, ManifestRun, MergedFile, NodeResult, Piece

MESSAGE_LIMIT = 256
"""Bytes of JSON that one failure's message has in a status at most; the manifest has all of it."""

MESSAGES_LIMIT = 300 * 1024
"""Bytes that all agents' messages have together: a status must stay under 1 MiB with 5,000 agents."""

_RESERVED = (MERGED, MANIFEST_NAME)


def make_manifest(
    run: Run,
    outcomes: Sequence[AgentOutcome],
    *,
    build_ids: Mapping[tuple[str, str], str],
    merged: Sequence[MergedFile],
    cancelled: bool,
    finished_at: datetime,
) -> Manifest:
    """Manifest of a Run; ``build_ids`` by (node, file name)."""
    nodes = tuple(_node(outcome, build_ids) for outcome in sorted(outcomes, key=lambda outcome: outcome.agent.name))
    spec = run.spec
    return Manifest(
        run=ManifestRun(
            namespace=run.metadata.namespace,
            name=run.metadata.name,
            uid=run.metadata.uid,
            node_observability=spec.node_observability_ref.name,
            trigger=spec.trigger.kind if spec.trigger else TriggerKind.RESOURCE,
            trigger_name=spec.trigger.name if spec.trigger else "",
            profiles=spec.profiles,
            targets=spec.targets,
            duration_seconds=spec.duration_seconds,
        ),
        cancelled=cancelled,
        started_at=run.status.start_timestamp,
        finished_at=finished_at,
        summary=RunSummary(
            nodes=len(nodes),
            failed=sum(node.reason is not None for node in nodes),
            bytes=sum(piece.bytes for node in nodes for piece in node.pieces) + sum(file.bytes for file in merged),
            start_skew_seconds=round(start_skew(outcomes), 6),
        ),
        nodes=nodes,
        merged=tuple(merged),
    )


def final_status(run: Run, manifest: Manifest) -> RunStatus:
    """Status of a finished Run."""
    failed = [node for node in manifest.nodes if node.reason is not None]
    delivered = [node for node in manifest.nodes if node.reason is None]
    if manifest.cancelled:
        phase, message = Phase.CANCELLED, "cancelled before it finished"
    elif delivered:
        phase, message = Phase.SUCCEEDED, f"{len(delivered)} of {len(manifest.nodes)} agents delivered"
    elif manifest.nodes:
        phase, message = Phase.FAILED, f"none of {len(manifest.nodes)} agents delivered: {_reasons(failed)}"
    else:
        phase, message = Phase.FAILED, "no node is selected: check the selectors of the NodeObservability and the Run"
    return replace(
        finished(run.status, phase, reason=phase.value, message=message, now=manifest.finished_at),
        agents=tuple(AgentRef(name=node.name, ip=node.ip, port=node.port) for node in delivered),
        failed_agents=_fitting(_failed_agent(node) for node in failed),
        output=run.status.output,
        summary=manifest.summary,
        conditions=(
            _condition("Ready", phase is Phase.SUCCEEDED, phase.value, message, manifest.finished_at),
            _condition("Finished", True, phase.value, message, manifest.finished_at),
            _degraded(manifest),
        ),
    )


def to_purge(manifest: Manifest) -> frozenset[str]:
    """Nodes whose agents may drop their copies: not those that may hold what could not be brought here or stored.

    Those that listen to nobody here are left out; one that began does, and may have been refused by its target only.
    """
    kept = {FailureReason.STORAGE_FULL, FailureReason.INTERNAL, FailureReason.TIMEOUT}
    deaf = {FailureReason.NO_AGENT, FailureReason.TLS_FAILURE, FailureReason.UNAUTHORIZED, FailureReason.FORBIDDEN}
    return frozenset(
        node.name
        for node in manifest.nodes
        if not node.upstream
        and (node.reason not in deaf or node.started_at is not None)
        and (manifest.cancelled or not any(piece.reason in kept for piece in node.pieces))
    )


def finished(status: RunStatus, phase: Phase, *, reason: str, message: str, now: datetime) -> RunStatus:
    """Status of a Run that ended without an output."""
    return replace(
        status,
        phase=phase,
        finished_timestamp=now,
        output="",
        conditions=(
            _condition("Ready", False, reason, message, now),
            _condition("Finished", True, reason, message, now),
        ),
    )


def going(status: RunStatus, phase: Phase, *, message: str, now: datetime) -> RunStatus:
    """Status of a Run that is going."""
    return replace(
        status,
        phase=phase,
        conditions=(
            _condition("Ready", False, "Progressing", message, now),
            _condition("Finished", False, phase.value, message, now),
        ),
    )


def failed_agents(outcomes: Iterable[AgentOutcome]) -> tuple[FailedAgent, ...]:
    """Agents that failed, as the status names them."""
    return _fitting(
        FailedAgent(
            name=outcome.agent.name,
            ip=outcome.agent.host,
            port=outcome.agent.port,
            reason=outcome.reason or FailureReason.INTERNAL,
            message=outcome.message,
        )
        for outcome in outcomes
    )


def moved(status: RunStatus, failed: Sequence[FailedAgent]) -> RunStatus:
    """Status with agents moved from ``agents`` to ``failedAgents``."""
    names = {agent.name for agent in failed}
    return replace(
        status,
        agents=tuple(agent for agent in status.agents if agent.name not in names),
        failed_agents=_fitting((*(agent for agent in status.failed_agents if agent.name not in names), *failed)),
    )


def earlier_failure(agent: FailedAgent) -> AgentOutcome:
    """Outcome of an agent that failed under an earlier driver."""
    return AgentOutcome(agent=_agent(agent), reason=agent.reason, message=agent.message)


def lost_agent(agent: AgentRef) -> AgentOutcome:
    """Outcome of an agent that took part and is not in the roster any more."""
    return AgentOutcome(agent=_agent(agent), reason=FailureReason.NO_AGENT, message="gone from the roster mid-Run")


def without_reserved_names(selection: Selection) -> Selection:
    """Selection without nodes whose folder in the output would be in the way of what every output has."""
    reserved = [agent for agent in selection.agents if agent.name in _RESERVED]
    return Selection(
        agents=tuple(agent for agent in selection.agents if agent.name not in _RESERVED),
        missing=(*selection.missing, *(_reserved(agent) for agent in reserved)),
    )


def _reserved(agent: Agent) -> AgentOutcome:
    message = f"a node cannot be called {agent.name!r}: every output has something else of that name"
    return AgentOutcome(agent=agent, reason=FailureReason.INTERNAL, message=message)


def _agent(agent: AgentRef) -> Agent:
    return Agent(name=agent.name, host=agent.ip, port=agent.port)


def _node(outcome: AgentOutcome, build_ids: Mapping[tuple[str, str], str]) -> NodeResult:
    agent = outcome.agent
    return NodeResult(
        name=agent.name,
        ip=agent.host,
        port=agent.port,
        reason=outcome.reason,
        message=outcome.message,
        started_at=outcome.started_at,
        clock_offset_seconds=outcome.clock_offset_seconds or 0.0,
        late=outcome.late,
        upstream=outcome.upstream,
        pieces=tuple(_piece(agent.name, piece, build_ids) for piece in outcome.pieces),
    )


def _piece(node: str, piece: PieceResult, build_ids: Mapping[tuple[str, str], str]) -> Piece:
    file = piece.file if piece.state is PieceState.DONE else None
    return Piece(
        target=piece.target,
        profile=piece.profile,
        file=f"{node}/{file.name}" if file else None,
        bytes=file.bytes if file else 0,
        sha256=file.sha256 if file else "",
        started_at=piece.started_at,
        seconds=piece.seconds,
        build_id=build_ids.get((node, file.name), "") if file else "",
        reason=None if file else piece.reason or FailureReason.INTERNAL,
        message=piece.message,
    )


def _failed_agent(node: NodeResult) -> FailedAgent:
    reason = node.reason or FailureReason.INTERNAL
    return FailedAgent(name=node.name, ip=node.ip, port=node.port, reason=reason, message=node.message)


def _degraded(manifest: Manifest) -> Condition:
    missing = [
        f"{node.name}: {piece.target} {piece.profile}: {piece.reason}"
        for node in manifest.nodes
        if node.reason is None
        for piece in node.pieces
        if piece.reason is not None
    ]
    missing += [f"{node.name}: {node.reason}" for node in manifest.nodes if node.reason is not None]
    missing += [f"merged {file.target} {file.profile}: {file.error}" for file in manifest.merged if file.error]
    if not missing:
        return _condition("Degraded", False, "Complete", "every agent delivered everything", manifest.finished_at)
    shown = "; ".join(_cut(text, MESSAGE_LIMIT) for text in missing[:10])
    more = f"; and {len(missing) - 10} more, see the manifest" if len(missing) > 10 else ""
    return _condition("Degraded", True, "Incomplete", shown + more, manifest.finished_at)


def _reasons(nodes: Sequence[NodeResult]) -> str:
    counts = Counter(str(node.reason) for node in nodes)
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _condition(kind: str, value: bool, reason: str, message: str, now: datetime) -> Condition:
    return Condition(
        type=kind, status="True" if value else "False", reason=reason, message=message, last_transition_time=now
    )


def _fitting(agents: Iterable[FailedAgent]) -> tuple[FailedAgent, ...]:
    """The agents, their messages cut so that all of them fit into a status."""
    agents = tuple(agents)
    limit = min(MESSAGE_LIMIT, MESSAGES_LIMIT // max(1, len(agents)))
    return tuple(replace(agent, message=_short(agent, limit)) for agent in agents)


def _short(agent: FailedAgent, limit: int) -> str:
    if _size(agent.message) <= limit:
        return agent.message
    # Who failed is told beside it; the rest is worth more.
    return _cut(agent.message.removeprefix(f"{_agent(agent)}: "), limit)


def _cut(text: str, limit: int) -> str:
    if _size(text) <= limit:
        return text
    room = limit - _size("…")
    for end, character in enumerate(text):
        room -= _size(character)
        if room < 0:
            return text[:end] + "…"
    return text


def _size(text: str) -> int:
    """Bytes of the text in JSON."""
    return len(encode_json(text)) - 2
