"""Leadership by a locked file: one process of this machine drives Runs, and the kernel notices when it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from nodeobs.errors import ConfigurationError, StoreUnavailable

_MAX_BYTES = 512
"""Well within one sector: a write of it is whole or not there."""


class FileLeadership:
    """Leadership by ``flock`` on ``path``; the file keeps the number of the last term. Not on NFS.

    Programs that this process starts never hold the lock on: the file is closed when they are executed. A child that
    was only forked would, after a ``kill -9`` of its parent: nothing here forks without executing.

    ``known_term`` tells the highest term that is on record elsewhere. Where the file was lost (someone deleted it, or
    only the database was restored), the terms go on from there: what an earlier leader drove can be gone on with.
    """

    def __init__(self, path: Path, *, known_term: Callable[[], int] = lambda: 0) -> None:
        self.holder = f"{socket.gethostname()}-{os.getpid()}"
        """This process, as the file and a Run's ``status.driver`` name it."""
        self.leader = ""
        """Who had the lock when it could not be taken."""
        self._path = path
        self._known_term = known_term
        self._held: tuple[int, int] | None = None
        """File descriptor and term."""

    def try_acquire(self) -> int | None:
        """Number of the new term, higher than every one before; None while another process leads.

        While this process leads already, it is the term that goes on.

        Raises:
            ConfigurationError: the file cannot be created or opened.
            StoreUnavailable: the file cannot be written now, or is damaged.
        """
        if self._held is not None:
            return self._held[1]
        descriptor = self._open()
        try:
            term = self._begin(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StoreUnavailable(f"lock file {self._path}: cannot begin a term: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        if term is None:
            os.close(descriptor)
            return None
        self._held = descriptor, term
        return term

    def held(self) -> bool:
        """Whether this process leads: nobody can take a lock away."""
        return self._held is not None

    def release(self) -> None:
        """Let another process lead; nothing happens where this one does not."""
        held, self._held = self._held, None
        if held is not None:
            # Explicitly: closing alone would leave it to a copy of the descriptor in a child about to be executed.
            fcntl.flock(held[0], fcntl.LOCK_UN)
            os.close(held[0])

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"NODEOBS_DATA_DIR: cannot open the lock file {self._path}: {error.strerror}; "
                "give a folder on a local disk that this user may create files in"
            ) from error

    def _begin(self, descriptor: int) -> int | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.leader = os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace").partition(" ")[2].strip()
            return None
        last = self._last_term(descriptor)
        term = max(last, self._known_term()) + 1
        content = f"{term} {self.holder}\n".encode()[:_MAX_BYTES]
        os.pwrite(descriptor, content.ljust(_MAX_BYTES, b"\n"), 0)
        os.fsync(descriptor)
        if last == 0:
            self._keep_name()
        return term

    def _keep_name(self) -> None:
        """Make a new file's entry in its folder durable: with the file, the terms would begin again."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _last_term(self, descriptor: int) -> int:
        content = os.pread(descriptor, _MAX_BYTES, 0)
        if not content:
            return 0
        number = content.split(maxsplit=1)[0] if content.strip() else b""
        if not number.isdigit() or len(number) > 18:
            raise StoreUnavailable(
                f"lock file {self._path} is damaged: it must begin with the number of the last term; write a number "
                "into it that is higher than status.driver.term of every Run"
            )
        return int(number)
