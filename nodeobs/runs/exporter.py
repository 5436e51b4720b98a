"""Finished Runs as Prometheus series: counted once as they finish, and ``last_*`` rebuilt from the store."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from prometheus_client import Gauge

from nodeobs.metrics import Metrics
from nodeobs.model import NodeObservability, Phase, Run, TriggerKind
from nodeobs.outputs.manifest import Manifest

_MAX_TARGETS = 64
_OTHER = "other"


class RunExporter:
    """Writes the series about Runs; used by all of the leader's threads."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._targets: set[str] = set()
        self._shown: dict[str, tuple[str, str, str]] = {}
        self._going: dict[str, str] = {}
        """Uid of the Run that is going, by NodeObservability."""

    def restore(self, runs: Sequence[Run], observabilities: Sequence[NodeObservability]) -> None:
        """Show what the store says happened last, as the leader before this one did."""
        for observability in observabilities:
            self._metrics.run_in_progress.labels(observability.metadata.name)
            for target in observability.spec.targets:
                self._target(target.name)
        finished = [run for run in runs if run.status.phase.final and run.status.finished_timestamp]
        for run in sorted(finished, key=lambda run: run.status.finished_timestamp or 0):
            self.show_last(run)
        self.keep(observabilities)

    def clear(self) -> None:
        """Show nothing about the last Runs: another process does."""
        for gauge in self._about_last():
            gauge.clear()
        with self._lock:
            self._shown.clear()
            self._going.clear()

    def keep(self, observabilities: Iterable[NodeObservability]) -> None:
        """Show nothing about others: nobody can run on what was deleted, and no alert about it would ever end."""
        kept = {observability.metadata.name for observability in observabilities}
        with self._lock:
            for gauge in self._about_last():
                for sample in [sample for family in gauge.collect() for sample in family.samples]:
                    parent = sample.labels["nodeobservability"]
                    if parent not in kept and parent not in self._going:
                        gauge.remove(*sample.labels.values())
                        self._shown.pop(parent, None)

    def _about_last(self) -> tuple[Gauge, ...]:
        metrics = self._metrics
        return (
            metrics.run_in_progress,
            metrics.last_run_agents,
            metrics.last_run_failed_agents,
            metrics.last_run_timestamp,
            metrics.last_success_timestamp,
            metrics.last_run_start_skew,
            metrics.last_output_bytes,
            metrics.last_output_timestamp,
            metrics.last_output_info,
        )

    def started(self, run: Run) -> None:
        """Show that a Run is going."""
        parent = run.spec.node_observability_ref.name
        with self._lock:
            self._going[parent] = run.metadata.uid
            self._metrics.run_in_progress.labels(parent).set(1)

    def ended(self, run: Run) -> None:
        """Show that no Run is going, unless the next one was started meanwhile."""
        parent = run.spec.node_observability_ref.name
        with self._lock:
            if self._going.get(parent) == run.metadata.uid:
                del self._going[parent]
                self._metrics.run_in_progress.labels(parent).set(0)

    def count(self, run: Run, manifest: Manifest | None) -> None:
        """Count a Run that finished now, with its pieces."""
        trigger = run.spec.trigger.kind if run.spec.trigger else TriggerKind.RESOURCE
        self._metrics.runs.labels(run.status.phase.value, trigger.value).inc()
        status = run.status
        if status.start_timestamp and status.finished_timestamp:
            seconds = (status.finished_timestamp - status.start_timestamp).total_seconds()
            self._metrics.run_duration.observe(max(0.0, seconds))
        for node in manifest.nodes if manifest else ():
            if node.reason is not None and not node.pieces:
                # It failed before it could say what its targets are.
                self._metrics.agent_collections.labels("", "failure", node.reason.value).inc()
            for piece in node.pieces:
                target = self._target(piece.target)
                result, reason = ("failure", piece.reason.value) if piece.reason else ("success", "")
                self._metrics.agent_collections.labels(target, result, reason).inc()
                if piece.seconds > 0:
                    self._metrics.agent_collection_duration.labels(target).observe(piece.seconds)

    def finished(self, run: Run, manifest: Manifest | None) -> None:
        """Count a Run that finished now, and show it as the last one."""
        self.count(run, manifest)
        self.show_last(run)

    def show_last(self, run: Run) -> None:
        """Show a finished Run as the last one of its NodeObservability. A Rejected one never ran."""
        status, summary = run.status, run.status.summary
        if status.phase is Phase.REJECTED or status.finished_timestamp is None or summary is None:
            return
        parent, metrics = run.spec.node_observability_ref.name, self._metrics
        finished = status.finished_timestamp.timestamp()
        if status.phase is not Phase.CANCELLED:  # what it lacks, somebody did not want any more
            metrics.last_run_agents.labels(parent).set(summary.nodes)
            metrics.last_run_failed_agents.labels(parent).set(summary.failed)
            metrics.last_run_timestamp.labels(parent).set(finished)
            metrics.last_run_start_skew.labels(parent).set(summary.start_skew_seconds)
        if status.phase is Phase.SUCCEEDED:
            metrics.last_success_timestamp.labels(parent).set(finished)
        if summary.bytes:
            metrics.last_output_bytes.labels(parent).set(summary.bytes)
            metrics.last_output_timestamp.labels(parent).set(finished)
            self._show_output((parent, run.key, status.output))

    def _show_output(self, labels: tuple[str, str, str]) -> None:
        with self._lock:
            shown = self._shown.get(labels[0])
            if shown and shown != labels:
                self._metrics.last_output_info.remove(*shown)
            self._shown[labels[0]] = labels
            self._metrics.last_output_info.labels(*labels).set(1)

    def _target(self, name: str) -> str:
        """Bound the label's values: agents name their targets, and one agent may be wrong."""
        with self._lock:
            if name not in self._targets:
                if len(self._targets) >= _MAX_TARGETS:
                    return _OTHER
                self._targets.add(name)
                self._metrics.initialise_targets([name])
        return name
