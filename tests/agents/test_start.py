"""Starting: the same instant for all, and why an agent does not start."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from nodeobs.agents.agent import Agent, start_skew
from nodeobs.model import CollectionRequest, FailureReason, PieceState, ProfileType, decode_json
from tests.agents.driving import PAST, Drive, connector, copy, quick, rows, utc_now
from tests.fakes.agent_simulator import Behaviour, Fleet, tiny_profile

pytestmark = pytest.mark.slow

ANOTHER = b'{"id": "other", "state": "Running", "now": "2026-01-01T00:00:00Z", "receivedAt": "2026-01-01T00:00:00Z"}'

FAR_FUTURE = (
    b'{"id": "run-1", "state": "Running", "now": "0001-01-01T00:00:00Z", "receivedAt": "0001-01-01T00:00:00Z",'
    b'"startedAt": "9999-12-31T23:59:59Z"}'
)


def test_all_start_at_one_instant_and_every_file_comes_soon_after_the_end(drive: Drive) -> None:
    drive.plan = replace(drive.plan, targets=("kubelet", "crio"), profiles=(ProfileType.CPU, ProfileType.TRACE))
    offsets = (0.0, 3600.0, -86400.0, 5e6)

    async def run() -> None:
        async with Fleet(*(Behaviour(clock_offset=offset) for offset in offsets)) as fleet:
            begun = time.monotonic()
            outcomes = await drive.over(fleet)
            taken = time.monotonic() - begun
            actual = [agent.started_at[0] for agent in fleet.agents]
        names = ["crio-cpu.pb.gz", "crio-trace.trace", "kubelet-cpu.pb.gz", "kubelet-trace.trace"]
        assert sorted(drive.sunk) == [(agent.name, name, tiny_profile()) for agent in fleet.agents for name in names]
        assert sorted(path.name for path in (drive.spool / "node-1").iterdir()) == names
        assert [outcome.reason for outcome in outcomes] == [None] * 4
        assert {piece.state for outcome in outcomes for piece in outcome.pieces} == {PieceState.DONE}
        assert drive.events == ["started", "retrieving"]
        assert [outcome.agent.name for outcome in drive.started] == ["node-0", "node-1", "node-2", "node-3"]
        assert taken < drive.plan.duration_seconds + 1.0
        assert max(actual) - min(actual) < 0.5
        assert start_skew(outcomes) < 1.0
        for outcome, began, offset in zip(outcomes, actual, offsets, strict=True):
            # What agents report is by the service's clock, whatever theirs says.
            assert outcome.clock_offset_seconds == pytest.approx(offset, abs=0.5)
            assert outcome.started_at is not None
            assert outcome.started_at.timestamp() == pytest.approx(began, abs=0.5)
            assert outcome.pieces[0].started_at is not None
            assert outcome.pieces[0].started_at.timestamp() == pytest.approx(began, abs=0.5)
            assert not outcome.late

    asyncio.run(run())


def test_sent_at_is_taken_when_the_connection_is_open(drive: Drive, certificate: tuple[Path, Path]) -> None:
    """A slow handshake must not look like a difference of clocks."""
    ca_file, pem = certificate
    drive.connector = connector(tls=True, ca_file=ca_file)
    accepted: list[datetime] = []

    async def run() -> None:
        async with Fleet(Behaviour(), certificate=pem) as fleet:

            async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                accepted.append(utc_now())
                await asyncio.sleep(0.5)
                inner, outer = await asyncio.open_connection("127.0.0.1", fleet.agents[0].port)
                await asyncio.gather(copy(reader, outer), copy(inner, writer))

            async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
                (outcome,) = await drive.run([Agent("node-0", "127.0.0.1", server.sockets[0].getsockname()[1])])
            sent_at = decode_json(fleet.agents[0].requests[0].body, CollectionRequest).sent_at
        assert sent_at is not None
        assert sent_at >= accepted[0] + timedelta(seconds=0.5)
        assert outcome.late
        assert outcome.clock_offset_seconds == pytest.approx(0, abs=0.3)

    asyncio.run(run())


def test_refused_starts_are_typed_and_the_others_go_on(drive: Drive) -> None:
    expected = {
        401: (FailureReason.UNAUTHORIZED, "does not accept the service's token"),
        403: (FailureReason.FORBIDDEN, "does not let it collect"),
        409: (FailureReason.BUSY, "collection other-uid is going"),
        400: (FailureReason.BAD_RESPONSE, "HTTP status 400 (not now)"),
        500: (FailureReason.BAD_RESPONSE, "HTTP status 500 (not now)"),
        302: (FailureReason.BAD_RESPONSE, "HTTP status 302 (not now)"),
        507: (FailureReason.STORAGE_FULL, "HTTP status 507 (not now)"),
        503: (FailureReason.NOT_READY, "the agent cannot do it now (not now)"),
    }

    async def run() -> None:
        async with Fleet(*(Behaviour(start_status=status) for status in expected), Behaviour()) as fleet:
            *refused, good = await drive.over(fleet)
            assert good.reason is None
            for (status, (reason, said)), outcome, agent in zip(expected.items(), refused, fleet.agents, strict=False):
                assert outcome.reason is reason
                assert outcome.message.startswith(f"{agent.name} (127.0.0.1:{agent.port}): ")
                assert said in outcome.message
                assert [(piece.target, piece.reason) for piece in outcome.pieces] == [("kubelet", reason)]
                assert outcome.started_at is None
                # Only what may pass is tried again; redirects are not followed.
                assert (len(agent.requests) == 1) == (status != 503)
        # News of the start does not wait for agents that are still tried when others have finished.
        assert [outcome.reason for outcome in drive.started][:7] == [reason for reason, _ in expected.values()][:7]

    asyncio.run(run())


def test_an_agent_that_is_not_ready_is_asked_again(drive: Drive) -> None:
    drive.plan = replace(drive.plan, start_at=PAST)

    async def run() -> None:
        async with Fleet(quick(start_status=503, start_refusals=2)) as fleet:
            (outcome,) = await drive.over(fleet)
            assert len(fleet.agents[0].asked("POST")) == 3
        assert outcome.reason is None

    asyncio.run(run())


def test_an_answer_that_got_lost_is_asked_for_again_and_nothing_starts_twice(drive: Drive) -> None:
    async def run() -> None:
        async with Fleet(Behaviour(drop_start_answers=2, clock_offset=50)) as fleet:
            (outcome,) = await drive.over(fleet)
            assert len(fleet.agents[0].asked("POST")) == 3
            assert len(fleet.agents[0].started_at) == 1
        assert outcome.reason is None
        # The agent received its start earlier than the request that it answered.
        assert outcome.clock_offset_seconds == pytest.approx(50, abs=0.3)

    asyncio.run(run())


def test_garbage_is_a_bad_response(drive: Drive) -> None:
    drive.patience = replace(drive.patience, connect=1.0)
    strange = "does not answer as an agent does"
    garbage = [
        (Behaviour(start_body=b"<html>"), "not a collection's state"),
        (Behaviour(start_body=b'{"id": 7}'), "not a collection's state"),
        (Behaviour(start_body=b"[" * 100_000), "not a collection's state"),
        (Behaviour(start_body=b"\xff\xfe"), "not a collection's state"),
        (Behaviour(start_body=b""), "not a collection's state"),
        (Behaviour(start_body=ANOTHER), "answered for the collection other"),
        (Behaviour(start_body=FAR_FUTURE), "its clock shows"),
        (Behaviour(endless=True), "longer than"),
        (Behaviour(raw_answer=b"SSH-2.0-OpenSSH_9.9\r\n"), strange),
        (Behaviour(raw_answer=b"HTTP/1.1 202 OK\r\nx: " + b"a" * 200_000), strange),
        (Behaviour(raw_answer=b"HTTP/1.1 302 X\r\nlocation: \x01http://[\r\ncontent-length: 0\r\n\r\n"), strange),
        (Behaviour(raw_answer=b"HTTP/1.1 302 X\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n"), "302"),
        (Behaviour(raw_answer=b""), strange),
    ]

    async def run() -> None:
        async with Fleet(*(behaviour for behaviour, _ in garbage), Behaviour()) as fleet:
            *outcomes, good = await drive.over(fleet)
        assert good.reason is None
        for (_, said), outcome in zip(garbage, outcomes, strict=True):
            assert outcome.reason is FailureReason.BAD_RESPONSE, outcome
            assert said in outcome.message
            assert len(outcome.message) < 600
            assert outcome.message.isprintable()

    asyncio.run(run())


def test_unreachable_agents_delay_nobody(drive: Drive, closed_port: int, full_backlog: int) -> None:
    drive.plan = replace(drive.plan, duration_seconds=2)

    async def run() -> None:
        async with Fleet(Behaviour(), Behaviour(hang=True), Behaviour()) as fleet:
            lost = [
                Agent("refusing", "127.0.0.1", closed_port),
                Agent("black-hole", "127.0.0.1", full_backlog),
                Agent("unknown", "no-such-host.invalid", 8443),
                Agent("six", "::1", closed_port),
            ]
            begun = time.monotonic()
            outcomes = await drive.run([*lost, *rows(*fleet.agents)])
            taken = time.monotonic() - begun
            good = fleet.agents[0], fleet.agents[2]
            starts = [agent.started_at[0] for agent in good]
        reasons = {outcome.agent.name: outcome.reason for outcome in outcomes}
        messages = {outcome.agent.name: outcome.message for outcome in outcomes}
        assert reasons == {
            "refusing": FailureReason.UNREACHABLE,
            "black-hole": FailureReason.UNREACHABLE,
            "unknown": FailureReason.UNREACHABLE,
            "six": FailureReason.UNREACHABLE,
            "node-0": None,
            "node-1": FailureReason.UNREACHABLE,
            "node-2": None,
        }
        assert "connection refused" in messages["refusing"]
        assert "no answer in time" in messages["black-hole"] or "no answer within" in messages["black-hole"]
        assert "does not resolve" in messages["unknown"]
        assert messages["six"].startswith(f"six ([::1]:{closed_port}): ")
        assert "no answer within" in messages["node-1"]
        assert max(starts) - min(starts) < 0.5
        # They are given up while the others are still profiling.
        assert taken < drive.plan.duration_seconds + 1.0

    asyncio.run(run())


def test_an_agent_that_comes_up_in_time_starts_late(drive: Drive) -> None:
    async def run() -> None:
        fleet = Fleet(Behaviour(), Behaviour())
        async with fleet:
            tardy = fleet.agents[1]
            await tardy.close()
            task = asyncio.create_task(drive.over(fleet))
            while not fleet.agents[0].started_at:
                await asyncio.sleep(0.02)
            await tardy.open(None)
            outcomes = await task
        assert [outcome.reason for outcome in outcomes] == [None, None]
        assert [outcome.late for outcome in outcomes] == [False, True]
        assert start_skew(outcomes) > 0

    asyncio.run(run())


def test_targets_are_those_that_the_run_asks_for_and_the_node_has(drive: Drive) -> None:
    drive.plan = replace(drive.plan, start_at=PAST, targets=("kubelet", "crio"))

    async def run() -> None:
        async with Fleet(quick(), quick(), quick()) as fleet:
            both, one, none = rows(*fleet.agents)
            one = replace(one, targets=("crio", "etcd"))
            none = replace(none, targets=("containerd",))
            outcomes = await drive.run([both, one, none])
            bodies = [[decode_json(r.body, CollectionRequest).targets for r in a.asked("POST")] for a in fleet.agents]
        assert bodies == [[("kubelet", "crio")], [("crio",)], []]
        assert [outcome.reason for outcome in outcomes] == [None, None, FailureReason.TARGET_UNAVAILABLE]
        assert outcomes[2].message.endswith("the node's targets are containerd; the Run asks for kubelet, crio")

    asyncio.run(run())


def test_without_targets_an_agent_gives_what_it_has(drive: Drive) -> None:
    drive.plan = replace(drive.plan, start_at=PAST, targets=())

    async def run() -> None:
        async with Fleet(quick(targets=("crio", "etcd")), quick(targets=())) as fleet:
            outcomes = await drive.over(fleet)
        assert [piece.target for piece in outcomes[0].pieces] == ["crio", "etcd"]
        assert [outcome.reason for outcome in outcomes] == [None, FailureReason.TARGET_UNAVAILABLE]
        assert "offers no target" in outcomes[1].message

    asyncio.run(run())


def test_no_agents_at_all(drive: Drive) -> None:
    assert asyncio.run(drive.run([])) == ()
    assert drive.events == ["started"]
