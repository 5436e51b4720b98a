"""The embedded store's file: who may read it, what happens when it is full, locked, damaged or too new."""

from __future__ import annotations

import gc
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from nodeobs.errors import ConfigurationError, InvalidInput, NotFound, StoreUnavailable, WatchExpired
from nodeobs.model import NodeObservability, Phase, Run, replace
from nodeobs.store import database, rows
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_observability, make_run
from tests.disks import small_disk
from tests.store.conftest import utc_now

NS = "nodeobs"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path, now=utc_now)) as store:
        yield store


def edit(path: Path, statement: str, *parameters: object) -> None:
    """Change the file as a person with an SQLite shell would."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, parameters)
        connection.commit()


def open_files() -> list[str]:
    """What this process holds open, once for each time."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(descriptor.readlink()))
    return found


class TestFile:
    def test_is_for_its_owner_only(self, store: SqliteStore, path: Path) -> None:
        store.create(make_run())
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"nodeobs.db": 0o600, "nodeobs.db-wal": 0o600, "nodeobs.db-shm": 0o600}

    def test_is_as_it_was_when_opened_again(self, path: Path) -> None:
        with closing(SqliteStore(path, now=utc_now)) as store:
            run = store.create(make_run())
            before = store.snapshot(Run)
        with closing(SqliteStore(path, now=utc_now)) as store:
            assert store.snapshot(Run) == before
            assert store.get(Run, "run-1", NS) == run
            assert store.create(make_run("run-2")).metadata.resource_version != run.metadata.resource_version

    def test_is_closed_with_the_store(self, path: Path) -> None:
        store = SqliteStore(path, now=utc_now)
        threads = [threading.Thread(target=store.list, args=(Run,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert str(path) in open_files()
        store.close()
        assert not [name for name in open_files() if name.startswith(str(path))]
        with pytest.raises(StoreUnavailable, match="closed"):
            store.list(Run)

    def test_threads_that_ended_leave_no_connections(self, store: SqliteStore, path: Path) -> None:
        for _ in range(50):
            thread = threading.Thread(target=store.list, args=(Run,))
            thread.start()
            thread.join()
        assert open_files().count(str(path)) <= 2

    def test_of_a_newer_version_is_refused(self, path: Path) -> None:
        SqliteStore(path, now=utc_now).close()
        edit(path, "PRAGMA user_version = 2")
        with pytest.raises(ConfigurationError, match="newer nodeobs"):
            SqliteStore(path, now=utc_now)

    def test_of_another_program_is_refused_and_left_alone(self, path: Path) -> None:
        path.parent.mkdir()
        edit(path, "CREATE TABLE recipes (name TEXT)")
        with pytest.raises(ConfigurationError, match="another program's"):
            SqliteStore(path, now=utc_now)
        edit(path, "INSERT INTO recipes VALUES ('soup')")

    def test_that_is_no_database_says_what_to_do(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"not a database" * 1000)
        with pytest.raises(StoreUnavailable, match="put a backup in its place"):
            SqliteStore(path, now=utc_now)

    def test_where_no_folder_can_be_names_the_setting(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder.db").mkdir()
        for place in (tmp_path / "file" / "nodeobs.db", tmp_path / "folder.db"):
            with pytest.raises(ConfigurationError, match="NODEOBS_DATA_DIR"):
                SqliteStore(place, now=utc_now)


class TestTrouble:
    def test_a_damaged_object_does_not_take_the_others_along(self, store: SqliteStore, path: Path) -> None:
        for name in ("run-1", "run-2", "run-3", "run-4"):
            store.create(make_run(name))
        edit(path, "UPDATE objects SET document = '{\"metadata\"' WHERE name = 'run-1'")
        edit(path, "UPDATE objects SET document = 17 WHERE name = 'run-2'")
        edit(path, "UPDATE objects SET document = CAST(x'ff00' AS TEXT) WHERE name = 'run-3'")
        assert [run.metadata.name for run in store.list(Run)] == ["run-4"]
        with pytest.raises(StoreUnavailable, match=r"NodeObservabilityRun nodeobs/run-1 is damaged.*delete it"):
            store.get(Run, "run-1", NS)
        with pytest.raises(StoreUnavailable, match="damaged"):
            store.update(make_run("run-2"))
        since = store.snapshot(Run).revision
        for name in ("run-1", "run-2", "run-3"):
            store.delete(Run, name, NS)
            with pytest.raises(NotFound):
                store.get(Run, name, NS)
        assert list(store.watch(Run, since, stop=threading.Event(), seconds=0)) == []

    def test_a_file_locked_for_long_is_unavailable(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
        store = SqliteStore(path, now=utc_now)
        run = store.create(make_run())
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"locked.*try again"):
                store.create(make_run("run-2"))
            assert store.list(Run) == (run,)
        store.create(make_run("run-2"))
        store.close()

    def test_a_full_disk_is_unavailable_until_there_is_space(self, tmp_path: Path) -> None:
        stored: list[Run] = []
        with (
            small_disk(tmp_path / "disk", megabytes=2) as disk,
            closing(SqliteStore(disk / "nodeobs.db", now=utc_now)) as store,
        ):
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(1_500_000))
            with pytest.raises(StoreUnavailable, match=r"nodeobs\.db.*disk"):
                stored.extend(store.create(make_run(f"run-{number}", nodes=("n" * 60,) * 50)) for number in range(1000))
            stored = list(store.list(Run))
            names = [run.metadata.name for run in stored]
            assert names == [f"run-{number}" for number in range(len(stored))]
            assert stored
            ballast.unlink()
            after = store.create(make_run("after"))
            assert store.list(Run) == (*stored, after)

    def test_an_exception_of_the_rule_leaves_the_store_usable(self, store: SqliteStore) -> None:
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                store.create(make_run(), admit=lambda reader: 1 // 0)  # type: ignore[arg-type]
        store.create(make_run())


class TestHistory:
    def test_is_bounded_by_number(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "KEPT_CHANGES", 10)
        revisions = [store.create(make_run(f"run-{n}")).metadata.resource_version for n in range(30)]
        seen = list(store.watch(Run, revisions[-11], stop=threading.Event(), seconds=0))
        assert [change.revision for change in seen] == revisions[-10:]
        with pytest.raises(WatchExpired, match="list again"):
            list(store.watch(Run, revisions[-12], stop=threading.Event(), seconds=0))

    def test_is_bounded_by_size(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "KEPT_BYTES", 20_000)
        run = store.create(make_run(nodes=tuple(f"node-{n}" for n in range(500))))
        for phase in (Phase.RUNNING, Phase.RETRIEVING) * 10:
            run = store.update(replace(run, status=replace(run.status, phase=phase)))
        since = str(int(run.metadata.resource_version) - 1)
        assert len(list(store.watch(Run, since, stop=threading.Event(), seconds=0))) == 1
        with pytest.raises(WatchExpired):
            list(store.watch(Run, "1", stop=threading.Event(), seconds=0))

    def test_a_watch_that_falls_behind_is_told(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "KEPT_CHANGES", 5)
        since = store.create(make_run("first")).metadata.resource_version
        watch = store.watch(Run, since, stop=threading.Event(), seconds=60)
        store.create(make_run("second"))
        assert next(watch).object.metadata.name == "second"
        for number in range(20):
            store.create(make_run(f"run-{number}"))
        with pytest.raises(WatchExpired):
            next(watch)


class TestWatch:
    def test_ends_when_the_store_is_closed(self, path: Path) -> None:
        store = SqliteStore(path, now=utc_now)
        since = store.snapshot(Run).revision
        thread = threading.Thread(
            target=lambda: list(store.watch(Run, since, stop=threading.Event(), seconds=3600)),
        )
        watch = store.watch(NodeObservability, since, stop=threading.Event(), seconds=3600)
        created = store.create(make_observability())
        thread.start()
        assert next(watch).object == created
        store.close()
        thread.join(60)
        assert not thread.is_alive()
        del watch
        gc.collect()
        assert not [name for name in open_files() if name.startswith(str(path))]

    def test_a_refused_object_wakes_nobody(self, store: SqliteStore) -> None:
        since = store.snapshot(Run).revision
        with pytest.raises(InvalidInput):
            store.create(make_run("NOT A NAME"))
        assert store.snapshot(Run).revision == since
