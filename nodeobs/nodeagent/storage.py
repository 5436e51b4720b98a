"""The agent's folder: one sub-folder for each collection, with its state and its files.

Everything here blocks and is called in a worker thread. A file has its final name only when it is whole and on
disk; one process at a time uses the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Final, Self

from nodeobs.errors import AgentError, ConfigurationError, InvalidInput
from nodeobs.model import (
    Collection,
    FailureReason,
    FileInfo,
    PathSegment,
    PieceResult,
    PieceState,
    decode_json,
    encode_json,
    from_builtins,
    replace,
)

logger = logging.getLogger(__name__)

_STATE_FILE: Final = "collection.json"
_PART_SUFFIX: Final = ".part"
# Two characters: a collection's id may have 253, a name on disk 255.
_REMOVED_PREFIX: Final = ".-"
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Storage:
    """The folder, locked for this process.

    Raises:
        ConfigurationError: it cannot be made or written, or another agent uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"--storage {folder}: cannot be written: {error.strerror or error}; give a folder that the agent owns"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigurationError(f"--storage {folder}: another agent uses it; each needs its own folder") from error

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> list[Collection]:
        """Every collection found, oldest first; leftovers of an interrupted write and unreadable ones are removed."""
        found = []
        for folder in sorted(self._folder.iterdir()):
            if folder.is_symlink() or not folder.is_dir():
                continue
            if folder.name.startswith(_REMOVED_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
            elif (collection := self._load_one(folder)) is not None:
                found.append(collection)
        return sorted(found, key=lambda collection: collection.received_at)

    def _load_one(self, folder: Path) -> Collection | None:
        state = folder / _STATE_FILE
        try:
            for part in folder.glob(f".*{_PART_SUFFIX}"):
                part.unlink()
            if not state.exists():
                # Ours only if nothing else is in it: a start that was interrupted before it was answered.
                if not any(folder.iterdir()):
                    folder.rmdir()
                return None
            collection = _read_state(state)
        except InvalidInput as error:
            logger.warning("state of collection %s cannot be used and is removed: %s", folder.name, error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except OSError as error:
            logger.warning("collection folder %s cannot be read and is left alone: %s", folder, error)
            return None
        return _without_missing_files(collection, folder)

    def save(self, collection: Collection) -> None:
        """Write the collection's state.

        Raises:
            AgentError: ``StorageFull``, or ``Internal`` where it cannot be written for another reason.
        """
        folder = self._path(collection.id)
        part = folder / f".{_STATE_FILE}{_PART_SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with part.open("wb") as file:
                file.write(encode_json(collection))
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / _STATE_FILE)
            _sync_folder(folder)
        except OSError as error:
            # Cleaning up must not hide what made it necessary; the next start cleans up as well.
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise write_failure(error, folder) from error

    def new_file(self, collection: str, name: str) -> PartFile:
        """A file to be written; it appears as ``name`` when it is finished.

        Raises:
            AgentError: as for :meth:`save`.
        """
        return PartFile(self._path(collection), from_builtins(name, PathSegment))

    def file_path(self, collection: str, name: str) -> Path:
        """Where a finished file is."""
        return self._path(collection) / from_builtins(name, PathSegment)

    def remove(self, collection: str) -> None:
        """Remove a collection; one that is not there is no error.

        Raises:
            AgentError: ``Internal``: it cannot be removed.
        """
        folder = self._path(collection)
        # Renamed first: what is left of an interrupted removal must not look like a collection.
        removed = self._folder / f"{_REMOVED_PREFIX}{folder.name}"
        shutil.rmtree(removed, ignore_errors=True)
        try:
            folder.replace(removed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise AgentError(
                FailureReason.INTERNAL, f"{folder}: cannot be removed: {error.strerror or error}"
            ) from error
        shutil.rmtree(removed, ignore_errors=True)

    def _path(self, collection: str) -> Path:
        return self._folder / from_builtins(collection, PathSegment)


class PartFile:
    """A file while it is written, with its size and digest so far."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._part = folder / f".{name}{_PART_SUFFIX}"
        self._digest = hashlib.sha256()
        self.size = 0
        self.reserved = 0
        """Bytes that room was made for; the writer's to keep."""
        try:
            # Unbuffered: what is written comes in large pieces.
            self._file = self._part.open("wb", buffering=0)
        except OSError as error:
            raise write_failure(error, folder) from error

    def write(self, data: bytes | bytearray) -> None:
        """Append ``data``.

        Raises:
            AgentError: as for :meth:`Storage.save`.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise write_failure(error, self._folder) from error
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> FileInfo:
        """Make it durable, and visible under its name.

        Raises:
            AgentError: as for :meth:`Storage.save`.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._folder / self._name)
            _sync_folder(self._folder)
        except OSError as error:
            raise write_failure(error, self._folder) from error
        return FileInfo(name=self._name, bytes=self.size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        """Close and remove what was written; after :meth:`finish` it does nothing."""
        with contextlib.suppress(OSError), self._file:  # the next start cleans up as well
            self._part.unlink(missing_ok=True)


def write_failure(error: OSError, folder: Path) -> AgentError:
    """The error to raise for ``error`` while writing below ``folder``."""
    if error.errno in _NO_SPACE:
        return AgentError(FailureReason.STORAGE_FULL, f"{folder.parent}: no space left on the node: {error.strerror}")
    return AgentError(FailureReason.INTERNAL, f"{folder.parent}: cannot be written: {error.strerror or error}")


def _read_state(path: Path) -> Collection:
    collection = decode_json(path.read_bytes(), Collection)
    if collection.id != path.parent.name:
        raise InvalidInput(f"it is the state of {collection.id!r}")
    return collection


def _without_missing_files(collection: Collection, folder: Path) -> Collection:
    pieces = tuple(_without_missing_file(piece, folder) for piece in collection.pieces)
    return replace(collection, pieces=pieces)


def _without_missing_file(piece: PieceResult, folder: Path) -> PieceResult:
    if piece.file is None:
        return piece
    path = folder / piece.file.name
    if path.is_file() and path.stat().st_size == piece.file.bytes:
        return piece
    message = f"its file {piece.file.name} was removed from the agent's folder, or changed"
    logger.warning("collection %s: %s", folder.name, message)
    return replace(piece, state=PieceState.FAILED, file=None, reason=FailureReason.INTERNAL, message=message)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
