"""Connections that may not dawdle: uvicorn waits for ever for a request to begin, or to end its headers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_TIMEOUT: Final = 10.0
"""Seconds until a connection's first request, or one that has begun, must have its headers complete."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, closing connections that send nothing, or half a request's headers."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Give the first request its time."""
        super().connection_made(transport)
        self._expect_headers()

    def handle_events(self) -> None:
        """A request has its headers, or has begun: it gets its time once, however many bytes it comes in."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._headers_have_come()
        elif self.conn.trailing_data[0] and self._headers_due is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._headers_have_come()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(HEADERS_TIMEOUT, self.transport.abort)

    def _headers_have_come(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None
