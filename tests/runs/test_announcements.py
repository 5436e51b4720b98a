"""What a Run's Events say."""

from __future__ import annotations

from nodeobs.model import (
    AgentRef,
    Condition,
    FailedAgent,
    FailureReason,
    Phase,
    ProfileType,
    Run,
    RunSummary,
    TriggerKind,
    replace,
)
from nodeobs.outputs.manifest import Manifest, ManifestRun, NodeResult, Piece
from nodeobs.runs.announcements import finished, rejected, started
from tests.builders import START, make_run


def manifest(*nodes: NodeResult) -> Manifest:
    run = ManifestRun(
        namespace="nodeobs",
        name="run-1",
        uid="u",
        node_observability="cluster",
        trigger=TriggerKind.API,
        profiles=(ProfileType.CPU,),
        duration_seconds=30,
    )
    return Manifest(run=run, finished_at=START, summary=RunSummary(), nodes=nodes)


def over(phase: Phase, message: str, output: str = "") -> Run:
    run = make_run(phase=phase)
    condition = Condition(type="Finished", status="True", reason=phase.value, message=message)
    return replace(run, status=replace(run.status, conditions=(condition,), output=output))


def test_a_start_tells_how_many_and_for_how_long() -> None:
    run = make_run(phase=Phase.RUNNING, agents=(AgentRef(name="a"), AgentRef(name="b")), duration_seconds=20)
    assert started(run).message == "profiling on 2 nodes for 20 s"
    status = replace(run.status, agents=run.status.agents[:1], failed_agents=(FailedAgent(name="b"),))
    assert (
        started(replace(run, status=status)).message == "profiling on 1 node for 20 s, and 1 more that cannot be asked"
    )


def test_one_event_for_each_reason_however_many_agents() -> None:
    nodes = [NodeResult(name=f"n{n}", reason=FailureReason.UNREACHABLE, message=f"n{n}: refused") for n in range(30)]
    nodes.append(NodeResult(name="x", reason=FailureReason.TIMEOUT, message="x: silent"))
    told = finished(over(Phase.FAILED, "none of 31 agents delivered"), manifest(*nodes))
    assert [event.reason for event in told] == ["AgentFailed", "AgentFailed", "Finished"]
    assert told[0].message.startswith("Unreachable on n0, n1, n2")
    assert told[0].message.endswith("n9 and 20 more: n0: refused")
    assert told[1].message == "Timeout on x: x: silent"
    assert {event.type for event in told} == {"Warning"}


def test_a_missing_piece_of_a_node_that_delivered_is_told() -> None:
    lost = Piece(target="kubelet", profile=ProfileType.CPU, reason=FailureReason.TARGET_UNAVAILABLE, message="refused")
    also = replace(lost, profile=ProfileType.HEAP)
    node = NodeResult(name="a", pieces=(Piece(target="crio", profile=ProfileType.CPU, file="a/x"), lost, also))
    told = finished(over(Phase.SUCCEEDED, "1 of 1 agents delivered", "s3://b/u"), manifest(node))
    assert [(event.type, event.reason, event.message) for event in told] == [
        ("Warning", "AgentFailed", "TargetUnavailable on a (kubelet): refused"),
        ("Normal", "Finished", "Succeeded: 1 of 1 agents delivered; output s3://b/u"),
    ]


def test_a_run_that_was_cancelled_is_no_warning() -> None:
    node = NodeResult(name="a", reason=FailureReason.CANCELLED, message="a: the Run was cancelled")
    (told,) = finished(over(Phase.CANCELLED, "cancelled before it finished"), manifest(node))
    assert (told.type, told.message) == ("Normal", "Cancelled: cancelled before it finished")


def test_a_run_without_a_manifest_is_told_as_a_whole() -> None:
    (told,) = finished(over(Phase.FAILED, "an internal error"), None)
    assert (told.type, told.message) == ("Warning", "Failed: an internal error")


def test_a_rejected_run_names_the_one_that_was_first() -> None:
    assert "nodeobs/first" in rejected(make_run("first", phase=Phase.RUNNING)).message
