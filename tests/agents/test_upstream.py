"""Agents that know only openshift/node-observability-agent's protocol."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from nodeobs.model import FailureReason, ProfileType
from tests.agents.driving import PAST, Drive, connector, quick
from tests.fakes.agent_simulator import Behaviour, Fleet

START, STATUS = "/node-observability-pprof", "/node-observability-status"


def test_it_is_started_once_watched_and_its_data_stays_there(drive: Drive, tmp_path: Path) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)
    token_file = tmp_path / "token"
    token_file.write_text("for-v1-only\n")
    drive.connector = connector(token_file=token_file)

    async def run() -> None:
        async with Fleet(quick(upstream=True, upstream_seconds=0.5), quick(token="for-v1-only")) as fleet:
            old, ours = await drive.over(fleet)
            agent = fleet.agents[0]
            assert len(agent.asked("GET", START)) == 1
            assert 2 <= len(agent.asked("GET", STATUS)) <= 15
            assert "/v1/collections" in {request.path for request in agent.requests}
            assert all("authorization" not in request.headers for request in agent.asked("GET"))
        assert ours.reason is old.reason is None
        assert old.upstream
        assert not ours.upstream
        assert old.started_at is not None
        assert old.message.endswith("profiles stay on the node, in /run/node-observability")
        assert not old.delivered

    asyncio.run(run())


def test_how_it_fails(drive: Drive) -> None:
    async def run() -> None:
        async with Fleet(
            quick(upstream=True, upstream_seconds=0.3, upstream_start=500),
            quick(upstream=True, upstream_seconds=0.3, upstream_start=409),
            quick(upstream=True, upstream_seconds=0.3, upstream_start=404),
            quick(upstream=True, upstream_seconds=0.3, upstream_fails=True),
            Behaviour(start_status=404),
        ) as fleet:
            sticky, busy, neither, failed, no_agent = await drive.over(fleet)
        assert sticky.reason is FailureReason.NOT_READY
        assert "delete agent.err in /run/node-observability on the node" in sticky.message
        assert busy.reason is FailureReason.BUSY
        assert neither.reason is no_agent.reason is FailureReason.BAD_RESPONSE
        assert "is it an agent?" in no_agent.message
        assert failed.reason is FailureReason.TARGET_UNAVAILABLE
        assert "some-uuid failed." in failed.message

    asyncio.run(run())


def test_after_a_restart_of_the_service_it_is_watched_and_never_started(drive: Drive) -> None:
    drive.plan = replace(drive.plan, recovering=True)

    async def run() -> None:
        async with Fleet(quick(upstream=True, upstream_seconds=0.5)) as fleet:
            (outcome,) = await drive.over(fleet)
            assert fleet.agents[0].asked("GET", START) == []
            assert len(fleet.agents[0].asked("GET", STATUS)) == 1
        assert outcome.reason is None
        assert outcome.message.endswith("the service was restarted and did not start it again")

    asyncio.run(run())


def test_without_cpu_among_the_profiles_it_is_not_started(drive: Drive) -> None:
    drive.plan = replace(drive.plan, profiles=(ProfileType.HEAP,))

    async def run() -> None:
        async with Fleet(quick(upstream=True, upstream_seconds=0.5)) as fleet:
            (outcome,) = await drive.over(fleet)
            assert fleet.agents[0].asked("GET") == []
        assert outcome.reason is FailureReason.TARGET_UNAVAILABLE
        assert "CPU profiles and no heap" in outcome.message

    asyncio.run(run())
