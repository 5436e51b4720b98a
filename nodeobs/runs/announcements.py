"""What a Run's Events say. Pure, but for the protocol of what records them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Literal, Protocol

from nodeobs.model import FailureReason, Phase, Run
from nodeobs.outputs.manifest import Manifest

_NAMED_NODES = 10


@dataclass(frozen=True)
class Announcement:
    """One Event, as Kubernetes shows them under ``kubectl describe``."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Recorder(Protocol):
    """Records Events about Runs; never blocks, never raises."""

    def record(self, run: Run, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:  # noqa: A002 Kubernetes' word
        """Have it written, soon and in the background."""


def started(run: Run) -> Announcement:
    """A Run was claimed and its agents are about to be started."""
    agents, failed = len(run.status.agents), len(run.status.failed_agents)
    missing = f", and {failed} more that cannot be asked" if failed else ""
    told = f"profiling on {agents} {'node' if agents == 1 else 'nodes'} for {run.spec.duration_seconds} s{missing}"
    return Announcement("Normal", "Started", told)


def rejected(holder: Run) -> Announcement:
    """A Run lost to another."""
    message = f"Run {holder.key} on the same NodeObservability is {holder.status.phase.value}; one Run at a time"
    return Announcement("Warning", "Rejected", message)


def finished(run: Run, manifest: Manifest | None) -> list[Announcement]:
    """A Run has finished: one Event for each reason that agents failed for, and one for the whole."""
    told = [*_failures(manifest)] if manifest else []
    good = run.status.phase in (Phase.SUCCEEDED, Phase.CANCELLED)
    said = next((condition.message for condition in run.status.conditions if condition.type == "Finished"), "")
    where = f"; output {run.status.output}" if run.status.output else ""
    told.append(Announcement("Normal" if good else "Warning", "Finished", f"{run.status.phase.value}: {said}{where}"))
    return told


def _failures(manifest: Manifest) -> list[Announcement]:
    nodes: defaultdict[str, list[str]] = defaultdict(list)
    examples: dict[str, str] = {}
    for node in manifest.nodes:
        if node.reason is not None:
            failures = [(node.reason.value, node.name, node.message)]
        else:
            failures = [
                (piece.reason.value, f"{node.name} ({piece.target})", piece.message)
                for piece in node.pieces
                if piece.reason is not None
            ]
        for reason, name, message in failures:
            if reason == FailureReason.CANCELLED:
                continue  # asked for, and told with the whole
            if name not in nodes[reason]:
                nodes[reason].append(name)
            examples.setdefault(reason, message)
    counts = Counter({reason: len(names) for reason, names in nodes.items()})
    return [
        Announcement("Warning", "AgentFailed", f"{reason} on {_names(nodes[reason])}: {examples[reason]}")
        for reason, _ in counts.most_common()
    ]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_NODES} more" if len(names) > _NAMED_NODES else ""
    return ", ".join(names[:_NAMED_NODES]) + more
