"""The SQLite file: its folder, its schema, its connections and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nodeobs.errors import ConfigurationError, StoreUnavailable

SCHEMA_VERSION = 1
BUSY_SECONDS = 5.0

_IDLE_CONNECTIONS = 8
_SCHEMA = (
    """CREATE TABLE objects (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        created INTEGER NOT NULL, finished INTEGER NOT NULL, document BLOB NOT NULL,
        PRIMARY KEY (kind, namespace, name))""",
    "CREATE INDEX objects_by_age ON objects (kind, finished, created)",
    # "total" is the size of all changes up to this one: the newest may be kept by size without adding them up.
    """CREATE TABLE changes (
        revision INTEGER PRIMARY KEY, kind TEXT NOT NULL, type TEXT NOT NULL,
        total INTEGER NOT NULL, document BLOB NOT NULL)""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process held it locked for too long; try again",
    sqlite3.SQLITE_LOCKED: "another process held it locked for too long; try again",
    sqlite3.SQLITE_FULL: "no space is left on its disk; free some",
    sqlite3.SQLITE_IOERR: "its disk fails or is full; look at the kernel's log",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its owner and mode, and that the disk is not read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists, its owner and its mode",
}
_DAMAGED_ADVICE = (
    "it is damaged or not a database; stop the service and put a backup in its place, or move it away together with "
    "its -wal and -shm files to begin with an empty one (outputs are kept elsewhere and stay)"
)
_ADVICE |= dict.fromkeys((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB), _DAMAGED_ADVICE)


class Database:
    """Connections to one SQLite file. A connection serves one thread at a time; a few are kept for the next.

    Raises:
        ConfigurationError: the file cannot be created or opened, or is not one that this version can use.
        StoreUnavailable: the file is locked, damaged, or on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._idle: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._writer = threading.Lock()
        _create_file(path)
        with self.connection() as connection:
            _set_up(connection, path)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode.

        Raises:
            StoreUnavailable: SQLite could not do what was asked of the connection; the message says what helps.
        """
        try:
            connection = self._take()
            intact = True
            try:
                yield connection
            except sqlite3.DatabaseError:
                intact = False
                raise
            finally:
                self._give_back(connection, intact=intact)
        except sqlite3.DatabaseError as error:
            raise StoreUnavailable(_explain(error, self.path)) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file."""
        with self.connection() as connection, transaction(connection, "BEGIN"):
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside; durable when left, undone when left by an exception."""
        # SQLite's own waiting sleeps up to 100 ms at a time and is not fair: threads queue here instead.
        if not self._writer.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailable(f"database {self.path}: waited {BUSY_SECONDS:.0f} s for other writers; try again")
        try:
            with self.connection() as connection, transaction(connection, "BEGIN IMMEDIATE"):
                yield connection
        finally:
            self._writer.release()

    def close(self) -> None:
        """Close what is idle; a connection in use is closed when it is given back."""
        with self._guard:
            self.closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection:
        with self._guard:
            if self.closed:
                raise StoreUnavailable(f"database {self.path}: it was closed, the process is stopping")
            if self._idle:
                return self._idle.pop()
        return _connect(self.path)

    def _give_back(self, connection: sqlite3.Connection, *, intact: bool) -> None:
        with self._guard:
            if intact and not self.closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """All or nothing of what is done within; ``begin`` is ``BEGIN`` to read one state, ``BEGIN IMMEDIATE`` to write."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create_file(path: Path) -> None:
    """Create folder and file for the owner only; SQLite gives -wal and -shm the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    if not path.is_file():
        raise _unusable(path, "it is there and not a file")
    if not (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.R_OK | os.W_OK | os.X_OK)):
        raise _unusable(path, "this user may not write it, or not create files beside it")


def _unusable(path: Path, why: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"NODEOBS_DATA_DIR: cannot keep the database at {path}: {why}; "
        "give a folder on a local disk that this user may create files in"
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    _use_write_ahead_log(connection)
    with transaction(connection, "BEGIN IMMEDIATE"):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise ConfigurationError(
                f"database {path} was written by a newer nodeobs (its schema is {version}, this one knows "
                f"{SCHEMA_VERSION}): run that version, or set NODEOBS_DATA_DIR to another folder"
            )
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ConfigurationError(
                    f"{path} is another program's database: set NODEOBS_DATA_DIR to another folder"
                )
            for statement in _SCHEMA:
                connection.execute(statement)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which fails at once, whatever the timeout, while another process does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _explain(error: sqlite3.DatabaseError, path: Path) -> str:
    # The low byte is the error; the rest says which of its kinds.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    advice = _ADVICE.get(code)
    return f"database {path}: {error}" + (f": {advice}" if advice else "")
