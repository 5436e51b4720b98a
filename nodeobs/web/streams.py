"""Answers that take long to send: each holds a slot, and ends when the service does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator

import structlog
from flask import Response

from nodeobs.errors import OutputError
from nodeobs.web.slots import Slots

log = structlog.get_logger(__name__)

_PIECE_BYTES = 256 * 1024
"""Each piece has the server's send time-out to itself: small enough for a slow line."""


def stream(chunks: Iterable[bytes], *, slots: Slots, stop: threading.Event, content_type: str) -> Response:
    """Answer with ``chunks`` as they come.

    The connection is cut, never ended cleanly, where the answer cannot be completed, so that no client takes a part
    for the whole.

    Raises:
        ServiceUnavailable: no slot is free.
    """
    slots.take()
    answer = Response(_until_stopped(chunks, stop), content_type=content_type)
    answer.call_on_close(slots.give_back)
    return answer


def _until_stopped(chunks: Iterable[bytes], stop: threading.Event) -> Iterator[bytes]:
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _PIECE_BYTES):
                if stop.is_set():
                    raise _cut("the service is stopping")
                yield chunk[start : start + _PIECE_BYTES]
    except OutputError as error:
        log.error("a download was cut off", error=str(error))  # noqa: TRY400 the message tells all
        raise _cut(str(error)) from error


def _cut(reason: str) -> ConnectionResetError:
    # With this number the server closes the connection without a word, as if the client had.
    return ConnectionResetError(errno.ECONNRESET, reason)
