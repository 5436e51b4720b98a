"""Several real processes on one file, some of them killed."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from nodeobs.model import Phase, Run, replace
from nodeobs.store.sqlite import SqliteStore
from tests.processes import ROOT
from tests.store.conftest import utc_now

NS = "nodeobs"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker; it is gone when the test ends."""
    with ExitStack() as stack:

        def start_one(verb: str, path: Path) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.store.worker", verb, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
            stack.callback(process.kill)
            return process

        yield start_one


def ask(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_processes_that_create_at_once_one_may(start: Start, path: Path) -> None:
    workers = [start("race", path), start("race", path)]
    assert [answer(worker) for worker in workers] == ["ready", "ready"]
    wins = [0, 0]
    with closing(SqliteStore(path, now=utc_now)) as store:
        for number in range(200):
            for index in (number % 2, 1 - number % 2):
                ask(workers[index], f"run-{number}-{index}")
            answers = [answer(worker) for worker in workers]
            assert sorted(answers) == ["created", "refused"]
            winner = answers.index("created")
            wins[winner] += 1
            run = store.get(Run, f"run-{number}-{winner}", NS)
            store.update(replace(run, status=replace(run.status, phase=Phase.SUCCEEDED)))
        assert len(store.list(Run)) == 200
    assert all(wins)


def test_many_processes_may_create_the_file_at_once(start: Start, path: Path) -> None:
    workers = [start("race", path) for _ in range(4)]
    assert [answer(worker) for worker in workers] == ["ready"] * 4


def test_a_write_of_another_process_wakes_a_watch(start: Start, path: Path) -> None:
    worker = start("race", path)
    assert answer(worker) == "ready"
    with closing(SqliteStore(path, now=utc_now)) as store:
        since = store.snapshot(Run).revision
        ask(worker, "run-1")
        started = time.monotonic()
        change = next(store.watch(Run, since, stop=threading.Event(), seconds=60))
        assert change.object.metadata.name == "run-1"
        assert time.monotonic() - started < 30


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_nothing_acknowledged_is_lost(start: Start, path: Path, seed: int) -> None:
    workers = [start("write", path), start("write", path)]
    told = [answer(worker) for worker in workers]
    time.sleep(random.Random(seed).uniform(0, 0.15))
    for worker in workers:
        worker.kill()
    for worker in workers:
        assert worker.stdout is not None
        # The last line may be cut, and the write after it may have been done but not told.
        told += [line for line in worker.stdout if line.endswith("\n")]

    versions: dict[str, int] = {}
    gone = set()
    for line in told:
        word, name, version = line.split()
        versions[name] = int(version)
        if word == "gone":
            gone.add(name)
    assert len(versions) > 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with closing(SqliteStore(path, now=utc_now)) as store:
        kept = {run.metadata.name: int(run.metadata.resource_version) for run in store.list(Run)}
        count = stored_objects(path)
        assert len(kept) == count, "an object cannot be read"
        lost = {name for name, version in versions.items() if name not in gone and kept.get(name, 0) < version}
        # A deletion may have been done and not told yet: at most one by each process.
        assert len(lost) <= 2
        assert all(name not in kept for name in lost | gone)
        history = list(store.watch(Run, "0", stop=threading.Event(), seconds=0))
        assert [int(change.revision) for change in history] == list(range(1, len(history) + 1))
        last = {change.object.metadata.name: change for change in history}
        assert {name for name, change in last.items() if change.type != "DELETED"} == set(kept)
        assert all(int(last[name].revision) == version for name, version in kept.items())


def stored_objects(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM objects").fetchone()[0]
        return count
