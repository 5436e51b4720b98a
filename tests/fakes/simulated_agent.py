"""One simulated agent: the ``/v1`` protocol with its start semantics, upstream's, and every way to misbehave."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nodeobs.model import (
    Collection,
    CollectionRequest,
    CollectionState,
    FailureReason,
    FileInfo,
    PieceResult,
    PieceState,
    decode_json,
    encode_json,
    file_name,
    replace,
)


def tiny_profile() -> bytes:
    """A gzipped pprof CPU profile with one sample of one function, main.spin."""
    strings = (b"", b"samples", b"count", b"cpu", b"nanoseconds", b"main.spin", b"main.go")
    types = b"\x0a\x04\x08\x01\x10\x02" + b"\x0a\x04\x08\x03\x10\x04"
    sample = b"\x12\x0a\x0a\x01\x01\x12\x05\x01\x80\xad\xe2\x04"
    location = b"\x22\x06\x08\x01\x22\x02\x08\x01"
    function = b"\x2a\x08\x08\x01\x10\x05\x18\x05\x20\x06"
    table = b"".join(bytes([0x32, len(text)]) + text for text in strings)
    period = b"\x5a\x04\x08\x03\x10\x04" + b"\x60\x80\xad\xe2\x04"
    return gzip.compress(types + sample + location + function + table + period, mtime=0)


@dataclass
class Behaviour:
    """How one agent differs from a good one; may be changed while it goes."""

    targets: tuple[str, ...] = ("kubelet",)
    """What it has when a request names none."""
    profile: bytes = field(default_factory=tiny_profile)
    clock_offset: float = 0.0
    """Seconds that its clock is ahead."""
    start_status: int = 202
    """Anything else: refuses starts with it."""
    start_refusals: int = 2**31
    """After so many refusals it accepts."""
    start_body: bytes | None = None
    """Sent instead of the answer to a start."""
    status_body: bytes | None = None
    """Sent instead of the answer to a look at the state."""
    raw_answer: bytes | None = None
    """Written to the connection, without HTTP being spoken, whatever is asked."""
    endless: bool = False
    """Answers to JSON calls never end."""
    hang: bool = False
    """Accepts connections and never answers."""
    drop_start_answers: int = 0
    """So many starts are taken, and the connection closed without an answer."""
    die_after: float | None = None
    """Seconds after the start at which it is gone, its port closed."""
    forget_after: float | None = None
    """Seconds after the start at which it has lost its state."""
    restart_after: float | None = None
    """Seconds after the start at which it was restarted, and its collection failed."""
    profile_seconds: float | None = None
    """How long profiling takes; default what was asked for."""
    reported_seconds: float = 1.0
    """How long it says that profiling took."""
    failing: dict[str, FailureReason] = field(default_factory=dict)
    """Targets that cannot be profiled."""
    edit: dict[str, object] = field(default_factory=dict)
    """Attributes of the pieces' files to lie about: name, bytes, sha256."""
    extra_pieces: tuple[PieceResult, ...] = ()
    cut_files: int = 0
    """So many transfers of a file break in the middle."""
    cut_cleanly: bool = False
    """They end as if the file were no longer, instead of breaking."""
    hang_files: bool = False
    """Files are begun and never go on."""
    file_status: int = 200
    ignore_range: bool = False
    token: str | None = None
    upstream: bool = False
    """Speaks upstream's protocol only."""
    upstream_start: int = 200
    upstream_seconds: float = 1.0
    upstream_fails: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class _State:
    request: CollectionRequest
    received_at: datetime
    start: float
    """Event loop's clock; when it is to be, and then when it was."""
    late: bool
    cancelled: bool = False


class SimulatedAgent:
    """One agent on a port of its own; records what it was asked and when it began to profile."""

    def __init__(self, name: str, behaviour: Behaviour) -> None:
        self.name = name
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.started_at: list[float] = []
        """The host's clock (seconds since the epoch) at every start of a collection."""
        self.port = 0
        self._states: dict[str, _State] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._upstream_until = 0.0

    def asked(self, method: str, path: str = "") -> list[Request]:
        """Requests with that method whose path ends so."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    async def open(self, context: ssl.SSLContext | None, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, host, self.port, ssl=context, backlog=64)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            writer.transport.abort()
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                if not await self._answer(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort() if self._server is None else writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer; False: the connection is to be closed."""
        behaviour = self.behaviour
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.raw_answer is not None:
            writer.write(behaviour.raw_answer)
            await writer.drain()
            return False
        if behaviour.endless:
            return await _endless(writer)
        if behaviour.upstream:
            return await _send(writer, *self._upstream(request))
        if behaviour.token is not None and request.headers.get("authorization") != f"Bearer {behaviour.token}":
            return await _send(writer, 401, b'{"title": "Unauthorized"}')
        return await self._route(request, writer)

    async def _route(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        match request.method, request.path.split("/")[1:]:
            case "POST", ["v1", "collections"]:
                return await self._start(request, writer)
            case "GET", ["v1", "collections", uid] if uid in self._states:
                return await self._status(self._states[uid], request, writer)
            case "GET", ["v1", "collections", uid, "files", name] if uid in self._states:
                return await self._file(name, request, writer)
            case "DELETE", ["v1", "collections", uid] if uid in self._states:
                self._states.pop(uid).cancelled = True
                return await _send(writer, 204, b"")
        return await _send(writer, 404, b'{"title": "Not Found"}')

    async def _start(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviour
        if behaviour.start_status != 202 and behaviour.start_refusals > 0:
            behaviour.start_refusals -= 1
            problem = {"title": "Refused", "detail": "not \x07 now", "holder": "other-uid"}
            if behaviour.start_status == 507:
                problem["reason"] = FailureReason.STORAGE_FULL.value
            location = {"location": "http://127.0.0.1:9/"} if behaviour.start_status == 302 else {}
            return await _send(writer, behaviour.start_status, json.dumps(problem).encode(), location)
        if behaviour.start_body is not None:
            return await _send(writer, 202, behaviour.start_body)
        asked = decode_json(request.body, CollectionRequest)
        if asked.id not in self._states:
            self._begin(asked)
        if behaviour.drop_start_answers > 0:
            behaviour.drop_start_answers -= 1
            return False
        return await _send(writer, 202, encode_json(self._collection(self._states[asked.id])))

    def _begin(self, asked: CollectionRequest) -> None:
        loop, behaviour = asyncio.get_running_loop(), self.behaviour
        ahead = (asked.start_at - asked.sent_at).total_seconds() if asked.start_at and asked.sent_at else 0.0
        state = _State(asked, self._now(), loop.time() + max(0.0, ahead), ahead < 0)
        self._states[asked.id] = state

        def start() -> None:
            if not state.cancelled:
                self.started_at.append(time.time())
                state.start = loop.time()

        loop.call_at(state.start, start)
        if behaviour.die_after is not None:
            loop.call_at(state.start + behaviour.die_after, self._spawn_close)
        if behaviour.forget_after is not None:
            loop.call_at(state.start + behaviour.forget_after, self._states.clear)

    def _spawn_close(self) -> None:
        task = asyncio.ensure_future(self.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _status(self, state: _State, request: Request, writer: asyncio.StreamWriter) -> bool:
        if self.behaviour.status_body is not None:
            return await _send(writer, 200, self.behaviour.status_body)
        found = re.fullmatch(r"wait=(\d+)", request.query)
        wait = min(30.0, float(found[1])) if found else 0.0
        remaining = state.start + self._seconds(state) - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(wait, remaining)))
        if state.request.id not in self._states:
            return await _send(writer, 404, b"{}")
        return await _send(writer, 200, encode_json(self._collection(state)))

    def _seconds(self, state: _State) -> float:
        if self.behaviour.restart_after is not None:
            return self.behaviour.restart_after
        if self.behaviour.profile_seconds is not None:
            return self.behaviour.profile_seconds
        return state.request.duration_seconds

    def _collection(self, state: _State) -> Collection:
        loop, asked = asyncio.get_running_loop(), state.request
        gone = loop.time() - state.start
        done = gone >= self._seconds(state)
        started_at = self._now() - timedelta(seconds=gone) if gone >= 0 else None
        collection = Collection(
            id=asked.id,
            state=CollectionState.SCHEDULED if gone < 0 else CollectionState.RUNNING,
            now=self._now(),
            received_at=state.received_at,
            started_at=started_at,
            late=state.late,
            duration_seconds=asked.duration_seconds,
        )
        if not done:
            return collection
        pieces = tuple(
            self._piece(PieceResult(target=target, profile=profile, started_at=started_at))
            for target in asked.targets or self.behaviour.targets
            for profile in asked.profiles
        )
        if self.behaviour.restart_after is not None:
            failed = CollectionState.FAILED
            return replace(collection, state=failed, reason=FailureReason.AGENT_RESTARTED, pieces=pieces[:-1])
        return replace(collection, state=CollectionState.DONE, pieces=(*pieces, *self.behaviour.extra_pieces))

    def _piece(self, piece: PieceResult) -> PieceResult:
        behaviour = self.behaviour
        if piece.target in behaviour.failing:
            reason = behaviour.failing[piece.target]
            return replace(piece, state=PieceState.FAILED, reason=reason, message="refused\nby the target")
        info = FileInfo(
            name=file_name(piece.target, piece.profile),
            bytes=len(behaviour.profile),
            sha256=hashlib.sha256(behaviour.profile).hexdigest(),
        )
        return replace(
            piece, state=PieceState.DONE, seconds=behaviour.reported_seconds, file=replace(info, **behaviour.edit)
        )

    async def _file(self, name: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        behaviour, body = self.behaviour, self.behaviour.profile
        if behaviour.file_status != 200:
            return await _send(writer, behaviour.file_status, b"{}")
        digest = hashlib.sha256(body).hexdigest()
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        begin = int(found[1]) if found and not behaviour.ignore_range else 0
        if begin > len(body):
            return await _send(writer, 416, b"", {"content-range": f"bytes */{len(body)}"})
        headers = {"etag": f'"{digest}"'}
        if begin:
            headers["content-range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        part, status = body[begin:], 206 if begin else 200
        if behaviour.hang_files:
            await _send(writer, status, part[:1], headers | {"content-length": str(len(part))})
            await asyncio.Event().wait()
        if behaviour.cut_files > 0:
            behaviour.cut_files -= 1
            half = part[: len(part) // 2]
            if behaviour.cut_cleanly:
                return await _send(writer, status, half, headers)
            await _send(writer, status, half, headers | {"content-length": str(len(part))})
            return False
        return await _send(writer, status, part, headers)

    def _upstream(self, request: Request) -> tuple[int, bytes]:
        behaviour, loop = self.behaviour, asyncio.get_running_loop()
        running = loop.time() < self._upstream_until
        if request.path not in ("/node-observability-pprof", "/node-observability-status"):
            return 404, b"404 page not found\n"
        if running:
            return 409, b"some-uuid still running"
        if request.path == "/node-observability-status":
            failed = behaviour.upstream_fails and self._upstream_until
            return (500, b"some-uuid failed.") if failed else (200, b"Service is ready")
        if behaviour.upstream_start == 200:
            self._upstream_until = loop.time() + behaviour.upstream_seconds
            self.started_at.append(time.time())
            return 200, b'{"ID":"some-uuid","ExecutionRuns":null}'
        return behaviour.upstream_start, b"some-uuid failed."

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.behaviour.clock_offset)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    with suppress(asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, path, query, headers, body)
    return None


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
    fields = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
    await writer.drain()
    return True


async def _endless(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()
