"""An API server that answers as the test says: a real HTTP(S) server on loopback that records what it is asked.

It can break off, hang, reset and dribble, which a real one does at the worst moment only.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Number of the connection it came on, from 1."""
    at: float
    """When, by ``time.monotonic``."""


@dataclass(frozen=True)
class Answer:
    """What to answer: a ``body`` (bytes, or anything that is JSON), or ``lines`` (the same) one after the other.

    ``then``: keep the connection (``end``), say nothing more (``hang``), or close it (``close``, or ``reset`` by RST).
    Status 0 is no answer at all.
    """

    status: int = 200
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: Iterable[object] | None = None
    then: Literal["end", "hang", "close", "reset"] = "end"


def status(code: int, reason: str = "", message: str = "") -> dict[str, Any]:
    """A failure as the API server words it (metav1.Status)."""
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def event(kind: str, name: str, revision: int, **fields: object) -> dict[str, Any]:
    """An event of a watch."""
    metadata = {"name": name, "namespace": "default", "resourceVersion": str(revision)}
    return {"type": kind, "object": {"metadata": metadata, **fields}}


def page(revision: int, *names: str, following: str = "") -> dict[str, Any]:
    """A list, or a part of one."""
    items = [{"metadata": {"name": name, "namespace": "default", "resourceVersion": "1"}} for name in names]
    return {"metadata": {"resourceVersion": str(revision), "continue": following}, "items": items}


class FakeApiServer:
    """The server, a context manager. ``respond`` may be replaced at any time."""

    def __init__(
        self,
        respond: Callable[[Request], Answer],
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.connections = 0
        self.client_certificates: list[dict[str, Any]] = []
        """Subjects of the client certificates, of every connection that had one."""
        self.open: set[socket.socket] = set()
        """Connections that are open now."""
        self._tls = tls
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.port: int = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self.port}"

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept, name="fake API server"))
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # Closing alone would not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(10)

    def drop_connections(self) -> None:
        """Close every connection, as a server that goes down does."""
        for connection in list(self.open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """The requests of that method and path so far."""
        return [one for one in list(self.requests) if method in ("", one.method) and path in ("", one.path)]

    def kubeconfig(
        self, path: Path, *, user: Mapping[str, object] | None = None, cluster: Mapping[str, object] | None = None
    ) -> Path:
        """A kubeconfig that leads here, as ``user`` (default: with the token ``token``)."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **(cluster or {})}}],
            "users": [{"name": "fake", "user": {"token": "token"} if user is None else dict(user)}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "here"}}],
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), name="fake API server")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        # A client that goes away or does not trust us is no fault of the server's.
        with suppress(OSError, ValueError):
            try:
                if self._tls is not None:
                    connection.settimeout(10)
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    connection.settimeout(None)
                    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
                    if certificate:
                        self.client_certificates.append(dict(certificate))
                self.open.add(connection)
                with connection.makefile("rb") as reader:
                    while not self._over.is_set() and self._answer_one(connection, reader, number):
                        pass
            finally:
                self.open.discard(connection)
                connection.close()

    def _answer_one(self, connection: socket.socket, reader: BinaryIO, number: int) -> bool:
        request = _read_request(reader, number)
        if request is None:
            return False
        self.requests.append(request)
        answer = self.respond(request)
        if answer.status:
            for part in _parts(answer):
                connection.sendall(part)
        if answer.then == "hang":
            while not self._over.is_set() and not select.select([connection], [], [], 0.05)[0]:
                pass
        elif answer.then == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answer.then == "end"


def _read_request(reader: BinaryIO, number: int) -> Request | None:
    first = reader.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    path, _, query = first[1].partition("?")
    return Request(first[0], path, dict(parse_qsl(query)), headers, body, number, time.monotonic())


def _parts(answer: Answer) -> Iterable[bytes]:
    headers = {"content-type": "application/json", **answer.headers}
    body = b"" if answer.lines is not None else _encoded(answer.body)
    headers |= {"transfer-encoding": "chunked"} if answer.lines is not None else {"content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    yield f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + body
    for line in answer.lines if answer.lines is not None else ():
        data = _encoded(line) + b"\n"
        yield f"{len(data):x}\r\n".encode() + data + b"\r\n"
    if answer.lines is not None and answer.then == "end":
        yield b"0\r\n\r\n"


def _encoded(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()
