"""Every Prometheus series of the service, in one place. The registry is passed in; label values are closed sets.

``last_*`` are exported by the leader only (others hold none), which is why they are kept by
NodeObservability and can be dropped together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from nodeobs import __version__
from nodeobs.model import FailureReason, Phase, TriggerKind

ALERT_OUTCOMES: Final = (
    "created",
    "duplicate",
    "cooldown",
    "run-in-progress",
    "resolved",
    "unmatched",
    "refused",
    "failed",
)
"""What can become of one alert in a notification; ``failed`` could not be stored and is to be sent again."""

RUN_RESULTS: Final = tuple(phase.value for phase in Phase if phase.final)
ADMISSION_DENIALS: Final = (
    "ConcurrentRun",
    "MissingNodeObservability",
    "UnknownTarget",
    "Invalid",
    "Forbidden",
    "Unavailable",
)
"""Why a change of a resource was not admitted; ``Unavailable`` could not be decided and is to be tried again."""

INTERNAL_ERROR_PLACES: Final = ("driver", "housekeeping", "controller", "http", "certificates", "deploy")
WEBHOOKS: Final = ("alertmanager", "validate", "convert")

_RUN_BUCKETS = (5, 10, 20, 30, 35, 40, 50, 60, 90, 120, 300, 600, 1200, 3660)
_WEBHOOK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The service's series, registered in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        build_info = Gauge("nodeobs_build_info", "Version of this nodeobs; always 1.", ["version"], registry=registry)
        build_info.labels(__version__).set(1)
        self.leader = Gauge("nodeobs_leader", "1 where this process drives Runs.", registry=registry)
        self.internal_errors = Counter(
            "nodeobs_internal_errors_total",
            "Errors nobody foresaw; each is in the log with its traceback.",
            ["where"],
            registry=registry,
        )
        for where in INTERNAL_ERROR_PLACES:
            self.internal_errors.labels(where)
        self._add_runs(registry)
        self._add_last(registry)
        self._add_webhooks(registry)

    def _add_runs(self, registry: CollectorRegistry) -> None:
        self.runs = Counter("nodeobs_runs_total", "Runs that finished.", ["result", "trigger"], registry=registry)
        for result in RUN_RESULTS:
            for trigger in TriggerKind:
                self.runs.labels(result, trigger.value)
        self.run_duration = Histogram(
            "nodeobs_run_duration_seconds",
            "Time from claiming a Run to its finish, profiling included.",
            buckets=_RUN_BUCKETS,
            registry=registry,
        )
        self.run_in_progress = Gauge(
            "nodeobs_run_in_progress", "Whether a Run is going.", ["nodeobservability"], registry=registry
        )
        self.agent_collections = Counter(
            "nodeobs_agent_collections_total",
            "Profiles asked of agents, by target (empty: an agent that told none) and outcome.",
            ["target", "result", "reason"],
            registry=registry,
        )
        for reason in FailureReason:
            self.agent_collections.labels("", "failure", reason.value)
        self.agent_collection_duration = Histogram(
            "nodeobs_agent_collection_duration_seconds",
            "Time an agent took for one profile.",
            ["target"],
            buckets=_RUN_BUCKETS,
            registry=registry,
        )

    def _add_last(self, registry: CollectorRegistry) -> None:
        def last(name: str, text: str) -> Gauge:
            return Gauge(f"nodeobs_{name}", text, ["nodeobservability"], registry=registry)

        self.last_run_agents = last("last_run_agents", "Agents that took part in the last finished Run.")
        self.last_run_failed_agents = last("last_run_failed_agents", "Agents of the last Run that delivered nothing.")
        self.last_run_timestamp = last("last_run_timestamp_seconds", "When the last Run finished.")
        self.last_success_timestamp = last("last_success_timestamp_seconds", "When the last success finished.")
        self.last_run_start_skew = last(
            "last_run_start_skew_seconds", "Between the first and the last agent's start in the last Run."
        )
        self.last_output_bytes = last("last_output_bytes", "Size of the last output's files.")
        self.last_output_timestamp = last("last_output_timestamp_seconds", "When the last output was complete.")
        self.last_output_info = Gauge(
            "nodeobs_last_output_info",
            "The last output and the Run it belongs to; always 1.",
            ["nodeobservability", "run", "output"],
            registry=registry,
        )

    def _add_webhooks(self, registry: CollectorRegistry) -> None:
        self.alert_notifications = Counter(
            "nodeobs_alert_notifications_total",
            "Alerts received from Alertmanager, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ALERT_OUTCOMES:
            self.alert_notifications.labels(outcome)
        self.triggers_reload_success = Gauge(
            "nodeobs_triggers_last_reload_successful",
            "Whether the trigger rules in use are those of the file (1) or older ones because the file is wrong (0).",
            registry=registry,
        )
        self.admission_requests = Counter(
            "nodeobs_admission_requests_total",
            "Changes of resources that the API server asked about, by the answer.",
            ["allowed", "reason"],
            registry=registry,
        )
        self.admission_requests.labels("true", "")
        for reason in ADMISSION_DENIALS:
            self.admission_requests.labels("false", reason)
        self.webhook_duration = Histogram(
            "nodeobs_webhook_duration_seconds",
            "Time to answer a webhook.",
            ["webhook"],
            buckets=_WEBHOOK_BUCKETS,
            registry=registry,
        )
        for webhook in WEBHOOKS:
            self.webhook_duration.labels(webhook)

    def initialise_targets(self, targets: Sequence[str]) -> None:
        """Start the per-target series of ``targets`` at 0, so that a first failure is an increase."""
        for target in targets:
            self.agent_collection_duration.labels(target)
            self.agent_collections.labels(target, "success", "")
            for reason in FailureReason:
                self.agent_collections.labels(target, "failure", reason.value)
