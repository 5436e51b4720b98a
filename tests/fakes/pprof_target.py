"""A pprof endpoint as Go programs serve it, on loopback: a thread per connection, HTTP, HTTPS or a unix socket.

It records what it was asked, and misbehaves as it is told::

    with PprofTarget(speed=0.1) as target:     # a 30 s profile takes 3 s
        target.behave(refuse(403, "Forbidden"))
        ...
        assert target.asked == ["/debug/pprof/profile?seconds=30"]
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

IN_USE: Final = "Could not enable CPU profiling: cpu profiling already in use\n"
KINDS: Final = ("profile", "heap", "allocs", "goroutine", "mutex", "block", "threadcreate", "trace")


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float
    """On the monotonic clock, which all processes of a machine share."""


Behaviour = Callable[["Exchange"], None]


class PprofTarget:
    """The server. ``speed`` scales the seconds that a profile takes; ``profiles`` are bytes by kind."""

    def __init__(
        self,
        *,
        socket_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        profiles: Mapping[str, bytes] | None = None,
        speed: float = 1.0,
    ) -> None:
        self.token = token
        self.profiles = profiles or {}
        self.speed = speed
        self.requests: list[Asked] = []
        self._behaviours: dict[str, Behaviour] = {}
        self._closing = threading.Event()
        self._server = _server(self, socket_path, tls)
        self.socket_path = socket_path
        if socket_path is None:
            self.port: int = self._server.socket.getsockname()[1]
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="pprof target")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every exchange that still goes, and the server."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def behave(self, behaviour: Behaviour, kind: str = "") -> None:
        """From now on answer so, to everything or to requests for ``kind`` (``profile``, ``heap``, ...)."""
        self._behaviours[kind] = behaviour

    def reset(self, *, speed: float) -> None:
        """Forget what was asked and how to behave."""
        self.speed = speed
        self.requests.clear()
        self._behaviours.clear()

    @property
    def asked(self) -> list[str]:
        """Paths with their queries, in the order they came."""
        return [request.path for request in self.requests]

    @property
    def closing(self) -> threading.Event:
        """Set when exchanges are to end."""
        return self._closing

    def behaviour(self, kind: str) -> Behaviour:
        """How a request for ``kind`` is answered."""
        return self._behaviours.get(kind) or self._behaviours.get("") or serve


class Exchange(BaseHTTPRequestHandler):
    """One connection; what behaviours act on."""

    protocol_version = "HTTP/1.1"
    target: PprofTarget
    kind = ""
    seconds = 0

    def do_GET(self) -> None:
        """Record, check the token, then behave. One request a connection, so that no thread waits for another."""
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.target.requests.append(Asked(self.command, self.path, headers, time.monotonic()))
        parts = urlsplit(self.path)
        self.kind = parts.path.rsplit("/", 1)[-1]
        self.seconds = int(parse_qs(parts.query).get("seconds", ["30" if self.kind == "profile" else "0"])[0])
        if self.target.token is not None and headers.get("authorization") != f"Bearer {self.target.token}":
            self.answer(401, b"Unauthorized")
        else:
            self.target.behaviour(self.kind)(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Stay silent."""

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the server's end."""
        self.target.closing.wait(seconds)

    def answer(self, status: int, body: bytes, *, claimed: int | None = None) -> None:
        """Send it whole, with a content-length that may be a lie."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def serve(exchange: Exchange) -> None:
    """A profile, after the seconds that it takes."""
    if exchange.kind not in KINDS:
        exchange.answer(404, b"404 page not found")
        return
    exchange.pause(exchange.seconds * exchange.target.speed)
    exchange.answer(200, exchange.target.profiles.get(exchange.kind) or sample_profile(exchange.kind))


def refuse(status: int, text: str) -> Behaviour:
    """Answer with an error."""
    return lambda exchange: exchange.answer(status, text.encode())


def answer_with(body: bytes) -> Behaviour:
    """Answer 200 with this, whatever it is."""
    return lambda exchange: exchange.answer(200, body)


def redirect(location: str) -> Behaviour:
    """Send the caller elsewhere."""

    def behave(exchange: Exchange) -> None:
        exchange.send_response(302)
        exchange.send_header("Location", location)
        exchange.send_header("Content-Length", "0")
        exchange.end_headers()

    return behave


def hang(exchange: Exchange) -> None:
    """Never answer."""
    exchange.target.closing.wait()


def reset(exchange: Exchange) -> None:
    """Break the connection off before any answer."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()


def truncate(exchange: Exchange) -> None:
    """Promise more than is sent."""
    body = sample_profile(exchange.kind)
    exchange.answer(200, body[: len(body) // 2], claimed=len(body))


def truncate_chunks(exchange: Exchange) -> None:
    """Break a chunked body off, as a Go server that dies does."""
    _begin_chunks(exchange)
    exchange.chunk(sample_profile(exchange.kind))


def stream(size: int) -> Behaviour:
    """A body of ``size`` bytes that begins like gzip and is made as it is sent."""

    def behave(exchange: Exchange) -> None:
        _begin_chunks(exchange)
        for part in _parts(size):
            if exchange.target.closing.is_set():
                return
            exchange.chunk(part)
        exchange.wfile.write(b"0\r\n\r\n")

    return behave


def sample_profile(kind: str = "profile", *, function: str = "main.work") -> bytes:
    """A small whole pprof profile (google/pprof, proto/profile.proto), or for ``trace`` what begins like a trace."""
    if kind == "trace":
        return b"go 1.24 trace\x00\x00\x00"
    names = ["", "samples", "count", "cpu", "nanoseconds", function, "main.go", "/usr/bin/program"]
    fields = [
        _message(1, _number(1, 1) + _number(2, 2)),
        _message(1, _number(1, 3) + _number(2, 4)),
        _message(2, _number(1, 1) + _number(2, 7) + _number(2, 70_000_000)),
        _message(3, _number(1, 1) + _number(2, 0x400000) + _number(3, 0x500000) + _number(5, 7)),
        _message(4, _number(1, 1) + _number(2, 1) + _number(3, 0x401000) + _message(4, _number(1, 1) + _number(2, 42))),
        _message(5, _number(1, 1) + _number(2, 5) + _number(3, 5) + _number(4, 6)),
        *(_message(6, name.encode()) for name in names),
        _number(9, 1_700_000_000_000_000_000),
        _number(10, 1_000_000_000),
        _message(11, _number(1, 3) + _number(2, 4)),
        _number(12, 10_000_000),
    ]
    return gzip.compress(b"".join(fields), mtime=0)


def _begin_chunks(exchange: Exchange) -> None:
    exchange.send_response(200)
    exchange.send_header("Transfer-Encoding", "chunked")
    exchange.end_headers()


def _parts(size: int) -> Iterator[bytes]:
    block = b"\x1f\x8b" + bytes(range(256)) * 256
    while size > 0:
        yield block[:size]
        size -= len(block)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _message(field_number: int, body: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(body)) + body


class _Threads(ThreadingMixIn):
    # Joined when the server closes: no thread outlives its test.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that go away are what tests are about."""


class _TcpServer(_Threads, TCPServer):
    allow_reuse_address = True
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)


class _UnixServer(_Threads, UnixStreamServer):
    pass


def _server(target: PprofTarget, socket_path: Path | None, tls: ssl.SSLContext | None) -> _TcpServer | _UnixServer:
    handler = type("BoundExchange", (Exchange,), {"target": target, "timeout": 60})
    if socket_path is not None:
        return _UnixServer(str(socket_path), handler)
    server = _TcpServer(("127.0.0.1", 0), handler)
    server.tls = tls
    return server
