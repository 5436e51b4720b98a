"""Files that change while the service runs: rotated tokens, renewed authorities."""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from nodeobs.errors import ConfigurationError
from nodeobs.sharedtls import shared_context

log = structlog.get_logger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What ``read`` makes of a file, read again whenever the file has changed. Safe to be used from many threads.

    A file that goes missing or wrong later is logged, and what was read last stays in use.

    Raises:
        ConfigurationError: it cannot be used from the beginning.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = read(path)

    def get(self) -> T:
        """The value of the file as it is now."""
        # Whoever comes while it is read waits: with the earlier authorities, an agent would be taken for a stranger.
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._read(self._path)
                except ConfigurationError as error:
                    log.warning("a file has changed and cannot be used; its earlier content stays", error=str(error))
            return self._value

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def read_token(path: Path) -> str:
    """The bearer token in a file.

    Raises:
        ConfigurationError: it cannot be read or holds no token; the message never shows what it holds.
    """
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            f"the token file for agents cannot be read: {path}: {os.strerror(error.errno or 0)}"
        ) from error
    if not re.fullmatch(rb"[\x21-\x7e]+", content):
        raise ConfigurationError(f"the token file for agents must hold one token, without spaces in it: {path}")
    return content.decode("ascii")


def read_authority(path: Path) -> ssl.SSLContext:
    """Context that accepts what the authority in a PEM file has signed, TLS 1.2 and later.

    Raises:
        ConfigurationError: it cannot be read or holds no certificate.
    """
    try:
        context = shared_context(path)
    except OSError as error:
        what = (
            "holds no usable certificate in PEM" if isinstance(error, ssl.SSLError) else os.strerror(error.errno or 0)
        )
        raise ConfigurationError(f"the authority file for agents cannot be used: {path}: {what}") from error
    return context
