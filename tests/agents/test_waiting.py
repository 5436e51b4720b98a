"""From the start to the end: polling, agents that are lost on the way, cancelling, handing over, recovering."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from nodeobs.agents.fanout import purge
from nodeobs.errors import LeadershipLost
from nodeobs.model import FailureReason, PieceResult, PieceState, ProfileType
from tests.agents.driving import PAST, Drive, quick, rows
from tests.fakes.agent_simulator import Behaviour, Fleet

pytestmark = pytest.mark.slow


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_agents_are_asked_once_their_end_is_near(drive: Drive) -> None:
    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour(profile_seconds=2.5)) as fleet:
            outcomes = await drive.over(fleet)
            punctual, slow = (len(agent.asked("GET", "/run-1")) for agent in fleet.agents)
        assert [outcome.reason for outcome in outcomes] == [None, None]
        assert punctual == 1
        assert 2 <= slow <= 4

    asyncio.run(run())


def test_an_agent_that_does_not_hold_its_answer_is_not_hammered(drive: Drive) -> None:
    drive.deadline_seconds = 2.2

    async def run() -> None:
        running = (
            b'{"id": "run-1", "state": "Running", "now": "2026-01-01T00:00:00Z", "receivedAt": "2026-01-01T00:00:00Z"}'
        )
        async with Fleet(Behaviour(status_body=running)) as fleet:
            (outcome,) = await drive.over(fleet)
            assert 1 <= len(fleet.agents[0].asked("GET")) <= 5
        assert outcome.reason is FailureReason.TIMEOUT

    asyncio.run(run())


def test_lost_agents_are_typed_and_the_others_data_is_kept(drive: Drive) -> None:
    """Killed, restarted with its state and without, failed by its targets; all in one Run beside a good one."""

    drive.patience = replace(drive.patience, unreachable_grace=2.0)

    async def run() -> None:
        async with Fleet(
            Behaviour(),
            Behaviour(die_after=0.3),
            Behaviour(forget_after=0.3),
            Behaviour(restart_after=0.3),
            Behaviour(failing={"kubelet": FailureReason.PROFILER_IN_USE}),
            Behaviour(status_body=b"garbage"),
        ) as fleet:
            begun = time.monotonic()
            outcomes = await drive.over(fleet)
            taken = time.monotonic() - begun
        good, killed, forgot, restarted, refused, garbage = outcomes
        assert good.reason is None
        assert killed.reason is FailureReason.UNREACHABLE
        assert forgot.reason is restarted.reason is FailureReason.AGENT_RESTARTED
        assert refused.reason is FailureReason.PROFILER_IN_USE
        assert refused.message == "refused by the target"
        assert garbage.reason is FailureReason.BAD_RESPONSE
        assert all(outcome.pieces[0].reason is outcome.reason for outcome in outcomes)
        assert [name for name, *_ in drive.sunk] == ["node-0"]
        # The killed one is looked for until its grace is over, and no longer.
        expected = drive.plan.duration_seconds + drive.patience.unreachable_grace
        assert expected - 2 < taken < expected + 2
        assert killed.started_at is not None or killed.message

    asyncio.run(run())


def test_an_agent_that_comes_back_within_the_grace_is_gone_on_with(drive: Drive) -> None:
    async def run() -> None:
        async with Fleet(Behaviour()) as fleet:
            (agent,) = fleet.agents
            task = asyncio.create_task(drive.over(fleet))
            await until(lambda: agent.started_at)
            await agent.close()
            await asyncio.sleep(1.2)
            await agent.open(None)
            (outcome,) = await task
            assert len(agent.asked("POST")) == 1
        assert outcome.reason is None

    asyncio.run(run())


def test_a_node_that_delivers_some_pieces_did_not_fail(drive: Drive) -> None:
    drive.plan = replace(drive.plan, targets=("crio", "kubelet"), start_at=PAST)

    async def run() -> None:
        async with Fleet(
            quick(failing={"crio": FailureReason.PROFILING_DISABLED}),
            Behaviour(restart_after=0),
        ) as fleet:
            refused, restarted = await drive.over(fleet)
        assert (refused.reason, refused.message) == (None, "")
        assert {piece.target: piece.reason for piece in refused.pieces} == {
            "crio": FailureReason.PROFILING_DISABLED,
            "kubelet": None,
        }
        assert restarted.reason is None
        assert {piece.target: piece.reason for piece in restarted.pieces} == {
            "crio": None,
            "kubelet": FailureReason.AGENT_RESTARTED,
        }

    asyncio.run(run())


@pytest.mark.parametrize("target", ["etcd", "kubelet"])
def test_pieces_that_were_not_asked_for_are_a_bad_response(drive: Drive, target: str) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)
    extra = PieceResult(target=target, profile=ProfileType.CPU, state=PieceState.FAILED)

    async def run() -> None:
        async with Fleet(quick(extra_pieces=(extra,), failing={"kubelet": FailureReason.INTERNAL})) as fleet:
            (outcome,) = await drive.over(fleet)
        assert f"reports {target} cpu, which it was not asked for, or reports it twice" in outcome.message
        assert [piece.target for piece in outcome.pieces] == ["kubelet"]

    asyncio.run(run())


def test_at_the_deadline_what_is_missing_is_a_timeout(drive: Drive) -> None:
    drive.deadline_seconds = 1.7

    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour(profile_seconds=60)) as fleet:
            begun = time.monotonic()
            good, slow = await drive.over(fleet)
            taken = time.monotonic() - begun
        assert good.reason is None
        assert slow.reason is FailureReason.TIMEOUT
        assert "1.7 s" in slow.message
        assert taken < 4

    asyncio.run(run())


def test_cancelling_stops_the_agents_and_keeps_what_is_here(drive: Drive, full_backlog: int) -> None:
    drive.plan = replace(drive.plan, duration_seconds=20)

    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour(start_status=401), Behaviour(hang=True)) as fleet:
            task = asyncio.create_task(drive.over(fleet))
            await until(lambda: fleet.agents[0].started_at and fleet.agents[1].requests)
            begun = time.monotonic()
            drive.cancelled.set()
            going, refused, hanging = await task
            assert time.monotonic() - begun < drive.patience.cancel + 2
            dropped = [len(agent.asked("DELETE")) for agent in fleet.agents]
        assert going.reason is FailureReason.CANCELLED
        assert going.pieces[0].reason is FailureReason.CANCELLED
        assert refused.reason is FailureReason.UNAUTHORIZED
        assert hanging.reason is FailureReason.CANCELLED
        # One that may have received its start is told as well.
        assert dropped == [1, 0, 1]

    asyncio.run(run())


def test_a_run_that_is_cancelled_from_the_beginning_ends_at_once(drive: Drive) -> None:
    drive.plan = replace(drive.plan, duration_seconds=60)
    drive.cancelled.set()

    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour()) as fleet:
            async with asyncio.timeout(10):
                outcomes = await drive.over(fleet)
            assert [agent.started_at for agent in fleet.agents] == [[], []]
        assert [outcome.reason for outcome in outcomes] == [FailureReason.CANCELLED] * 2
        assert drive.events == ["started"]

    asyncio.run(run())


def test_handing_over_leaves_the_agents_at_work_and_another_driver_goes_on(drive: Drive) -> None:
    """Nothing starts twice, what was fetched is not fetched again, and an agent that was not told yet starts."""
    drive.plan = replace(drive.plan, targets=("crio", "kubelet"))

    async def run() -> None:
        async with Fleet(Behaviour(clock_offset=70), Behaviour()) as fleet:
            told, new = fleet.agents
            first = asyncio.create_task(drive.run(rows(told)))
            await until(lambda: told.started_at)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert told.asked("DELETE") == []
            there = drive.spool / told.name / "crio-cpu.pb.gz"
            there.parent.mkdir(parents=True)
            there.write_bytes(told.behaviour.profile)
            (there.parent / "kubelet-cpu.pb.gz").write_bytes(bytes(len(told.behaviour.profile)))
            drive.plan = replace(drive.plan, recovering=True)
            outcomes = await drive.over(fleet)
            assert [outcome.reason for outcome in outcomes] == [None, None]
            assert [len(agent.started_at) for agent in fleet.agents] == [1, 1]
            fetched = [request.path.rpartition("/")[2] for request in told.requests if "/files/" in request.path]
            assert fetched == ["kubelet-cpu.pb.gz"]
            assert {(name, file) for name, file, _ in drive.sunk} == {
                (agent.name, f"{target}-cpu.pb.gz") for agent in (told, new) for target in ("crio", "kubelet")
            }
            assert outcomes[0].clock_offset_seconds == pytest.approx(70, abs=0.5)
            assert outcomes[0].started_at is not None
            assert outcomes[0].started_at.timestamp() == pytest.approx(told.started_at[0], abs=0.5)

    asyncio.run(run())


def test_recovering_when_the_profiles_are_there_already_does_not_wait(drive: Drive) -> None:
    drive.plan = replace(drive.plan, duration_seconds=30)

    async def run() -> None:
        async with Fleet(Behaviour(profile_seconds=0.1)) as fleet:
            first = asyncio.create_task(drive.over(fleet))
            await until(lambda: fleet.agents[0].started_at)
            first.cancel()
            await asyncio.wait([first])
            await asyncio.sleep(0.2)
            drive.plan = replace(drive.plan, recovering=True)
            async with asyncio.timeout(10):
                (outcome,) = await drive.over(fleet)
        assert outcome.reason is None

    asyncio.run(run())


def test_an_error_of_the_drivers_own_is_raised_as_it_is(drive: Drive) -> None:
    cause = OSError("the store is gone")
    drive.on_started_error = LeadershipLost("another drives")
    drive.on_started_error.__cause__ = cause

    async def run() -> None:
        async with Fleet(Behaviour()) as fleet:
            with pytest.raises(LeadershipLost) as raised:
                await drive.over(fleet)
            assert raised.value.__cause__ is cause
            assert fleet.agents[0].asked("DELETE") == []

    asyncio.run(run())


@pytest.mark.parametrize(("said", "kept"), [(-5.0, 0.0), (1e300, 86400.0), (2.5, 2.5)])
def test_absurd_durations_are_bounded(drive: Drive, said: float, kept: float) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick(reported_seconds=said)) as fleet:
            (outcome,) = await drive.over(fleet)
        assert outcome.pieces[0].seconds == kept

    asyncio.run(run())


def test_purging_is_best_effort(drive: Drive, closed_port: int) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick(), Behaviour(raw_answer=b"garbage"), Behaviour(hang=True), Behaviour()) as fleet:
            agents = rows(*fleet.agents)
            await drive.run([agents[0]])
            agents.append(replace(agents[0], name="gone", port=closed_port))
            begun = time.monotonic()
            await purge(agents, "run-1", connector=drive.connector, patience=drive.patience)
            assert time.monotonic() - begun < drive.patience.cancel + 2
            assert [len(agent.asked("DELETE", "/run-1")) for agent in fleet.agents] == [1, 1, 1, 1]

    asyncio.run(run())
