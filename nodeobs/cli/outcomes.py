"""A Run told to a person, and the exit code it stands for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nodeobs.cli.failures import ExitCode
from nodeobs.cli.text import age, fields, plural, size, table
from nodeobs.model import API_VERSION, Phase, Run, RunStatus, to_builtins


def exit_code(run: Run) -> ExitCode:
    """0 where everything was delivered, 3 where something is missing, 1 where nothing came of it."""
    if run.status.phase is not Phase.SUCCEEDED:
        return ExitCode.FAILED
    return ExitCode.DEGRADED if is_degraded(run.status) else ExitCode.OK


def document(run: Run) -> dict[str, Any]:
    """The Run as Kubernetes would write it."""
    return {"apiVersion": API_VERSION, "kind": Run.KIND, **to_builtins(run)}


def is_degraded(status: RunStatus) -> bool:
    """Whether something is missing: an agent, or a part of what one should have delivered."""
    return bool(status.failed_agents) or any(c.type == "Degraded" and c.status == "True" for c in status.conditions)


def listing(runs: tuple[Run, ...], now: datetime) -> str:
    """Table of Runs."""
    header = ("NAMESPACE", "NAME", "REF", "PHASE", "NODES", "FAILED", "AGE")
    return table(header, [_row(run, now) for run in runs]) if runs else "no Runs"


def description(run: Run, now: datetime) -> str:
    """Everything about one Run."""
    spec, status = run.spec, run.status
    said = next((c.message for c in status.conditions if c.type == "Finished"), "")
    degraded = next((c.message for c in status.conditions if c.type == "Degraded" and c.status == "True"), "")
    rows = [
        ("Run", run.key),
        ("Phase", status.phase.value + (" (Degraded)" if degraded else "") + (f": {said}" if said else "")),
        ("Missing", degraded),
        ("Created", _instant(run.metadata.creation_timestamp, now) + _by(run)),
        ("Profiles", f"{', '.join(spec.profiles)} for {spec.duration_seconds} s"),
        ("Targets", ", ".join(spec.targets) or f"all of NodeObservability {spec.node_observability_ref.name}"),
        ("Started", _instant(status.start_timestamp, now)),
        ("Finished", _instant(status.finished_timestamp, now)),
        ("Nodes", _nodes(run)),
        ("Output", status.output + (f" ({size(status.summary.bytes)})" if status.summary and status.output else "")),
    ]
    text = fields([(name, value) for name, value in rows if value])
    if not status.failed_agents:
        return text
    failed = [(agent.name, agent.reason.value, agent.message) for agent in status.failed_agents]
    return f"{text}\n\nNodes that delivered nothing:\n" + table(("NODE", "REASON", "MESSAGE"), failed)


def _row(run: Run, now: datetime) -> tuple[str, ...]:
    status = run.status
    total = len(status.agents) + len(status.failed_agents)
    phase = status.phase.value + (" (Degraded)" if status.phase is Phase.SUCCEEDED and is_degraded(status) else "")
    return (
        run.metadata.namespace,
        run.metadata.name,
        run.spec.node_observability_ref.name,
        phase,
        str(total),
        str(len(status.failed_agents)),
        age(run.metadata.creation_timestamp, now),
    )


def _nodes(run: Run) -> str:
    going, failed = len(run.status.agents), len(run.status.failed_agents)
    if not (going or failed):
        return ""
    return f"{going} {'delivered' if run.status.phase.final else 'going'}, {plural(failed, 'node')} failed"


def _by(run: Run) -> str:
    trigger = run.spec.trigger
    if trigger is None:
        return ""
    alerts = f" ({trigger.name}, {plural(len(trigger.alerts), 'alert')})" if trigger.alerts else ""
    return f", by {trigger.kind.value}{alerts}"


def _instant(instant: datetime | None, now: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC ({age(instant, now)} ago)" if instant else ""
