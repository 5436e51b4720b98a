"""One HTTP exchange: connect, send a request, stream the answer. What goes wrong is typed here.

Written over h11 and asyncio's streams rather than httpx: each connection is used once, every failure keeps its
own exception (httpx folds them into one), and the agent stays 4 MB smaller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11

from nodeobs.errors import AgentError
from nodeobs.model import FailureReason

_READ_SIZE: Final = 65536
_LONGEST_HEAD: Final = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where to connect: a unix socket, or host and port with TLS where ``tls`` is set."""

    shown: str
    """As messages name it."""
    host: str = ""
    port: int = 0
    socket: Path | None = None
    tls: ssl.SSLContext | None = None
    server_name: str = ""


class Reply:
    """A status line that has come, and a body that is still coming."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, http: h11.Connection, timeout: float) -> None:
        self._address = address
        self._reader = reader
        self._http = http
        self._timeout = timeout
        self.status = 0

    async def read_head(self) -> None:
        """Wait for the status line and headers."""
        # Anything before the response is an informational one (1xx).
        while not isinstance(event := await self._next_event(), h11.Response):
            pass
        self.status = event.status_code

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes.

        Raises:
            AgentError: ``BadResponse`` where it ends early, ``Timeout`` where nothing more comes.
        """
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def text(self, limit: int) -> str:
        """The first ``limit`` bytes of the body as text."""
        body = bytearray()
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= limit:
                    break
        return body[:limit].decode("utf-8", errors="replace")

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(self._timeout):
                    data = await self._reader.read(_READ_SIZE)
                if not data and not self.status:
                    raise AgentError(
                        FailureReason.BAD_RESPONSE, f"{self._address.shown} closed the connection without an answer"
                    )
                self._http.receive_data(data)
        except TimeoutError as error:
            raise AgentError(
                FailureReason.TIMEOUT, f"{self._address.shown} sent nothing for {self._timeout:g} seconds"
            ) from error
        except h11.RemoteProtocolError as error:
            raise AgentError(
                FailureReason.BAD_RESPONSE, f"{self._address.shown} broke off, or does not speak HTTP: {error}"
            ) from error
        except OSError as error:
            raise AgentError(
                FailureReason.BAD_RESPONSE, f"{self._address.shown}: connection lost: {_text(error)}"
            ) from error
        return event


@contextlib.asynccontextmanager
async def exchange(
    address: Address,
    path: str,
    *,
    headers: Sequence[tuple[str, str]],
    post: bytes | None = None,
    connect_timeout: float,
    read_timeout: float,
) -> AsyncIterator[Reply]:
    """GET ``path``, or POST a body to it; the connection is gone when the block ends.

    Redirects are answers like any other.

    Raises:
        AgentError: ``TargetUnavailable``, ``TLSFailure``, ``Timeout`` or ``BadResponse``.
    """
    reader, writer = await _connect(address, connect_timeout)
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        host = f"{_bracketed(address.host)}:{address.port}" if address.host else "localhost"
        sent = [("Host", host), ("Accept-Encoding", "identity"), ("Connection", "close"), *headers]
        if post is not None:
            sent.append(("Content-Length", str(len(post))))
        method = "GET" if post is None else "POST"
        writer.write(http.send(h11.Request(method=method, target=path, headers=sent)) or b"")
        if post is not None:
            writer.write(http.send(h11.Data(post)) or b"")
        writer.write(http.send(h11.EndOfMessage()) or b"")
        reply = Reply(address, reader, http, read_timeout)
        await reply.read_head()
        yield reply
    finally:
        writer.transport.abort()


async def _connect(address: Address, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    shown = address.shown
    try:
        async with asyncio.timeout(timeout):
            if address.socket is not None:
                return await asyncio.open_unix_connection(address.socket)
            return await asyncio.open_connection(
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=(address.server_name or address.host) if address.tls else None,
            )
    except TimeoutError as error:
        raise AgentError(
            FailureReason.TARGET_UNAVAILABLE, f"{shown} did not take the connection within {timeout:g} seconds"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise AgentError(
            FailureReason.TLS_FAILURE, f"{shown}: its certificate is not accepted: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise AgentError(FailureReason.TLS_FAILURE, f"{shown}: no TLS connection: {error.reason or error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AgentError(FailureReason.TARGET_UNAVAILABLE, f"{shown}: there is no such socket") from error
    except PermissionError as error:
        raise AgentError(
            FailureReason.TARGET_UNAVAILABLE,
            f"{shown}: the agent's user may not open it (a runtime's socket is root's)",
        ) from error
    except OSError as error:
        raise AgentError(FailureReason.TARGET_UNAVAILABLE, f"{shown}: no connection: {_text(error)}") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _text(error: OSError) -> str:
    # asyncio puts the address in place of the system's text.
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
