"""The embedded store: documents in one SQLite file, with a history of changes that feeds watches."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from nodeobs.errors import AlreadyExists, Conflict, NotFound
from nodeobs.model import replace
from nodeobs.store import rows
from nodeobs.store.base import Admit, Change, R, Snapshot
from nodeobs.store.database import Database
from nodeobs.store.objects import checked, label

_POLL_SECONDS = 0.1


class SqliteStore:
    """A :class:`~nodeobs.store.base.Store` in the SQLite file ``path``, which is created where there is none.

    Writes are on the disk when a call returns. Not on NFS. An object that cannot be read any more (someone edited the
    file) is logged and left out of lists, so that it does not take the others along; it can be deleted.

    Raises:
        ConfigurationError: the file cannot be created or opened, or is not one that this version can use.
        StoreUnavailable: the file is locked, damaged, or on a full disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime],
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = Database(path)
        self._now = now
        self._new_uid = new_uid
        self._monotonic = monotonic
        self._written = threading.Condition()
        self._writes = 0

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """The object; see :class:`~nodeobs.store.base.Reader`."""
        with self._database.connection() as connection:
            return rows.Reader(connection).get(kind, name, namespace)

    def list(self, kind: type[R], *, unfinished: bool = False) -> Sequence[R]:
        """All objects of that kind, oldest first; see :class:`~nodeobs.store.base.Reader`."""
        with self._database.connection() as connection:
            return rows.Reader(connection).list(kind, unfinished=unfinished)

    def snapshot(self, kind: type[R]) -> Snapshot[R]:
        """A consistent list, and the revision it was made at."""
        with self._database.reading() as connection:
            return Snapshot(tuple(rows.Reader(connection).list(kind)), str(rows.newest_revision(connection)))

    def create(self, resource: R, *, admit: Admit | None = None) -> R:
        """Store a new object; see :class:`~nodeobs.store.base.Store`."""
        kind, name, namespace = type(resource), resource.metadata.name, resource.metadata.namespace
        with self._database.writing() as connection:
            if rows.exists(connection, kind, name, namespace):
                raise AlreadyExists(f"{label(kind, name, namespace)} exists already")
            if admit is not None:
                admit(rows.Reader(connection))
            revision = rows.newest_revision(connection) + 1
            metadata = replace(
                resource.metadata,
                uid=self._new_uid(),
                resource_version=str(revision),
                creation_timestamp=self._now(),
                deletion_timestamp=None,
            )
            stored, document = checked(replace(resource, metadata=metadata))
            rows.add(connection, stored, document)
        self._wake()
        return stored

    def update(self, resource: R) -> R:
        """Replace an object; see :class:`~nodeobs.store.base.Store`.

        uid and timestamps stay as they are stored. Writing what is there already changes nothing, the
        resourceVersion included.
        """
        kind, name, namespace = type(resource), resource.metadata.name, resource.metadata.namespace
        with self._database.writing() as connection:
            before = rows.document(connection, kind, name, namespace)
            known = rows.metadata(before, kind, name, namespace)
            if resource.metadata.resource_version != known.resource_version:
                raise Conflict(
                    f"{label(kind, name, namespace)} was read at resourceVersion "
                    f"{resource.metadata.resource_version or '(none)'} and is at {known.resource_version} now: "
                    "read it again, then change it"
                )
            metadata = replace(
                resource.metadata,
                uid=known.uid,
                creation_timestamp=known.creation_timestamp,
                deletion_timestamp=known.deletion_timestamp,
            )
            stored, document = checked(replace(resource, metadata=metadata))
            gone = known.deletion_timestamp is not None and not metadata.finalizers
            if document == before and not gone:
                return stored
            stored = rows.replace_object(connection, stored, gone=gone)
        self._wake()
        return stored

    def delete(self, kind: type[R], name: str, namespace: str = "", *, uid: str = "") -> None:
        """Delete an object, or mark it; see :class:`~nodeobs.store.base.Store`."""
        with self._database.writing() as connection:
            document = rows.document(connection, kind, name, namespace)
            stored = rows.decode(document, kind, label(kind, name, namespace))
            if uid and (stored is None or stored.metadata.uid != uid):
                raise NotFound(f"there is no {label(kind, name, namespace)} of uid {uid}")
            if stored is None or not stored.metadata.finalizers:
                rows.remove(connection, kind, name, namespace, last=document)
            elif stored.metadata.deletion_timestamp is None:
                metadata = replace(stored.metadata, deletion_timestamp=self._now())
                rows.replace_object(connection, replace(stored, metadata=metadata), gone=False)
        self._wake()

    def watch(self, kind: type[R], since: str, *, stop: threading.Event, seconds: float) -> Iterator[Change[R]]:
        """Changes after revision ``since``; see :class:`~nodeobs.store.base.Store`.

        Looks at least once, however short ``seconds``. Every change is given, also those that a later one undoes.
        """
        deadline = self._monotonic() + seconds
        position = since
        version = None
        # Its own connection for the whole time: SQLite's data_version tells a connection what others wrote.
        with self._database.connection() as connection:
            while not stop.is_set():
                writes = self._writes
                newest = connection.execute("PRAGMA data_version").fetchone()[0]
                if newest != version:
                    changes, position, complete = rows.changes(connection, kind, position)
                    yield from changes
                    version = newest if complete else None
                    if not complete:
                        continue
                left = deadline - self._monotonic()
                if left <= 0 or self._database.closed:
                    return
                self._wait(writes, min(left, _POLL_SECONDS))

    def close(self) -> None:
        """Close the file and end the watches."""
        self._database.close()
        self._wake()

    def _wake(self) -> None:
        with self._written:
            self._writes += 1
            self._written.notify_all()

    def _wait(self, writes: int, seconds: float) -> None:
        """Until this process has written more than ``writes`` times, or ``seconds`` have passed."""
        with self._written:
            self._written.wait_for(lambda: self._writes != writes, seconds)
