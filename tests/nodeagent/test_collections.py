"""A collection from its start to its files."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nodeobs.model import Collection, decode_json
from tests.fakes.pprof_target import PprofTarget, hang, sample_profile
from tests.nodeagent.helpers import AgentFactory, AgentProcess, Certificates, eventually


def test_files_are_what_the_target_sent(agent: AgentProcess, target: PprofTarget) -> None:
    state = agent.collect("run-1", profiles=["cpu", "heap"])
    assert state["state"] == "Done"
    assert [(piece["target"], piece["profile"], piece["state"]) for piece in state["pieces"]] == [
        ("api", "cpu", "Done"),
        ("api", "heap", "Done"),
    ]
    for piece in state["pieces"]:
        body = agent.client.get(f"/v1/collections/run-1/files/{piece['file']['name']}").content
        assert body == sample_profile()
        assert piece["file"]["bytes"] == len(body)
        assert piece["file"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert [piece["file"]["name"] for piece in state["pieces"]] == ["api-cpu.pb.gz", "api-heap.pb.gz"]
    assert target.asked == ["/debug/pprof/profile?seconds=1", "/debug/pprof/heap"]


def test_the_answer_is_the_models_document(agent: AgentProcess) -> None:
    agent.collect("run-1", profiles=["cpu"])
    collection = decode_json(agent.client.get("/v1/collections/run-1").content, Collection)
    assert collection.started_at is not None
    assert collection.received_at <= collection.started_at <= collection.pieces[0].started_at  # type: ignore[operator]
    assert collection.now >= (collection.finished_at or collection.now)
    assert collection.pieces[0].seconds >= 0.05
    assert not collection.late


def test_every_profile_type_is_asked_at_its_own_path(agent: AgentProcess, target: PprofTarget) -> None:
    kinds = ["cpu", "heap", "allocs", "goroutine", "mutex", "block", "threadcreate", "trace"]
    state = agent.collect("run-1", profiles=kinds, durationSeconds=2)
    assert [piece["state"] for piece in state["pieces"]] == ["Done"] * len(kinds)
    assert state["pieces"][-1]["file"]["name"] == "api-trace.trace"
    timed, snapshots = target.asked[:2], target.asked[2:]
    assert sorted(timed) == ["/debug/pprof/profile?seconds=2", "/debug/pprof/trace?seconds=2"]
    assert snapshots == [
        f"/debug/pprof/{kind}" for kind in ("heap", "allocs", "goroutine", "mutex", "block", "threadcreate")
    ]


def test_snapshots_are_taken_when_the_cpu_profile_has_ended(agent: AgentProcess, target: PprofTarget) -> None:
    agent.collect("run-1", profiles=["heap", "cpu"], durationSeconds=8)
    cpu, heap = target.requests
    assert (cpu.path, heap.path) == ("/debug/pprof/profile?seconds=8", "/debug/pprof/heap")
    assert heap.at - cpu.at >= 8 * target.speed


def test_kubelet_crio_and_a_url_are_profiled_side_by_side(
    run_agent: AgentFactory, certificates: Certificates, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("kubelets-token\n")
    with (
        PprofTarget(tls=certificates.server_context(), token="kubelets-token", speed=0.2) as kubelet,
        PprofTarget(socket_path=tmp_path / "crio.sock", speed=0.2) as crio,
        PprofTarget(speed=0.2) as named,
    ):
        agent = run_agent(
            *("--kubelet-url", kubelet.url, "--kubelet-token-file", str(token_file)),
            *("--kubelet-ca-file", str(certificates.ca_file), "--crio-socket", str(tmp_path / "crio.sock")),
            *("--target", f"etcd={named.url}/prefix/debug/pprof"),
        )
        state = agent.collect("run-1", durationSeconds=3)
        assert [(piece["target"], piece["state"]) for piece in state["pieces"]] == [
            ("kubelet", "Done"),
            ("crio", "Done"),
            ("etcd", "Done"),
        ]
        assert named.asked == ["/prefix/debug/pprof/profile?seconds=3"]
        assert kubelet.requests[0].headers["authorization"] == "Bearer kubelets-token"
        assert "authorization" not in crio.requests[0].headers
        starts = [server.requests[0].at for server in (kubelet, crio, named)]
        assert max(starts) - min(starts) < 0.5


def test_only_the_targets_asked_for(run_agent: AgentFactory, target: PprofTarget) -> None:
    agent = run_agent("--target", f"a={target.url}", "--target", f"b={target.url}")
    state = agent.collect("run-1", targets=["b", "b"], profiles=["heap", "heap"])
    assert [(piece["target"], piece["profile"]) for piece in state["pieces"]] == [("b", "heap")]
    assert len(target.asked) == 1


def test_an_unknown_target_fails_alone(agent: AgentProcess) -> None:
    state = agent.collect("run-1", targets=["kubelet", "api"])
    assert state["state"] == "Done"
    missing, found = state["pieces"]
    assert (missing["state"], missing["reason"]) == ("Failed", "TargetUnavailable")
    assert missing["message"] == "this agent has no target 'kubelet'; it has: api"
    assert found["state"] == "Done"


def test_an_agent_without_targets_says_so(run_agent: AgentFactory) -> None:
    state = run_agent().collect("run-1")
    assert (state["state"], state["reason"]) == ("Failed", "TargetUnavailable")
    assert "no targets" in state["message"]


def test_a_token_that_rotates_is_read_again(run_agent: AgentFactory, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    config = tmp_path / "agent.yaml"
    with PprofTarget(speed=0.05) as target:
        config.write_text(f"targets:\n  - {{name: api, url: '{target.url}', tokenFile: '{token_file}'}}\n")
        agent = run_agent("--config", str(config))
        agent.collect("run-1")
        token_file.write_text("second")
        agent.collect("run-2")
        sent = [request.headers["authorization"] for request in target.requests]
    assert sent == ["Bearer first", "Bearer second"]
    assert "second" not in agent.log


def test_twenty_starts_with_one_id_start_once(agent: AgentProcess, target: PprofTarget) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: agent.start("run-1", durationSeconds=4), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["receivedAt"] for answer in answers} == {answers[0].json()["receivedAt"]}
    assert agent.finished("run-1")["state"] == "Done"
    assert agent.start("run-1").json()["state"] == "Done"
    assert len(target.asked) == 1


def test_a_second_collection_is_refused_with_the_holders_id(agent: AgentProcess, target: PprofTarget) -> None:
    target.behave(hang)
    assert agent.start("run-1").status_code == 202
    refused = agent.start("run-2")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["holder"] == "run-1"
    assert refused.json()["reason"] == "Busy"
    assert agent.client.get("/v1/collections/run-2").status_code == 404


def test_two_agents_given_one_instant_start_together(run_agent: AgentFactory, tmp_path: Path) -> None:
    with PprofTarget(speed=0.01) as first, PprofTarget(speed=0.01) as second:
        pair = [
            run_agent("--target", f"api={server.url}", storage=tmp_path / str(server.port))
            for server in (first, second)
        ]
        start = time.monotonic() + 1.0
        for agent in pair:
            # Each is told by its own clock, and these clocks are an hour wrong.
            sent_at = datetime.now(UTC) + timedelta(hours=1)
            start_at = sent_at + timedelta(seconds=start - time.monotonic())
            agent.start("run-1", sentAt=sent_at.isoformat(), startAt=start_at.isoformat())
            time.sleep(0.3)
        states = [agent.finished("run-1") for agent in pair]
        began = [server.requests[0].at for server in (first, second)]
    assert all(-0.05 < instant - start < 0.5 for instant in began), began
    assert abs(began[0] - began[1]) < 0.25
    assert [state["late"] for state in states] == [False, False]


def test_a_late_start_begins_at_once_and_says_so(agent: AgentProcess) -> None:
    now = datetime.now(UTC)
    asked = time.monotonic()
    state = agent.collect("run-1", sentAt=now.isoformat(), startAt=(now - timedelta(seconds=20)).isoformat())
    assert time.monotonic() - asked < 15
    assert state["late"] is True
    assert state["pieces"][0]["state"] == "Done"


def test_a_start_too_far_ahead_is_refused(agent: AgentProcess) -> None:
    now = datetime.now(UTC)
    answer = agent.start("run-1", sentAt=now.isoformat(), startAt=(now + timedelta(minutes=6)).isoformat())
    assert answer.status_code == 400
    assert "/startAt" in answer.json()["detail"]
    assert agent.start("run-1").status_code == 202


def test_without_sent_at_the_agents_clock_counts(agent: AgentProcess, target: PprofTarget) -> None:
    start = time.monotonic() + 0.8
    answer = agent.start("run-1", startAt=(datetime.now(UTC) + timedelta(seconds=0.8)).isoformat())
    assert answer.json()["state"] == "Scheduled"
    agent.finished("run-1")
    assert -0.05 < target.requests[0].at - start < 0.5


def test_a_long_poll_answers_when_the_collection_ends(agent: AgentProcess) -> None:
    agent.start("run-1", durationSeconds=10)
    began = time.monotonic()
    state = agent.client.get("/v1/collections/run-1", params={"wait": "25"}).json()
    assert state["state"] == "Done"
    assert 0.3 < time.monotonic() - began < 15


def test_a_long_poll_answers_when_its_time_is_over(agent: AgentProcess, target: PprofTarget) -> None:
    target.behave(hang)
    agent.start("run-1")
    assert agent.client.get("/v1/collections/run-1", params={"wait": "0.3"}).json()["state"] == "Running"


@pytest.mark.parametrize("wait", ["-1", "x", "", "1e3", "nan", "99999"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(shared_agent: AgentProcess, wait: str) -> None:
    answer = shared_agent.client.get("/v1/collections/run-1", params={"wait": wait})
    assert answer.status_code == 400
    assert "wait=" in answer.json()["detail"]


def test_delete_cancels_what_is_going(agent: AgentProcess, target: PprofTarget) -> None:
    target.behave(hang)
    agent.start("run-1")
    eventually(lambda: target.asked, "the target is asked")
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(agent.client.get, "/v1/collections/run-1", params={"wait": "25"})
        eventually(lambda: agent.sample("nodeobs_agent_collection_running") == 1, "it is going")
        time.sleep(0.1)  # either order is right; this makes the poll likely to be the first
        assert agent.client.delete("/v1/collections/run-1").status_code == 204
        assert poll.result().status_code in (200, 404)
    assert agent.client.get("/v1/collections/run-1").status_code == 404
    assert not (agent.storage / "run-1").exists()
    target.behave(lambda exchange: exchange.answer(200, sample_profile()))
    assert agent.collect("run-2")["state"] == "Done"


def test_delete_removes_what_has_finished_and_forgives_the_unknown(agent: AgentProcess) -> None:
    agent.collect("run-1")
    assert agent.sample("nodeobs_agent_stored_bytes") > 0
    for _ in range(2):
        assert agent.client.delete("/v1/collections/run-1").status_code == 204
    assert not list(agent.storage.glob("*run-1*"))
    assert agent.sample("nodeobs_agent_stored_bytes") == 0
    assert agent.collect("run-2")["state"] == "Done"


def test_a_start_that_comes_after_its_deletion_starts_nothing(agent: AgentProcess, target: PprofTarget) -> None:
    """As that of a service that was stopped for a while, and has been replaced since."""
    agent.collect("run-1")
    agent.client.delete("/v1/collections/run-1")
    agent.client.delete("/v1/collections/never-seen")
    asked = len(target.asked)
    for identifier in ("run-1", "never-seen"):
        late = agent.start(identifier)
        assert late.status_code == 410
        assert (late.json()["reason"], "was deleted" in late.json()["detail"]) == ("Cancelled", True)
    assert len(target.asked) == asked
    assert agent.collect("run-2")["state"] == "Done"
