"""What the embedded store promises beyond what every store does: a creation is one transaction, and the order exact."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from nodeobs.errors import RunInProgress, WatchExpired
from nodeobs.model import Phase, Run, replace
from nodeobs.store.base import Reader
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_run
from tests.store.conftest import utc_now


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path, now=utc_now)) as store:
        yield store


def test_of_many_at_once_one_passes_a_rule_for_one(store: SqliteStore) -> None:
    def alone(reader: Reader) -> None:
        if reader.list(Run):
            raise RunInProgress("one is going", holder="?")

    def attempt(number: int) -> bool:
        try:
            store.create(make_run(f"run-{number}"), admit=alone)
        except RunInProgress:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(64))) == 1
    assert len(store.list(Run)) == 1


def test_lists_are_in_the_order_of_creation(store: SqliteStore) -> None:
    for name in ("c", "a", "b"):
        store.create(make_run(name))
    first = store.get(Run, "c", "nodeobs")
    store.update(replace(first, status=replace(first.status, phase=Phase.RUNNING)))
    assert [run.metadata.name for run in store.list(Run)] == ["c", "a", "b"]


def test_whoever_is_refused_makes_no_revision(store: SqliteStore) -> None:
    def refuse(reader: Reader) -> None:
        raise RunInProgress("another is going", holder="nodeobs/run-0")

    before = store.snapshot(Run)
    with pytest.raises(RunInProgress):
        store.create(make_run(), admit=refuse)
    assert store.snapshot(Run) == before


def test_nobody_watches_from_a_revision_to_come(store: SqliteStore) -> None:
    with pytest.raises(WatchExpired, match="list again"):
        list(store.watch(Run, "999999999", stop=threading.Event(), seconds=0))


def test_a_deletion_is_told_with_the_last_state(store: SqliteStore) -> None:
    since = store.snapshot(Run).revision
    run = store.create(make_run())
    store.delete(Run, "run-1", "nodeobs")
    assert [change.object for change in store.watch(Run, since, stop=threading.Event(), seconds=0)] == [run, run]
