"""What every store does, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from nodeobs.errors import AlreadyExists, Conflict, InvalidInput, NotFound, RunInProgress, WatchExpired
from nodeobs.model import NodeObservability, Phase, Run, replace
from nodeobs.store.base import Change, ChangeType, Reader, Store
from tests.builders import make_observability, make_run

NS = "nodeobs"


def with_phase(run: Run, phase: Phase) -> Run:
    return replace(run, status=replace(run.status, phase=phase))


def with_finalizers(run: Run, *finalizers: str) -> Run:
    return replace(run, metadata=replace(run.metadata, finalizers=finalizers))


def created_at(run: Run) -> datetime:
    assert run.metadata.creation_timestamp is not None
    return run.metadata.creation_timestamp


def changes(store: Store, since: str) -> list[Change[Run]]:
    """What is known now."""
    return list(store.watch(Run, since, stop=threading.Event(), seconds=0))


class Watcher:
    """Follows a store in a thread of its own."""

    def __init__(self, store: Store, since: str, *, seconds: float = 60) -> None:
        self.seen: list[Change[Run]] = []
        self.stop = threading.Event()
        self._news = threading.Condition()
        self.thread = threading.Thread(target=self._follow, args=(store, since, seconds))
        self.thread.start()

    def _follow(self, store: Store, since: str, seconds: float) -> None:
        for change in store.watch(Run, since, stop=self.stop, seconds=seconds):
            with self._news:
                self.seen.append(change)
                self._news.notify_all()

    def wait_for(self, count: int) -> Sequence[Change[Run]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self.seen) >= count, timeout=60)
        return self.seen

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


class TestCreate:
    def test_gives_what_is_the_stores_to_give(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        run = make_run()
        stored = store.create(run)
        assert stored.metadata.uid not in ("", run.metadata.uid)
        assert stored.metadata.resource_version
        assert stored.metadata.creation_timestamp
        assert before < stored.metadata.creation_timestamp <= datetime.now(UTC)
        assert stored.spec == run.spec
        assert store.get(Run, run.metadata.name, NS) == stored

    def test_a_name_is_taken_once(self, store: Store) -> None:
        first = store.create(make_run())
        asked: list[Reader] = []
        with pytest.raises(AlreadyExists, match="nodeobs/run-1"):
            store.create(make_run(), admit=asked.append)
        assert not asked
        assert store.list(Run) == (first,)

    def test_the_same_name_in_another_namespace_or_kind_is_another(self, store: Store) -> None:
        store.create(make_run("cluster"))
        store.create(make_run("cluster", namespace="other"))
        store.create(make_observability("cluster"))
        assert len(store.list(Run)) == 2
        assert len(store.list(NodeObservability)) == 1

    def test_whoever_is_refused_leaves_nothing(self, store: Store) -> None:
        def refuse(reader: Reader) -> None:
            raise RunInProgress("another is going", holder="nodeobs/run-0")

        with pytest.raises(RunInProgress):
            store.create(make_run(), admit=refuse)
        assert store.list(Run) == ()
        store.create(make_run())

    def test_the_rule_sees_what_the_creation_is_added_to(self, store: Store) -> None:
        parent = store.create(make_observability())
        first = store.create(make_run("run-1"))
        seen: list[object] = []

        def look(reader: Reader) -> None:
            seen.extend((reader.get(NodeObservability, "cluster"), *reader.list(Run)))
            with pytest.raises(NotFound):
                reader.get(Run, "run-2", NS)

        store.create(make_run("run-2"), admit=look)
        assert seen == [parent, first]

    @pytest.mark.parametrize(
        ("broken", "pointer"),
        [
            (make_run("Not_A_Name"), "/metadata/name"),
            (make_run(duration_seconds=0), "/spec/durationSeconds"),
        ],
    )
    def test_what_could_not_be_read_again_is_refused(self, store: Store, broken: Run, pointer: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            store.create(broken)
        assert caught.value.pointer == pointer
        assert store.list(Run) == ()

    def test_text_that_is_not_unicode_is_refused(self, store: Store) -> None:
        run = make_run()
        broken = replace(run, metadata=replace(run.metadata, annotations={"a": "\ud800"}))
        with pytest.raises(InvalidInput, match="not Unicode"):
            store.create(broken)
        with pytest.raises(NotFound):
            store.get(Run, "\ud800", NS)


class TestUpdate:
    def test_replaces_and_moves_the_version_on(self, store: Store) -> None:
        first = store.create(make_run())
        second = store.update(with_phase(first, Phase.RUNNING))
        assert second.status.phase is Phase.RUNNING
        assert second.metadata.resource_version != first.metadata.resource_version
        assert store.get(Run, "run-1", NS) == second

    def test_of_two_who_read_the_same_the_second_conflicts(self, store: Store) -> None:
        first = store.create(make_run())
        second = store.update(with_phase(first, Phase.RUNNING))
        with pytest.raises(Conflict, match="read it again"):
            store.update(with_phase(first, Phase.CANCELLED))
        assert store.get(Run, "run-1", NS) == second

    def test_without_a_version_it_conflicts(self, store: Store) -> None:
        store.create(make_run())
        with pytest.raises(Conflict):
            store.update(make_run())

    def test_of_what_is_gone(self, store: Store) -> None:
        run = store.create(make_run())
        store.delete(Run, "run-1", NS)
        with pytest.raises(NotFound):
            store.update(with_phase(run, Phase.RUNNING))
        store.create(make_run())
        with pytest.raises(Conflict):
            store.update(with_phase(run, Phase.RUNNING))

    def test_what_the_store_gave_stays(self, store: Store) -> None:
        run = store.create(make_run())
        forged = replace(
            run.metadata,
            uid="forged",
            creation_timestamp=datetime(2000, 1, 1, tzinfo=UTC),
            deletion_timestamp=datetime(2000, 1, 1, tzinfo=UTC),
        )
        stored = store.update(with_phase(replace(run, metadata=forged), Phase.RUNNING))
        assert stored.metadata == replace(run.metadata, resource_version=stored.metadata.resource_version)
        assert store.get(Run, "run-1", NS) == stored

    def test_that_changes_nothing_is_no_change(self, store: Store) -> None:
        run = store.create(make_run())
        since = store.snapshot(Run).revision
        assert store.update(run) == run
        assert changes(store, since) == []

    def test_what_could_not_be_read_again_is_refused(self, store: Store) -> None:
        run = store.create(make_run())
        with pytest.raises(InvalidInput):
            store.update(replace(run, spec=replace(run.spec, duration_seconds=100_000)))
        assert store.get(Run, "run-1", NS) == run

    def test_none_of_many_at_once_is_lost(self, store: Store) -> None:
        store.create(make_run())

        def add(number: int) -> None:
            while True:
                run = store.get(Run, "run-1", NS)
                labels = {**run.metadata.labels, f"n{number}": "x"}
                try:
                    store.update(replace(run, metadata=replace(run.metadata, labels=labels)))
                except Conflict:
                    continue
                return

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(40)))
        assert len(store.get(Run, "run-1", NS).metadata.labels) == 40


class TestDelete:
    def test_removes(self, store: Store) -> None:
        store.create(make_run())
        store.delete(Run, "run-1", NS)
        assert store.list(Run) == ()
        with pytest.raises(NotFound, match="nodeobs/run-1"):
            store.get(Run, "run-1", NS)
        with pytest.raises(NotFound):
            store.delete(Run, "run-1", NS)

    def test_waits_for_the_last_finalizer(self, store: Store) -> None:
        run = store.create(with_finalizers(make_run(), "a", "b"))
        store.delete(Run, "run-1", NS)
        marked = store.get(Run, "run-1", NS)
        assert marked.metadata.deletion_timestamp is not None
        assert marked.metadata.uid == run.metadata.uid
        store.delete(Run, "run-1", NS)
        assert store.get(Run, "run-1", NS) == marked
        marked = store.update(with_finalizers(marked, "b"))
        assert marked.metadata.deletion_timestamp is not None
        gone = store.update(with_finalizers(marked))
        assert gone.metadata.finalizers == ()
        with pytest.raises(NotFound):
            store.get(Run, "run-1", NS)

    def test_one_that_was_created_again_is_another(self, store: Store) -> None:
        old = store.create(make_run())
        store.delete(Run, "run-1", NS, uid=old.metadata.uid)
        new = store.create(make_run())
        with pytest.raises(NotFound):
            store.delete(Run, "run-1", NS, uid=old.metadata.uid)
        assert store.list(Run) == (new,)

    def test_taking_finalizers_away_alone_deletes_nothing(self, store: Store) -> None:
        run = store.create(with_finalizers(make_run(), "a"))
        run = store.update(with_finalizers(run))
        assert store.list(Run) == (run,)

    def test_the_mark_cannot_be_taken_back(self, store: Store) -> None:
        store.create(with_finalizers(make_run(), "a"))
        store.delete(Run, "run-1", NS)
        run = store.get(Run, "run-1", NS)
        metadata = replace(run.metadata, deletion_timestamp=None)
        stored = store.update(with_phase(replace(run, metadata=metadata), Phase.CANCELLED))
        assert stored.metadata.deletion_timestamp == run.metadata.deletion_timestamp


class TestList:
    def test_oldest_first_whatever_is_written_later(self, store: Store) -> None:
        for name in ("c", "a", "b"):
            store.create(make_run(name))
        before = store.list(Run)
        assert [run.metadata.creation_timestamp for run in before] == sorted(created_at(run) for run in before)
        store.update(with_phase(before[0], Phase.RUNNING))
        assert [run.metadata.name for run in store.list(Run)] == [run.metadata.name for run in before]

    def test_without_those_that_are_finished(self, store: Store) -> None:
        first, second = store.create(make_run("first")), store.create(make_run("second"))
        store.update(with_phase(store.create(make_run("third")), Phase.FAILED))
        going = store.update(with_phase(second, Phase.RUNNING))
        store.update(with_phase(first, Phase.SUCCEEDED))
        assert store.list(Run, unfinished=True) == (going,)
        assert len(store.list(Run)) == 3
        observability = store.create(make_observability())
        assert store.list(NodeObservability, unfinished=True) == (observability,)

    def test_a_snapshot_and_the_changes_after_it_miss_nothing(self, store: Store) -> None:
        names = [f"run-{number}" for number in range(60)]
        writer = threading.Thread(target=lambda: [store.create(make_run(name)) for name in names])
        writer.start()
        try:
            for _ in range(20):
                snapshot = store.snapshot(Run)
                known = {run.metadata.name for run in snapshot.items}
                assert known == set(names[: len(known)])
                later = [change.object.metadata.name for change in changes(store, snapshot.revision)]
                assert later == names[len(known) : len(known) + len(later)]
        finally:
            writer.join()


class TestWatch:
    def test_tells_every_change_in_order(self, store: Store) -> None:
        since = store.snapshot(Run).revision
        first = store.create(make_run())
        second = store.update(with_phase(first, Phase.RUNNING))
        store.delete(Run, "run-1", NS)
        seen = changes(store, since)
        assert [(change.type, change.object) for change in seen[:2]] == [
            (ChangeType.ADDED, first),
            (ChangeType.MODIFIED, second),
        ]
        assert [(change.type, change.object.status) for change in seen[2:]] == [(ChangeType.DELETED, second.status)]
        assert [change.object.metadata.resource_version for change in seen[:2]] == [c.revision for c in seen[:2]]
        assert changes(store, seen[0].revision) == seen[1:]
        assert changes(store, seen[2].revision) == []

    def test_marking_is_a_modification_and_the_last_finalizer_the_deletion(self, store: Store) -> None:
        store.create(with_finalizers(make_run(), "a"))
        since = store.snapshot(Run).revision
        store.delete(Run, "run-1", NS)
        gone = store.update(with_finalizers(store.get(Run, "run-1", NS)))
        seen = changes(store, since)
        assert [change.type for change in seen] == [ChangeType.MODIFIED, ChangeType.DELETED]
        assert seen[1].object.metadata.uid == gone.metadata.uid

    def test_other_kinds_are_not_told_and_do_not_hold_it_up(self, store: Store) -> None:
        since = store.snapshot(Run).revision
        for number in range(40):
            store.create(make_observability(f"n-{number}"))
        run = store.create(make_run())
        assert [change.object for change in changes(store, since)] == [run]

    def test_more_than_a_handful_come_in_one_look(self, store: Store) -> None:
        since = store.snapshot(Run).revision
        for number in range(100):
            store.create(make_run(f"run-{number}"))
        names = [change.object.metadata.name for change in changes(store, since)]
        assert names == [f"run-{number}" for number in range(100)]

    def test_wakes_on_a_write(self, store: Store) -> None:
        watcher = Watcher(store, store.snapshot(Run).revision)
        try:
            created = [store.create(make_run(f"run-{number}")) for number in range(3)]
            assert [change.object for change in watcher.wait_for(3)] == created
        finally:
            watcher.end()

    def test_wakes_on_a_write_of_another_replica(self, open_store: Callable[[], Store]) -> None:
        ours, theirs = open_store(), open_store()
        watcher = Watcher(ours, ours.snapshot(Run).revision)
        try:
            created = theirs.create(make_run())
            assert [change.object for change in watcher.wait_for(1)] == [created]
        finally:
            watcher.end()

    def test_ends_when_told_to(self, store: Store) -> None:
        watcher = Watcher(store, store.snapshot(Run).revision, seconds=3600)
        watcher.end()

    def test_ends_when_its_time_is_over(self, store: Store) -> None:
        watcher = Watcher(store, store.snapshot(Run).revision, seconds=0.2)
        watcher.thread.join(60)
        assert not watcher.thread.is_alive()

    @pytest.mark.parametrize("since", ["", "soon", "-1", "9" * 5000, "\u0663"])
    def test_from_a_revision_that_never_was_it_asks_for_a_new_list(self, store: Store, since: str) -> None:
        with pytest.raises(WatchExpired, match="list again"):
            changes(store, since)
