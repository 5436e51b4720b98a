"""Connections whose TLS handshake is given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Handshakes:
    """Closes what httpcore forgets; to be told of each event of one connection at a time (its extension ``trace``).

    A connection whose TLS handshake is cancelled, by a limit or by the Run's end, would stay open until the garbage
    collector comes by.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Look at an event."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.failed":
            await self._stream.aclose()
