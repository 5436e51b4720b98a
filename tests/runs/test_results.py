"""From outcomes to the manifest and the status."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.model import AgentRef, FailureReason, RunStatus, encode_json, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.runs import results
from tests.builders import START, make_run

MOST_AGENTS = 5000


def failures(number: int, *, said: str = "") -> list[AgentOutcome]:
    """So many agents that failed with a long message."""
    agents = [
        Agent(name=f"ip-10-123-{i // 256}-{i % 256}.eu-central-1.compute.internal", host="10.123.123.123", port=8443)
        for i in range(number)
    ]
    return [
        AgentOutcome(agent=agent, reason=FailureReason.TARGET_UNAVAILABLE, message=f"{agent}: {said * 300}")
        for agent in agents
    ]


def manifest(outcomes: Sequence[AgentOutcome]) -> Manifest:
    return results.make_manifest(make_run(), outcomes, build_ids={}, merged=(), cancelled=False, finished_at=START)


@pytest.mark.parametrize("said", ["x", "é", "日", '"', "\\"])
def test_a_status_stays_under_1_mib_though_every_agent_failed_at_length(said: str) -> None:
    outcomes = failures(MOST_AGENTS, said=said)
    final = results.final_status(make_run(), manifest(outcomes))
    assert len(final.failed_agents) == MOST_AGENTS
    assert all(agent.message for agent in final.failed_agents)
    assert len(encode_json(final)) < 2**20

    refs = tuple(AgentRef(name=o.agent.name, ip=o.agent.host, port=o.agent.port) for o in outcomes)
    half = MOST_AGENTS // 2
    first = replace(RunStatus(), agents=refs[half:], failed_agents=results.failed_agents(outcomes[:half]))
    moved = results.moved(first, results.failed_agents(outcomes[half:]))
    assert (moved.agents, len(moved.failed_agents)) == ((), MOST_AGENTS)
    assert len(encode_json(moved)) < 2**20


def test_the_messages_of_a_few_are_left_as_they_are() -> None:
    said = "its certificate is not accepted: check the authority"
    (outcome,) = failures(1)
    outcome = AgentOutcome(agent=outcome.agent, reason=outcome.reason, message=f"{outcome.agent}: {said}")
    (failed,) = results.final_status(make_run(), manifest([outcome])).failed_agents
    assert failed.message == outcome.message


@pytest.mark.parametrize(
    ("reason", "told"),
    [(FailureReason.NO_AGENT, False), (FailureReason.FORBIDDEN, False), (FailureReason.CANCELLED, True)],
)
def test_agents_that_listen_to_nobody_are_not_told_to_drop_their_copies(reason: FailureReason, told: bool) -> None:
    (outcome,) = failures(1)
    refused = dataclasses.replace(outcome, reason=reason)
    assert (outcome.agent.name in results.to_purge(manifest([refused]))) is told
