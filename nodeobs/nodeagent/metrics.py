"""The agent's Prometheus series. The registry is passed in; label values are closed sets."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from nodeobs import __version__
from nodeobs.model import FailureReason, PieceResult

_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 35, 45, 60, 120, 300, 600, 1200, 3660)


class AgentMetrics:
    """The series, registered in ``registry`` and started at 0 for every target in ``targets``."""

    def __init__(self, registry: CollectorRegistry, targets: Iterable[str]) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        build_info = Gauge(
            "nodeobs_agent_build_info", "Version of this nodeobs agent; always 1.", ["version"], registry=registry
        )
        build_info.labels(__version__).set(1)
        self.running = Gauge(
            "nodeobs_agent_collection_running", "Whether a collection is going on this node.", registry=registry
        )
        self.stored_bytes = Gauge(
            "nodeobs_agent_stored_bytes", "Size of the profiles kept on this node.", registry=registry
        )
        self._pieces = Counter(
            "nodeobs_agent_pieces_total",
            "Profiles asked of this node's targets, by outcome.",
            ["target", "result", "reason"],
            registry=registry,
        )
        self._piece_seconds = Histogram(
            "nodeobs_agent_piece_duration_seconds",
            "Time that one profile took, waiting and storing included.",
            ["target"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.internal_errors = Counter(
            "nodeobs_agent_internal_errors_total", "Failures that are the agent's own fault.", registry=registry
        )
        for target in targets:
            self._piece_seconds.labels(target)
            self._pieces.labels(target, "success", "")
            for reason in FailureReason:
                self._pieces.labels(target, "failure", reason.value)

    def count(self, piece: PieceResult) -> None:
        """Count a piece that has ended."""
        result = "failure" if piece.reason else "success"
        self._pieces.labels(piece.target, result, piece.reason or "").inc()
        self._piece_seconds.labels(piece.target).observe(piece.seconds)
