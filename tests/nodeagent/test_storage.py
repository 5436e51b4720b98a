"""How much is kept, how long, and a disk that is full."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.errors import AgentError, ConfigurationError
from nodeobs.model import Collection, CollectionState, FailureReason, FileInfo
from nodeobs.nodeagent.kept import MOST_COLLECTIONS, Kept
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.storage import Storage
from tests.disks import small_disk
from tests.fakes.pprof_target import PprofTarget, answer_with, sample_profile, serve, stream
from tests.nodeagent.helpers import AgentFactory, AgentProcess, fill

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def finished(identifier: str, at: datetime = NOON) -> Collection:
    return Collection(id=identifier, state=CollectionState.DONE, now=at, received_at=at, finished_at=at)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def kept_in(storage: Storage, clock: Clock) -> Kept:
    metrics = AgentMetrics(CollectorRegistry(), [])
    return Kept(storage, metrics, max_bytes=1000, max_age=timedelta(hours=24), now=clock)


def test_the_oldest_go_first_when_room_is_needed(run_agent: AgentFactory, target: PprofTarget) -> None:
    target.behave(answer_with(b"\x1f\x8b" + bytes(299_998)))
    agent = run_agent("--target", f"api={target.url}", "--max-bytes", "1MB")
    for number in range(5):
        assert agent.collect(f"run-{number}")["pieces"][0]["state"] == "Done"
    left = [number for number in range(5) if agent.client.get(f"/v1/collections/run-{number}").status_code == 200]
    assert left == [2, 3, 4]
    assert agent.sample("nodeobs_agent_stored_bytes") == 900_000


def test_a_profile_larger_than_all_there_is_removes_nothing_else(run_agent: AgentFactory, target: PprofTarget) -> None:
    agent = run_agent("--target", f"api={target.url}", "--max-bytes", "1MB")
    agent.collect("run-1")
    target.behave(stream(20_000_000), "heap")
    cpu, heap = agent.collect("run-2", profiles=["cpu", "heap"])["pieces"]
    assert (cpu["state"], heap["reason"]) == ("Done", "StorageFull")
    assert "1000000 bytes" in heap["message"]
    assert agent.client.get("/v1/collections/run-2/files/api-cpu.pb.gz").content == sample_profile()


def test_collections_expire(tmp_path: Path) -> None:
    async def run(storage: Storage) -> None:
        clock = Clock()
        kept = kept_in(storage, clock)
        await kept.add(finished("old"))
        await kept.add(finished("young", NOON + timedelta(hours=2)))
        clock.now = NOON + timedelta(hours=25)
        await kept.expire()
        assert kept.get("old") is None
        assert kept.get("young") is not None

    with Storage(tmp_path) as storage:
        asyncio.run(run(storage))
        assert [collection.id for collection in storage.load()] == ["young"]


def test_the_number_kept_is_bounded(tmp_path: Path) -> None:
    async def run(storage: Storage) -> None:
        kept = kept_in(storage, Clock())
        for number in range(MOST_COLLECTIONS + 3):
            await kept.add(finished(f"run-{number}"))
        await kept.expire()
        assert [kept.get(f"run-{number}") is None for number in range(4)] == [True, True, True, False]

    with Storage(tmp_path) as storage:
        asyncio.run(run(storage))


def test_one_process_uses_the_folder(tmp_path: Path) -> None:
    with Storage(tmp_path), pytest.raises(ConfigurationError, match="another agent uses it"):
        Storage(tmp_path)
    Storage(tmp_path).close()


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        storage.save(finished("run-1"))
        part = storage.new_file("run-1", "api-cpu.pb.gz")
        part.write(b"first")
        assert not (tmp_path / "run-1" / "api-cpu.pb.gz").exists()
        part.write(b"second")
        info = part.finish()
        assert isinstance(info, FileInfo)
        assert (tmp_path / "run-1" / "api-cpu.pb.gz").read_bytes() == b"firstsecond"
        left = storage.new_file("run-1", "api-heap.pb.gz")
        left.write(b"x")
        left.discard()
        assert sorted(path.name for path in (tmp_path / "run-1").iterdir()) == ["api-cpu.pb.gz", "collection.json"]


@pytest.fixture
def limited_files() -> Iterator[None]:
    """No file may grow beyond 64 KiB in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("limited_files")
def test_a_write_that_does_not_fit_is_storage_full(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        storage.save(finished("run-1"))
        part = storage.new_file("run-1", "api-cpu.pb.gz")
        with pytest.raises(AgentError) as caught:
            part.write(bytes(200_000))
        part.discard()
        assert caught.value.reason is FailureReason.STORAGE_FULL
        assert not list((tmp_path / "run-1").glob(".*"))


def test_a_folder_that_cannot_be_written_does_not_block_the_agent(
    run_agent: AgentFactory, target: PprofTarget, tmp_path: Path
) -> None:
    agent = run_agent("--target", f"api={target.url}")
    # Whatever is done in it fails now, also what cleans up after a failure, as on a disk that became read-only.
    agent.storage.rename(tmp_path / "aside")
    agent.storage.write_bytes(b"")
    refused = agent.start("run-1")
    assert (refused.status_code, refused.json()["reason"]) == (500, "Internal")
    assert "cannot be written" in refused.json()["detail"]
    assert agent.client.get("/v1/collections/run-1").status_code == 404
    agent.storage.unlink()
    (tmp_path / "aside").rename(agent.storage)
    assert agent.collect("run-2")["pieces"][0]["state"] == "Done"


def test_the_longest_name_can_be_removed(agent: AgentProcess) -> None:
    longest = "a" * 253
    agent.collect(longest)
    assert agent.client.delete(f"/v1/collections/{longest}").status_code == 204
    assert not (agent.storage / longest).exists()


def test_one_that_cannot_be_removed_does_not_keep_the_others(tmp_path: Path) -> None:
    async def run(storage: Storage) -> None:
        clock = Clock()
        kept = kept_in(storage, clock)
        for name in ("stuck", "free"):
            await kept.add(finished(name))
        # What is in the way of its removal: a folder by the name that it would get, which cannot be removed itself.
        with small_disk(tmp_path / ".-stuck", megabytes=1):
            (tmp_path / ".-stuck" / "file").touch()
            clock.now = NOON + timedelta(days=2)
            await kept.expire()
        assert kept.get("stuck") is not None
        assert kept.get("free") is None

    with Storage(tmp_path) as storage:
        asyncio.run(run(storage))


def test_a_full_disk_is_a_reason_and_the_agent_goes_on(
    run_agent: AgentFactory, target: PprofTarget, one_megabyte: Path
) -> None:
    agent = run_agent("--target", f"api={target.url}", storage=one_megabyte)
    target.behave(stream(5_000_000), "heap")
    cpu, heap = agent.collect("run-1", profiles=["cpu", "heap"])["pieces"]
    assert (cpu["state"], heap["reason"]) == ("Done", "StorageFull")
    assert "no space left" in heap["message"]
    assert agent.client.get("/readyz").status_code == 200
    fill(one_megabyte / "filler")
    refused = agent.start("run-2")
    assert (refused.status_code, refused.json()["reason"]) == (507, "StorageFull")
    assert agent.client.get("/v1/collections/run-2").status_code == 404
    agent.stop()
    agent = run_agent("--target", f"api={target.url}", storage=one_megabyte)
    assert agent.client.get("/v1/collections/run-1/files/api-cpu.pb.gz").content == sample_profile()
    (one_megabyte / "filler").unlink()
    target.behave(serve, "heap")
    assert agent.collect("run-3", profiles=["heap"])["pieces"][0]["state"] == "Done"
    agent.stop()
