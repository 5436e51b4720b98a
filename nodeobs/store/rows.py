"""Objects and changes as rows: the SQL of the embedded store. Every function works within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from nodeobs.errors import InvalidInput, NotFound, Unreadable, WatchExpired
from nodeobs.model import Document, Metadata, Resource, decode_json, encode_json, replace
from nodeobs.store.base import Change, ChangeType, R
from nodeobs.store.database import transaction
from nodeobs.store.objects import label, log_unreadable

KEPT_CHANGES = 10_000
KEPT_BYTES = 64 * 2**20
"""The history holds so many changes, and about so many bytes; who watches from before that lists again."""

_BATCH = 16
_REVISION_DIGITS = 18


class _Stored(Document, frozen=True, kw_only=True):
    """As much of a stored document as a write has to know."""

    metadata: Metadata


class Reader:
    """A :class:`~nodeobs.store.base.Reader` on one connection, within its transaction where there is one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """The object."""
        stored = document(self._connection, kind, name, namespace)
        try:
            return decode_json(stored, kind)
        except InvalidInput as error:
            raise _damaged(kind, name, namespace, error) from error

    def list(self, kind: type[R], *, unfinished: bool = False) -> Sequence[R]:
        """All objects of that kind, oldest first, or those of them that are not finished."""
        # A document that someone turned into text or a number is a document that cannot be read, not an SQL error.
        rows = self._connection.execute(
            "SELECT name, namespace, CAST(document AS BLOB) FROM objects WHERE kind = ? AND finished <= ? "
            "ORDER BY created",
            (kind.KIND, not unfinished),
        )
        found = (decode(stored, kind, label(kind, name, namespace)) for name, namespace, stored in rows)
        return tuple(resource for resource in found if resource is not None)


def document(connection: sqlite3.Connection, kind: type[Resource], name: str, namespace: str) -> bytes:
    """The stored document.

    Raises:
        NotFound: there is none.
    """
    query = "SELECT CAST(document AS BLOB) FROM objects WHERE kind = ? AND namespace = ? AND name = ?"
    try:
        row = connection.execute(query, (kind.KIND, namespace, name)).fetchone()
    except UnicodeEncodeError:  # half a surrogate pair: nothing has such a name
        row = None
    if row is None:
        raise NotFound(f"there is no {label(kind, name, namespace)}")
    stored: bytes = row[0]
    return stored


def exists(connection: sqlite3.Connection, kind: type[Resource], name: str, namespace: str) -> bool:
    """Whether the name is taken."""
    try:
        document(connection, kind, name, namespace)
    except NotFound:
        return False
    return True


def decode(stored: bytes, kind: type[R], what: str) -> R | None:
    """The object, or nothing (logged) where the document is damaged; ``what`` names it."""
    try:
        return decode_json(stored, kind)
    except InvalidInput as error:
        log_unreadable(what, error)
        return None


def metadata(stored: bytes, kind: type[Resource], name: str, namespace: str) -> Metadata:
    """The metadata of a stored document, the rest of it unread.

    Raises:
        StoreUnavailable: the document is damaged.
    """
    try:
        return decode_json(stored, _Stored).metadata
    except InvalidInput as error:
        raise _damaged(kind, name, namespace, error) from error


def add(connection: sqlite3.Connection, resource: Resource, encoded: bytes) -> None:
    """Insert a new object, and the change."""
    kind, data = type(resource), resource.metadata
    connection.execute(
        "INSERT INTO objects (kind, namespace, name, created, finished, document) VALUES (?, ?, ?, ?, ?, ?)",
        (kind.KIND, data.namespace, data.name, int(data.resource_version), resource.finished, encoded),
    )
    _record(connection, ChangeType.ADDED, kind, encoded)


def replace_object(connection: sqlite3.Connection, resource: R, *, gone: bool) -> R:
    """Write the next version of an object, or where it is ``gone``, its last; return it."""
    version = str(newest_revision(connection) + 1)
    resource = replace(resource, metadata=replace(resource.metadata, resource_version=version))
    kind, data, encoded = type(resource), resource.metadata, encode_json(resource)
    if gone:
        remove(connection, kind, data.name, data.namespace, last=encoded)
        return resource
    connection.execute(
        "UPDATE objects SET finished = ?, document = ? WHERE kind = ? AND namespace = ? AND name = ?",
        (resource.finished, encoded, kind.KIND, data.namespace, data.name),
    )
    _record(connection, ChangeType.MODIFIED, kind, encoded)
    return resource


def remove(connection: sqlite3.Connection, kind: type[Resource], name: str, namespace: str, *, last: bytes) -> None:
    """Delete an object, and tell watches its ``last`` state."""
    connection.execute(
        "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", (kind.KIND, namespace, name)
    )
    _record(connection, ChangeType.DELETED, kind, last)


def newest_revision(connection: sqlite3.Connection) -> int:
    """Revision of the last change; 0 before the first."""
    return _newest_change(connection)[0]


def changes(connection: sqlite3.Connection, kind: type[R], since: str) -> tuple[list[Change[R]], str, bool]:
    """Some changes after ``since``, the revision they lead to, and whether they are all there are now.

    Raises:
        WatchExpired: the history does not reach back to ``since``, or ``since`` is not from it.
    """
    with transaction(connection, "BEGIN"):
        newest = newest_revision(connection)
        oldest = connection.execute("SELECT min(revision) FROM changes").fetchone()[0] or 1
        after = int(since) if since.isascii() and since.isdecimal() and len(since) <= _REVISION_DIGITS else -1
        if not oldest - 1 <= after <= newest:
            raise WatchExpired(
                f"changes are kept from revision {oldest} to {newest}, not from {since[:32]!r}: list again"
            )
        rows = connection.execute(
            "SELECT revision, type, CAST(document AS BLOB) FROM changes WHERE revision > ? AND kind = ? "
            "ORDER BY revision LIMIT ?",
            (after, kind.KIND, _BATCH),
        ).fetchall()
    found = []
    for revision, change, stored in rows:
        resource = decode(stored, kind, f"{kind.KIND} as of revision {revision}")
        if resource is not None:
            found.append(Change(ChangeType(change), resource, str(revision)))
    complete = len(rows) < _BATCH
    return found, str(newest if complete else rows[-1][0]), complete


def _record(connection: sqlite3.Connection, change: ChangeType, kind: type[Resource], encoded: bytes) -> None:
    revision, total = _newest_change(connection)
    revision, total = revision + 1, total + len(encoded)
    connection.execute(
        "INSERT INTO changes (revision, kind, type, total, document) VALUES (?, ?, ?, ?, ?)",
        (revision, kind.KIND, change.value, total, encoded),
    )
    connection.execute(
        "DELETE FROM changes WHERE revision < "
        "(SELECT revision FROM changes WHERE revision > ? AND total > ? ORDER BY revision LIMIT 1)",
        (revision - KEPT_CHANGES, total - KEPT_BYTES),
    )


def _newest_change(connection: sqlite3.Connection) -> tuple[int, int]:
    row = connection.execute("SELECT revision, total FROM changes ORDER BY revision DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _damaged(kind: type[Resource], name: str, namespace: str, error: InvalidInput) -> Unreadable:
    return Unreadable(
        f"{label(kind, name, namespace)} is damaged in the database and cannot be read: {error}; delete it"
    )
