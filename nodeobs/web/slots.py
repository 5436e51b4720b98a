"""Fair shares of the server's threads: what may hold one for long is counted, and refused beyond its share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.exceptions import ServiceUnavailable

_RETRY_SECONDS = 2


class Slots:
    """So many at once of one kind of long request. Safe to be used from many threads."""

    def __init__(self, limit: int, *, what: str) -> None:
        self._free = threading.BoundedSemaphore(limit)
        self._refusal = f"{limit} {what} are open already, which is the most at once; try again in {_RETRY_SECONDS} s"

    def take(self) -> None:
        """Take a slot; whoever takes one gives it back with :meth:`give_back`.

        Raises:
            ServiceUnavailable: none is free.
        """
        if not self._free.acquire(blocking=False):
            raise ServiceUnavailable(self._refusal, retry_after=_RETRY_SECONDS)

    def give_back(self) -> None:
        """Give a slot back."""
        self._free.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a slot for a block.

        Raises:
            ServiceUnavailable: none is free.
        """
        self.take()
        try:
            yield
        finally:
            self.give_back()
