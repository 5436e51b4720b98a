"""Files on their way from an agent to the spool."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from nodeobs.agents.spool import MAX_FILE_BYTES
from nodeobs.agents.transfer import ATTEMPTS
from nodeobs.errors import AgentError
from nodeobs.model import FailureReason, PieceState
from tests.agents.driving import PAST, Drive, quick
from tests.fakes.agent_simulator import Behaviour, Fleet

PROFILE = random.Random(1).randbytes(300_000)


def spooled(drive: Drive) -> dict[str, bytes]:
    return {str(path.relative_to(drive.spool)): path.read_bytes() for path in drive.spool.rglob("*") if path.is_file()}


@pytest.fixture
def drive(drive: Drive) -> Drive:
    """A Run that does not wait for a start instant."""
    drive.plan = replace(drive.plan, start_at=PAST)
    return drive


def test_broken_transfers_are_gone_on_with(drive: Drive) -> None:
    """Broken twice in the middle, by a server that knows ranges, by one that does not, and by a clean but early end."""

    async def run() -> None:
        async with Fleet(
            quick(profile=PROFILE, cut_files=2),
            quick(profile=PROFILE, cut_files=2, ignore_range=True),
            quick(profile=PROFILE, cut_files=1, cut_cleanly=True),
            quick(profile=b""),
        ) as fleet:
            outcomes = await drive.over(fleet)
            ranges = [[r.headers.get("range") for r in a.asked("GET", ".pb.gz")] for a in fleet.agents]
            conditions = [r.headers.get("if-range") for r in fleet.agents[0].asked("GET", ".pb.gz")]
        assert [outcome.reason for outcome in outcomes] == [None] * 4
        assert ranges[0] == [None, "bytes=150000-", "bytes=225000-"]
        assert ranges[1] == [None, "bytes=150000-", "bytes=150000-"]
        assert ranges[2] == [None, "bytes=150000-"]
        file = outcomes[0].pieces[0].file
        assert file is not None
        assert conditions == [None, f'"{file.sha256}"', f'"{file.sha256}"']
        assert spooled(drive) == {
            "node-0/kubelet-cpu.pb.gz": PROFILE,
            "node-1/kubelet-cpu.pb.gz": PROFILE,
            "node-2/kubelet-cpu.pb.gz": PROFILE,
            "node-3/kubelet-cpu.pb.gz": b"",
        }

    asyncio.run(run())


def test_files_that_are_not_as_announced_are_a_bad_response_and_leave_nothing(drive: Drive) -> None:
    wrong: list[tuple[Behaviour, str]] = [
        (quick(edit={"sha256": "0" * 64}), "SHA-256"),
        (quick(edit={"bytes": 1}), "more than the 1 bytes"),
        (quick(edit={"bytes": 10_000}), f"in {ATTEMPTS} attempts"),
        (quick(edit={"bytes": MAX_FILE_BYTES + 1}), "at most"),
        (quick(edit={"name": "other-cpu.pb.gz"}), "calls its file other-cpu.pb.gz"),
        (quick(edit={"name": "../../escape"}), "not a collection's state"),
        (quick(edit={"sha256": "zz"}), "not a collection's state"),
        (quick(file_status=404), "HTTP status 404"),
        (quick(file_status=302), "HTTP status 302"),
    ]

    async def run() -> None:
        async with Fleet(*(behaviour for behaviour, _ in wrong), quick()) as fleet:
            *outcomes, good = await drive.over(fleet)
        assert good.reason is None
        for (_, said), outcome in zip(wrong, outcomes, strict=True):
            assert outcome.reason is FailureReason.BAD_RESPONSE
            assert said in outcome.message
            assert outcome.pieces[0].state is PieceState.FAILED
            assert outcome.pieces[0].file is None
        assert list(spooled(drive)) == [f"node-{len(wrong)}/kubelet-cpu.pb.gz"]

    asyncio.run(run())


def test_an_agent_that_stalls_or_dies_in_the_middle_of_a_file(drive: Drive) -> None:
    drive.patience = replace(drive.patience, answer=0.2)

    async def run() -> None:
        async with Fleet(
            quick(profile=PROFILE, hang_files=True), quick(profile=PROFILE, cut_files=99), quick()
        ) as fleet:
            stalled, broken, good = await drive.over(fleet)
            assert len(fleet.agents[1].asked("GET", ".pb.gz")) == ATTEMPTS
        assert stalled.reason is FailureReason.UNREACHABLE
        assert broken.reason in (FailureReason.UNREACHABLE, FailureReason.BAD_RESPONSE)
        assert good.reason is None
        assert list(spooled(drive)) == ["node-2/kubelet-cpu.pb.gz"]

    asyncio.run(run())


def test_a_file_that_the_sink_refuses_fails_that_piece_only(drive: Drive) -> None:
    def error(agent: object) -> Exception | None:
        return {
            "node-0": AgentError(FailureReason.BAD_PROFILE, "not a profile"),
            "node-1": AgentError(FailureReason.STORAGE_FULL, "no space left"),
            "node-2": ZeroDivisionError("a bug"),
        }.get(getattr(agent, "name", ""))

    drive.sink_error = error

    async def run() -> None:
        async with Fleet(*(quick() for _ in range(4))) as fleet:
            outcomes = await drive.over(fleet)
        assert [(outcome.reason, outcome.message) for outcome in outcomes[:2]] == [
            (FailureReason.BAD_PROFILE, "not a profile"),
            (FailureReason.STORAGE_FULL, "no space left"),
        ]
        assert outcomes[2].reason is FailureReason.INTERNAL
        assert "ZeroDivisionError, see the service's log" in outcomes[2].message
        assert outcomes[3].reason is None

    asyncio.run(run())


def test_a_full_spool_fails_only_the_node_that_met_it(drive: Drive) -> None:
    """/dev/full answers every write as a full disk does."""
    full = drive.spool / "node-0" / "kubelet-cpu.pb.gz.part"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")

    async def run() -> None:
        async with Fleet(quick(profile=PROFILE), quick(profile=PROFILE)) as fleet:
            unlucky, good = await drive.over(fleet)
        assert unlucky.reason is FailureReason.STORAGE_FULL
        assert os.strerror(errno.ENOSPC) in unlucky.message
        assert str(drive.spool / "node-0") in unlucky.message
        assert good.reason is None

    asyncio.run(run())


def test_a_spool_that_cannot_be_written_is_our_own_failure(drive: Drive, tmp_path: Path) -> None:
    drive.spool.mkdir()
    (drive.spool / "node-0").write_bytes(b"a file where a folder should be")

    async def run() -> None:
        async with Fleet(quick(), quick()) as fleet:
            blocked, good = await drive.over(fleet)
        assert blocked.reason is FailureReason.INTERNAL
        assert "cannot keep kubelet-cpu.pb.gz in the spool" in blocked.message
        assert good.reason is None

    asyncio.run(run())


@pytest.mark.parametrize("stale", [b"", b"stale"])
def test_what_an_interrupted_transfer_left_is_not_built_upon(drive: Drive, stale: bytes) -> None:
    part = drive.spool / "node-0" / "kubelet-cpu.pb.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(stale)

    async def run() -> None:
        async with Fleet(quick(profile=PROFILE)) as fleet:
            (outcome,) = await drive.over(fleet)
        assert outcome.reason is None
        assert spooled(drive) == {"node-0/kubelet-cpu.pb.gz": PROFILE}

    asyncio.run(run())
