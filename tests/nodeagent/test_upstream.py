"""The endpoints of OpenShift's agent, as its operator uses them."""

from __future__ import annotations

import json
import uuid

from tests.fakes.pprof_target import PprofTarget, hang, refuse, serve
from tests.nodeagent.helpers import AgentFactory, AgentProcess, eventually


def status(agent: AgentProcess) -> tuple[int, str]:
    answer = agent.client.get("/node-observability-status")
    return answer.status_code, answer.text


def settled(agent: AgentProcess) -> tuple[int, str] | None:
    found = status(agent)
    return None if found[0] == 409 else found


def test_a_start_by_any_method_answers_with_its_id(agent: AgentProcess, target: PprofTarget) -> None:
    target.speed = 0.01
    for method in ("GET", "POST", "PUT"):
        assert status(agent) == (200, "Service is ready")
        answer = agent.client.request(method, "/node-observability-pprof")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        identifier = str(uuid.UUID(json.loads(answer.text)["ID"]))
        assert answer.text == f'{{"ID":"{identifier}","ExecutionRuns":null}}'
        assert eventually(lambda: settled(agent), "it finishes") == (200, "Service is ready")
        assert agent.client.get(f"/v1/collections/{identifier}").json()["state"] == "Done"
    assert target.asked == ["/debug/pprof/profile?seconds=30"] * 3


def test_while_one_goes_another_is_refused(agent: AgentProcess, target: PprofTarget) -> None:
    target.behave(hang)
    identifier = agent.client.get("/node-observability-pprof").json()["ID"]
    for path in ("/node-observability-pprof", "/node-observability-status"):
        answer = agent.client.get(path)
        assert (answer.status_code, answer.text) == (409, f"{identifier} still running")
        assert answer.headers["content-type"].startswith("text/plain")
    assert agent.start("run-1").json()["holder"] == identifier


def test_a_failure_shows_until_the_next_start_and_blocks_nothing(
    run_agent: AgentFactory, agent: AgentProcess, target: PprofTarget
) -> None:
    target.behave(refuse(403, "no"))
    first = agent.client.get("/node-observability-pprof").json()["ID"]
    assert eventually(lambda: settled(agent), "it finishes") == (500, f"{first} failed.")
    assert agent.stop() == 0
    again = run_agent("--target", f"api={target.url}")
    assert status(again) == (500, f"{first} failed.")
    target.behave(serve)
    assert again.client.get("/node-observability-pprof").status_code == 200
    assert eventually(lambda: settled(again), "it finishes") == (200, "Service is ready")


def test_scripts_are_not_run(shared_agent: AgentProcess) -> None:
    answer = shared_agent.client.get("/node-observability-scripting")
    assert (answer.status_code, answer.text) == (404, "this agent profiles only; it runs no scripts")
