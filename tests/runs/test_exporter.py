"""Runs as Prometheus series."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.metrics import Metrics
from nodeobs.model import FailureReason, Phase, ProfileType, Run, RunSummary, RunTrigger, TriggerKind, replace
from nodeobs.outputs.manifest import Manifest, ManifestRun, NodeResult, Piece
from nodeobs.runs.exporter import RunExporter
from tests.builders import START, make_observability, make_run

CLUSTER = {"nodeobservability": "cluster"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def exporter(registry: CollectorRegistry) -> RunExporter:
    return RunExporter(Metrics(registry))


def finished(name: str, *, age: float = 0, phase: Phase = Phase.SUCCEEDED, size: int = 100, failed: int = 0) -> Run:
    run = make_run(name, phase=phase, age=age, trigger=RunTrigger(kind=TriggerKind.ALERT))
    status = replace(
        run.status,
        start_timestamp=START - timedelta(seconds=age + 31),
        output=f"/outputs/{name}",
        summary=RunSummary(nodes=3, failed=failed, bytes=size, start_skew_seconds=0.02),
    )
    return replace(run, status=status)


def manifest(*pieces: Piece) -> Manifest:
    run = ManifestRun(
        namespace="nodeobs", name="r", uid="u", node_observability="cluster", trigger=TriggerKind.ALERT,
        profiles=(ProfileType.CPU,), duration_seconds=30,
    )  # fmt: skip
    node = NodeResult(name="node-1", pieces=pieces)
    return Manifest(run=run, finished_at=START, summary=RunSummary(), nodes=(node,))


def test_a_finished_run_is_counted_with_its_pieces(registry: CollectorRegistry, exporter: RunExporter) -> None:
    pieces = (
        Piece(target="kubelet", profile=ProfileType.CPU, file="node-1/kubelet-cpu.pb.gz", seconds=30),
        Piece(target="crio", profile=ProfileType.CPU, reason=FailureReason.PROFILING_DISABLED),
    )
    exporter.finished(finished("r1", failed=1), manifest(*pieces))

    value = registry.get_sample_value
    assert value("nodeobs_runs_total", {"result": "Succeeded", "trigger": "alert"}) == 1
    assert value("nodeobs_run_duration_seconds_sum") == 31
    collected = "nodeobs_agent_collections_total"
    assert value(collected, {"target": "kubelet", "result": "success", "reason": ""}) == 1
    assert value(collected, {"target": "crio", "result": "failure", "reason": "ProfilingDisabled"}) == 1
    assert value("nodeobs_agent_collection_duration_seconds_sum", {"target": "kubelet"}) == 30
    assert value("nodeobs_last_run_agents", CLUSTER) == 3
    assert value("nodeobs_last_run_failed_agents", CLUSTER) == 1
    assert value("nodeobs_last_output_bytes", CLUSTER) == 100
    assert value("nodeobs_last_output_timestamp_seconds", CLUSTER) == START.timestamp()


def test_a_node_that_failed_before_it_told_its_targets_is_counted(
    registry: CollectorRegistry, exporter: RunExporter
) -> None:
    series = {"target": "", "result": "failure", "reason": "Unreachable"}
    assert registry.get_sample_value("nodeobs_agent_collections_total", series) == 0, "so that the first is an increase"
    gone = NodeResult(name="node-2", reason=FailureReason.UNREACHABLE)
    exporter.count(finished("r1"), replace(manifest(), nodes=(gone,)))
    assert registry.get_sample_value("nodeobs_agent_collections_total", series) == 1


def test_what_happened_last_is_rebuilt_from_the_store(registry: CollectorRegistry, exporter: RunExporter) -> None:
    runs = [
        finished("newest", age=1, phase=Phase.FAILED, size=0, failed=3),
        finished("older", age=50),
        finished("oldest", age=90),
        make_run("rejected", phase=Phase.REJECTED),
        make_run("going", phase=Phase.RUNNING),
    ]
    exporter.restore(runs, [make_observability()])

    value = registry.get_sample_value
    assert value("nodeobs_last_run_timestamp_seconds", CLUSTER) == START.timestamp() - 1
    assert value("nodeobs_last_success_timestamp_seconds", CLUSTER) == START.timestamp() - 50
    assert value("nodeobs_last_output_timestamp_seconds", CLUSTER) == START.timestamp() - 50
    info = {**CLUSTER, "run": "nodeobs/older", "output": "/outputs/older"}
    assert value("nodeobs_last_output_info", info) == 1
    infos = [s for m in registry.collect() if m.name == "nodeobs_last_output_info" for s in m.samples]
    assert len(infos) == 1
    assert value("nodeobs_runs_total", {"result": "Succeeded", "trigger": "alert"}) == 0, "counted when they finished"


def test_a_cancelled_run_is_no_failure_of_its_nodes(registry: CollectorRegistry, exporter: RunExporter) -> None:
    exporter.finished(finished("good", age=50), manifest())
    exporter.finished(finished("cancelled", phase=Phase.CANCELLED, size=7, failed=3), manifest())
    value = registry.get_sample_value
    assert value("nodeobs_last_run_failed_agents", CLUSTER) == 0
    assert value("nodeobs_last_run_timestamp_seconds", CLUSTER) == START.timestamp() - 50
    assert value("nodeobs_last_output_bytes", CLUSTER) == 7, "what it left is an output all the same"


def test_nothing_is_shown_of_a_nodeobservability_that_was_deleted(
    registry: CollectorRegistry, exporter: RunExporter
) -> None:
    def shown() -> set[str]:
        families = [
            family for family in registry.collect() if family.name.startswith(("nodeobs_last", "nodeobs_run_in"))
        ]
        return {sample.name for family in families for sample in family.samples}

    exporter.restore([finished("r1", failed=3)], [make_observability()])
    exporter.keep([make_observability()])
    assert len(shown()) == 9
    exporter.started(make_run())
    exporter.keep([])
    assert len(shown()) == 9, "while its Run is going"
    exporter.ended(make_run())
    exporter.keep([])
    assert shown() == set()
    exporter.restore([finished("r1", failed=3)], [])
    assert shown() == set(), "its Runs may be there for longer"
    exporter.restore([finished("r1", failed=3)], [make_observability()])
    assert len(shown()) == 9


def test_standing_by_exports_nothing_of_the_last_runs(registry: CollectorRegistry, exporter: RunExporter) -> None:
    exporter.restore([finished("r1")], [make_observability()])
    exporter.clear()
    assert registry.get_sample_value("nodeobs_last_run_agents", CLUSTER) is None
    exporter.restore([finished("r1")], [make_observability()])
    assert registry.get_sample_value("nodeobs_last_run_agents", CLUSTER) == 3


def test_agents_cannot_make_series_without_end(registry: CollectorRegistry, exporter: RunExporter) -> None:
    pieces = [Piece(target=f"target-{n}", profile=ProfileType.CPU, file="f", seconds=1) for n in range(200)]
    exporter.count(finished("r1"), manifest(*pieces))
    series = "nodeobs_agent_collection_duration_seconds_count"
    targets = {s.labels["target"] for m in registry.collect() for s in m.samples if s.name == series}
    assert len(targets) == 65
    assert registry.get_sample_value(series, {"target": "other"}) == 136


def test_a_run_in_progress_is_shown(registry: CollectorRegistry, exporter: RunExporter) -> None:
    exporter.restore([], [make_observability()])
    assert registry.get_sample_value("nodeobs_run_in_progress", CLUSTER) == 0
    exporter.started(make_run())
    assert registry.get_sample_value("nodeobs_run_in_progress", CLUSTER) == 1
    exporter.ended(make_run())
    assert registry.get_sample_value("nodeobs_run_in_progress", CLUSTER) == 0


def test_a_run_that_is_cleared_up_after_does_not_hide_the_next_one(
    registry: CollectorRegistry, exporter: RunExporter
) -> None:
    first, second = make_run("first"), make_run("second")

    def in_progress() -> float | None:
        return registry.get_sample_value("nodeobs_run_in_progress", CLUSTER)

    exporter.started(first)
    exporter.started(second)
    exporter.ended(first)
    assert in_progress() == 1
    exporter.ended(second)
    assert in_progress() == 0
    exporter.started(first)
    exporter.clear()
    exporter.ended(first)
    assert in_progress() is None, "another process leads"
