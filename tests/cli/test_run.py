"""``nodeobs run``: what is asked of the service, what is told, and the exit codes."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from nodeobs.model import AgentRef, Condition, FailedAgent, FailureReason, Phase, Run, RunSummary, replace
from tests.builders import START, make_run
from tests.cli.conftest import Answer, FakeService, Invoke, as_problem, as_run

AGENTS = (AgentRef(name="node-1"), AgentRef(name="node-2"))
FAILED = FailedAgent(name="node-3", reason=FailureReason.UNREACHABLE, message="connection refused")


def at(phase: Phase, *, failed: bool = False, version: str = "1", name: str = "run-1") -> Run:
    run = make_run(name, phase=phase, agents=AGENTS if phase is not Phase.PENDING else ())
    status = replace(
        run.status,
        start_timestamp=START,
        failed_agents=(FAILED,) if failed else (),
        output="/outputs/uid" if phase is Phase.SUCCEEDED else "",
        summary=RunSummary(nodes=3, failed=1, bytes=12345) if phase is Phase.SUCCEEDED else None,
    )
    return replace(run, metadata=replace(run.metadata, resource_version=version), status=status)


def test_start_sends_what_was_wished_and_waits(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_run(at(Phase.PENDING), 201))
    service.has_run(at(Phase.PENDING), at(Phase.RUNNING, version="2"), at(Phase.SUCCEEDED, version="3"))
    arguments = ["--node", "node-1", "--node", "node-2", "--profile", "heap", "--target", "kubelet", "--duration", "7"]
    selecting = ["--node-selector", "zone=a", "--namespace", "nodeobs", "--node-observability", "big"]
    result = nodeobs("run", "start", "run-1", *arguments, *selecting)
    assert result.exit_code == 0
    assert service.asked[0].document == {
        "metadata": {"name": "run-1", "namespace": "nodeobs"},
        "spec": {
            "nodeObservabilityRef": {"name": "big"},
            "profiles": ["heap"],
            "targets": ["kubelet"],
            "durationSeconds": 7,
            "nodes": ["node-1", "node-2"],
            "nodeSelector": {"zone": "a"},
        },
    }
    assert "Running: profiling 2 nodes for 30 s" in result.stderr
    assert result.stderr.count("Pending") == 1
    assert "Succeeded" in result.stdout


def test_start_leaves_the_name_and_namespace_to_the_service(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_run(at(Phase.PENDING), 201))
    result = nodeobs("run", "start", "--no-wait")
    assert result.exit_code == 0
    assert service.asked[0].document["metadata"] == {}
    assert len(service.asked) == 1
    assert "nodeobs run wait nodeobs/run-1" in result.stdout


def test_waiting_polls_with_the_version_it_has(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(at(Phase.RUNNING, version="5"), at(Phase.SUCCEEDED, version="9"))
    nodeobs("run", "wait", "run-1")
    assert [dict(asked.query) for asked in service.asked] == [{}, {"wait": "25", "resourceVersion": "5"}]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (at(Phase.SUCCEEDED), 0),
        (at(Phase.SUCCEEDED, failed=True), 3),
        (at(Phase.FAILED, failed=True), 1),
        (at(Phase.CANCELLED), 1),
        (at(Phase.REJECTED), 1),
    ],
)
def test_the_exit_code_tells_how_the_run_went(service: FakeService, nodeobs: Invoke, state: Run, code: int) -> None:
    service.has_run(state)
    assert nodeobs("run", "wait", "run-1").exit_code == code


def test_a_piece_that_is_missing_is_degraded_too(service: FakeService, nodeobs: Invoke) -> None:
    run = at(Phase.SUCCEEDED)
    condition = Condition(type="Degraded", status="True", reason="Incomplete", message="node-1 lacks crio cpu")
    service.has_run(replace(run, status=replace(run.status, conditions=(condition,))))
    result = nodeobs("run", "wait", "run-1")
    assert result.exit_code == 3
    assert "node-1 lacks crio cpu" in result.stdout


def test_failing_agents_are_told_once_as_they_fail(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(
        at(Phase.RUNNING), at(Phase.RUNNING, failed=True, version="2"), at(Phase.SUCCEEDED, failed=True, version="3")
    )
    result = nodeobs("run", "wait", "run-1")
    assert result.stderr.count("node-3 failed: Unreachable: connection refused") == 1
    assert "node-3   Unreachable   connection refused" in result.stdout


def test_json_is_one_document_and_nothing_else(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_run(at(Phase.PENDING), 201))
    service.has_run(at(Phase.RUNNING), at(Phase.SUCCEEDED, failed=True, version="3"))
    result = nodeobs("run", "start", "-o", "json")
    assert result.exit_code == 3
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["kind"] == "NodeObservabilityRun"
    assert document["status"]["failedAgents"][0]["reason"] == "Unreachable"


def test_quiet_tells_the_result_only(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(at(Phase.RUNNING), at(Phase.SUCCEEDED, version="3"))
    result = nodeobs("run", "wait", "run-1", "-q")
    assert result.stderr == ""
    assert "Succeeded" in result.stdout


def test_a_time_out_tells_how_the_run_is(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(at(Phase.RUNNING))
    result = nodeobs("run", "wait", "run-1", "--timeout", "0.2")
    assert result.exit_code == 124
    assert "Running" in result.stdout
    assert "nodeobs/run-1 had not finished after 0.2 s" in result.stderr


def test_a_time_out_in_json(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(at(Phase.RUNNING))
    result = nodeobs("run", "wait", "run-1", "--timeout", "0", "-o", "json")
    assert result.exit_code == 124
    assert json.loads(result.stdout)["status"]["phase"] == "Running"
    assert json.loads(result.stderr)["exitCode"] == 124


def test_a_service_that_goes_away_for_a_moment_is_waited_for(service: FakeService, nodeobs: Invoke) -> None:
    answers = [
        as_run(at(Phase.RUNNING)),
        as_problem(503, "the store is busy"),
        Answer(502, b"<html>"),
        as_run(at(Phase.SUCCEEDED)),
    ]
    service.on("GET", "/api/v1/runs/nodeobs/run-1", *answers)
    assert nodeobs("run", "wait", "run-1").exit_code == 0
    assert len(service.asked) == 4


def test_a_service_that_cannot_answer_at_the_start_is_not(service: FakeService, nodeobs: Invoke) -> None:
    service.on("GET", "/api/v1/runs/nodeobs/run-1", as_problem(503, "the store is busy"))
    result = nodeobs("run", "wait", "run-1")
    assert result.exit_code == 6
    assert "the store is busy" in result.stderr


def test_another_run_in_progress(service: FakeService, nodeobs: Invoke) -> None:
    detail = "another Run is going on cluster: nodeobs/other (Running since 12 s)"
    service.on("POST", "/api/v1/runs", as_problem(409, detail, holder="nodeobs/other"))
    result = nodeobs("run", "start")
    assert result.exit_code == 4
    assert detail in result.stderr
    assert "nodeobs run wait nodeobs/other" in result.stderr


def test_another_run_in_progress_in_json(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_problem(409, "busy", holder="nodeobs/other"))
    result = nodeobs("run", "start", "-o", "json")
    assert result.exit_code == 4
    assert result.stdout == ""
    problem = json.loads(result.stderr)
    assert (problem["status"], problem["holder"], problem["exitCode"]) == (409, "nodeobs/other", 4)


def test_list_shows_runs_newest_first_as_the_service_does(service: FakeService, nodeobs: Invoke) -> None:
    service.lists(at(Phase.RUNNING, name="new"), at(Phase.SUCCEEDED, failed=True, name="old"))
    result = nodeobs("run", "list", "--phase", "failed", "--limit", "7")
    assert result.exit_code == 0
    header, new, old = result.stdout.splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "REF", "PHASE", "NODES", "FAILED", "AGE"]
    assert new.split()[:6] == ["nodeobs", "new", "cluster", "Running", "2", "0"]
    assert old.split()[:7] == ["nodeobs", "old", "cluster", "Succeeded", "(Degraded)", "3", "1"]
    assert dict(service.asked[0].query) == {"phase": "Failed", "limit": "7"}


def test_phases_that_there_are_not(service: FakeService, nodeobs: Invoke) -> None:
    result = nodeobs("run", "list", "--phase", "Over")
    assert result.exit_code == 2
    assert "is not one of 'pending', 'running'" in result.stderr


def test_list_in_json_and_of_nothing(service: FakeService, nodeobs: Invoke) -> None:
    service.lists()
    assert nodeobs("run", "list").stdout == "no Runs\n"
    assert json.loads(nodeobs("run", "list", "-o", "json").stdout) == {"items": []}


def test_ages_are_by_the_services_clock(service: FakeService, nodeobs: Invoke) -> None:
    body = as_run(make_run("run-1", age=90)).body
    date = (START + timedelta(seconds=210)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    service.on("GET", "/api/v1/runs/nodeobs/run-1", Answer(200, body, {"Date": date}))
    assert "(5m ago)" in nodeobs("run", "get", "run-1").stdout


def test_get_latest_is_the_newest_finished_run(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(at(Phase.SUCCEEDED, name="done"))
    service.lists(at(Phase.RUNNING, name="going"), at(Phase.SUCCEEDED, name="done"), at(Phase.FAILED, name="older"))
    result = nodeobs("run", "get", "latest")
    assert result.exit_code == 0
    assert "nodeobs/done" in result.stdout
    assert "/outputs/uid (12.3 kB)" in result.stdout


def test_latest_of_nothing(service: FakeService, nodeobs: Invoke) -> None:
    service.lists(at(Phase.RUNNING))
    result = nodeobs("run", "get", "latest")
    assert result.exit_code == 5
    assert "no finished Run yet" in result.stderr


def test_cancel_latest_is_the_newest_run(service: FakeService, nodeobs: Invoke) -> None:
    service.lists(at(Phase.RUNNING, name="going"))
    service.on("POST", "/api/v1/runs/nodeobs/going/cancel", as_run(at(Phase.RUNNING, name="going"), 202))
    result = nodeobs("run", "cancel", "latest")
    assert result.exit_code == 0
    assert "nodeobs/going is being cancelled" in result.stdout


def test_cancelling_what_has_finished_is_refused(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs/other/run-1/cancel", as_problem(409, "it has finished"))
    assert nodeobs("run", "cancel", "other/run-1").exit_code == 4
    assert nodeobs("run", "cancel", "run-1", "--namespace", "other").exit_code == 4


def test_deleting(service: FakeService, nodeobs: Invoke) -> None:
    path = "/api/v1/runs/nodeobs/run-1"
    service.on("DELETE", path, Answer(204))
    assert nodeobs("run", "delete", "run-1").stdout == "nodeobs/run-1 deleted\n"
    assert json.loads(nodeobs("run", "delete", "run-1", "-o", "json").stdout) == {
        "run": "nodeobs/run-1",
        "deleted": True,
    }
    service.on("DELETE", path, as_run(at(Phase.RUNNING), 202))
    going = nodeobs("run", "delete", "nodeobs/run-1")
    assert (going.exit_code, "is being cancelled, and deleted when it has ended" in going.stdout) == (0, True)
    assert nodeobs("run", "delete", "nosuch").exit_code == 5


def test_latest_is_not_deleted(service: FakeService, nodeobs: Invoke) -> None:
    result = nodeobs("run", "delete", "latest")
    assert result.exit_code == 2
    assert "name the Run" in result.stderr
    assert service.asked == []


def test_latest_is_of_the_namespace_that_is_given(service: FakeService, nodeobs: Invoke) -> None:
    service.lists(at(Phase.SUCCEEDED))
    service.has_run(at(Phase.SUCCEEDED))
    for arguments, env in ((["--namespace", "nodeobs"], {}), ([], {"NODEOBS_NAMESPACE": "nodeobs"})):
        assert nodeobs("run", "get", "latest", *arguments, env=env).exit_code == 0
    assert [asked.query.get("namespace") for asked in service.asked if asked.path == "/api/v1/runs"] == ["nodeobs"] * 2


def test_one_namespace_or_all(service: FakeService, nodeobs: Invoke) -> None:
    service.lists()
    assert nodeobs("run", "list", "-n", "here").exit_code == 0
    assert nodeobs("run", "list", "-A").exit_code == 0
    assert [asked.query.get("namespace") for asked in service.asked] == ["here", None]
    assert nodeobs("run", "list", "-n", "here", "-A").exit_code == 2


@pytest.mark.parametrize("labels", [["zz"], ["=a"], ["zone=a", "zone=b"]])
def test_what_is_no_label_is_wrong_usage(service: FakeService, nodeobs: Invoke, labels: list[str]) -> None:
    result = nodeobs("run", "start", *(part for label in labels for part in ("--node-selector", label)))
    assert result.exit_code == 2
    assert "--node-selector" in result.stderr
    assert service.asked == []


def test_a_label_may_have_an_empty_value(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_run(at(Phase.PENDING), 201))
    assert nodeobs("run", "start", "--no-wait", "--node-selector", "node-role.kubernetes.io/worker=").exit_code == 0
    assert service.asked[0].document["spec"]["nodeSelector"] == {"node-role.kubernetes.io/worker": ""}


def test_no_such_run(service: FakeService, nodeobs: Invoke) -> None:
    result = nodeobs("run", "get", "nosuch")
    assert result.exit_code == 5
    assert service.asked[0].path == "/api/v1/runs/nodeobs/nosuch"


@pytest.mark.parametrize("name", ["../../secret", "a/b/c", "UPPER", "", "a b", "x" * 300, "-x/y", "ns/", "a\x1b[31m"])
def test_what_is_no_name_is_never_asked_for(service: FakeService, nodeobs: Invoke, name: str) -> None:
    result = nodeobs("run", "get", "--", name)
    assert result.exit_code == 2
    assert service.asked == []
    assert "\x1b" not in result.stderr


def test_invalid_requests_say_where(service: FakeService, nodeobs: Invoke) -> None:
    errors = [{"pointer": "/spec/nodes/0", "detail": "not a node's name"}]
    service.on("POST", "/api/v1/runs", as_problem(422, "the Run is not valid", errors=errors))
    result = nodeobs("run", "start", "--node", "?")
    assert result.exit_code == 2
    assert "the Run is not valid; /spec/nodes/0: not a node's name" in result.stderr
