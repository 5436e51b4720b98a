"""Agents with two addresses, agents whose pod moves while a Run goes, and those that are not ready."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nodeobs.agents.agent import Agent
from nodeobs.model import FailureReason, PieceState
from tests.agents.driving import PAST, Drive, connector, quick, rows
from tests.fakes.agent_simulator import Behaviour, Fleet, SimulatedAgent

ELSEWHERE = "127.0.0.2"
"""Also this host, where nothing listens."""


class Places:
    """Where agents are, as somebody who is asked about it knows."""

    def __init__(self) -> None:
        self.known: dict[str, Agent] = {}
        self.asked: list[Agent] = []

    def locate(self, agent: Agent) -> Agent:
        self.asked.append(agent)
        return self.known.get(agent.name, agent)


@pytest.fixture
def places(drive: Drive) -> Places:
    places = Places()
    drive.connector = connector(locate=places.locate)
    return places


async def move(agent: SimulatedAgent, places: Places) -> None:
    """The agent's pod is gone, and another with its storage is somewhere else."""
    await agent.close()
    agent.port = 0
    await agent.open(None)
    places.known[agent.name] = rows(agent)[0]


def test_the_other_address_is_tried_when_one_does_not_answer(drive: Drive) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick(), quick()) as fleet:
            first, second = rows(*fleet.agents)
            outcomes = await drive.run(
                [
                    replace(first, host=ELSEWHERE, other_hosts=("127.0.0.1",)),
                    replace(second, host=ELSEWHERE, other_hosts=("127.0.0.3", "127.0.0.1")),
                ]
            )
        assert [outcome.reason for outcome in outcomes] == [None, None]
        # What is told is where it answered.
        assert [outcome.agent.host for outcome in outcomes] == ["127.0.0.1", "127.0.0.1"]

    asyncio.run(run())


@pytest.mark.slow
def test_an_address_that_swallows_packets_leaves_time_for_the_other(drive: Drive, full_backlog: int) -> None:
    async def run() -> None:
        agent = SimulatedAgent("node-0", Behaviour())
        agent.port = full_backlog
        await agent.open(None, ELSEWHERE)
        try:
            (outcome,) = await drive.run([replace(*rows(agent), other_hosts=(ELSEWHERE,))])
        finally:
            await agent.close()
        assert outcome.reason is None
        assert outcome.agent.host == ELSEWHERE

    asyncio.run(run())


@pytest.mark.slow
def test_a_pod_that_moves_while_it_profiles_is_followed(drive: Drive, places: Places) -> None:
    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour()) as fleet:
            moving, other = fleet.agents
            task = asyncio.create_task(drive.over(fleet))
            while not (moving.started_at and other.started_at):
                await asyncio.sleep(0.01)
            before = moving.port
            await move(moving, places)
            moved, stayed = await task
            assert moving.port != before
            assert moved.agent.port == moving.port
            assert len(moving.started_at) == 1
        assert (moved.reason, stayed.reason) == (None, None)
        assert sorted(node for node, _, _ in drive.sunk) == ["node-0", "node-1"]
        assert {agent.name for agent in places.asked} == {"node-0"}

    asyncio.run(run())


def test_a_pod_that_moves_while_its_file_is_fetched_is_followed(drive: Drive, places: Places) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)
    drive.patience = replace(drive.patience, answer=1.0)

    async def run() -> None:
        async with Fleet(quick(hang_files=True)) as fleet:
            (agent,) = fleet.agents
            task = asyncio.create_task(drive.over(fleet))
            while not agent.asked("GET", ".gz"):
                await asyncio.sleep(0.01)
            agent.behaviour.hang_files = False
            await move(agent, places)
            (outcome,) = await task
        assert [piece.state for piece in outcome.pieces] == [PieceState.DONE]

    asyncio.run(run())


def test_an_agent_that_gets_its_endpoint_while_it_is_started_takes_part(drive: Drive, places: Places) -> None:
    """As for a new leader that goes on with a Run while a node's pod is made anew."""
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick()) as fleet:
            task = asyncio.create_task(
                drive.run([Agent("node-0", problem="its pod is being deleted"), Agent("node-1", problem="gone")])
            )
            while len(places.asked) < 4:
                await asyncio.sleep(0.01)
            places.known["node-0"] = rows(*fleet.agents)[0]
            came, stayed_away = await task
        assert came.reason is None
        assert stayed_away.reason is FailureReason.NO_AGENT
        assert stayed_away.message == "node-1: no agent: gone"

    asyncio.run(run())


def test_who_is_not_ready_and_does_not_answer_is_not_ready(drive: Drive, closed_port: int) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)
    drive.patience = replace(drive.patience, connect=0.5)

    async def run() -> None:
        async with Fleet(quick(), Behaviour(hang=True)) as fleet:
            answering, hanging = (
                replace(row, ready=False, problem="its pod is not ready") for row in rows(*fleet.agents)
            )
            gone = Agent("gone", "127.0.0.1", closed_port, ready=False)
            unknown = Agent("unknown", "127.0.0.1", closed_port)
            outcomes = await drive.run([answering, hanging, gone, unknown])
        assert [outcome.reason for outcome in outcomes] == [
            None,
            FailureReason.NOT_READY,
            FailureReason.NOT_READY,
            FailureReason.UNREACHABLE,
        ]
        assert "not ready (its pod is not ready), and no answer within" in outcomes[1].message
        assert "not ready, and cannot connect" in outcomes[2].message or "refused" in outcomes[2].message

    asyncio.run(run())


def test_it_is_not_asked_where_agents_are_that_answer(drive: Drive, places: Places) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick(), quick(start_status=403)) as fleet:
            good, refusing = await drive.over(fleet)
        assert (good.reason, refusing.reason) == (None, FailureReason.FORBIDDEN)
        assert places.asked == []

    asyncio.run(run())
