"""gunicorn's threaded worker, made to bear connections that send nothing, send half, or do not read.

gunicorn gives each new connection a thread for up to five seconds until its first byte comes, waits without limit for
the rest of a request or a TLS handshake, and lingers over closing in the loop that accepts. Here a connection waits
for its first byte in the poller, has a bounded time for its request's head (the handshake included) and for its body, a
time-out for each read and write after the head, and lingers in a thread of the pool.

The listener's own options cannot do this: ``SO_RCVTIMEO`` is not noticed under TLS, where Python waits again, and what
``TCP_DEFER_ACCEPT`` holds back, it hands over in the end.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from types import FrameType
from typing import Any, Final

from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.workers.gthread import TConn, ThreadWorker

from nodeobs.model import encode_json

FIRST_BYTE_SECONDS: Final = 30.0
HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 60.0
CROWDED_SECONDS: Final = 1.0
"""For a head and for a body, when half of the threads wait for clients to send the rest of one."""
IO_SECONDS: Final = 30.0
"""For each read of a body and each write of an answer's piece."""
DRAIN_BYTES: Final = 64 * 1024
"""Of an unread body, for the sake of the connection; gunicorn reads no more."""
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 16 * 1024 * 1024
STOP_SECONDS: Final = 1.0
"""What is not answered so long after the stop is cut off."""
HANDOVER_SECONDS: Final = 2.0
COMPLAINT_SECONDS: Final = 5.0

_TICK_SECONDS = 0.2
_GARBAGE_THRESHOLDS = (5000, 10, 20)
_STATUSES: Final = {
    http_errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    http_errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    http_errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    http_errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection; ``waiting`` is since when a thread waits for the client to send a part of its request.

    With it goes how many seconds that may take. None while the thread does something else.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waiting: tuple[float, float] | None = None

    def hang_up(self) -> None:
        """Let whatever waits on the connection, in any thread, see its end."""
        with suppress(OSError):
            # Not SSLSocket's own, which would take its state away from the thread that uses it.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 gunicorn's signature
        """Close at once: the main loop calls this, and must not linger."""
        util.close(self.sock)


class _WatchedBody:
    """The reader of a request's body; its connection knows when a thread waits for it."""

    def __init__(self, reader: LengthReader | ChunkedReader, conn: Connection) -> None:
        self._reader = reader
        self._conn = conn
        self._since: float | None = None

    def read(self, size: int) -> bytes:
        if self._since is None:
            self._since = time.monotonic()
        self._conn.waiting = self._since, BODY_SECONDS
        try:
            return bytes(self._reader.read(size))
        finally:
            self._conn.waiting = None


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """The worker; beside its requests it runs ``services.drive`` of the application, in a thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy: set[Connection] = set()
        self._next_tick = 0.0
        self._next_complaint = 0.0
        self._stopping_since: float | None = None

    def run(self) -> None:
        """Serve until a signal says otherwise, then end everything within two seconds."""
        # A crash in what is not Python tells where it was, in the log.
        faulthandler.enable()
        _calm_garbage_collection()
        services = self.wsgi.extensions["nodeobs"]
        driver = threading.Thread(target=services.drive, args=(services.stop,), name="controller", daemon=True)
        driver.start()
        try:
            super().run()
        finally:
            services.stop.set()
            driver.join(HANDOVER_SECONDS)
            for conn in list(self._busy):
                conn.hang_up()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT end as SIGTERM does: the Run that is going is handed over."""
        self.handle_exit(sig, frame)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, and let it wait for its first byte without a thread."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._wait_for_files(error)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        conn = Connection(self.cfg, client, address, listener.getsockname())
        conn.timeout = time.monotonic() + FIRST_BYTE_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(client, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _wait_for_files(self, error: OSError) -> None:
        """The connection waits in the backlog; looking for it again at once would only cost time."""
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_SECONDS
            self.log.error("a connection has to wait, no more files can be opened: %s", error.strerror)
        time.sleep(_TICK_SECONDS / 2)

    def enqueue_req(self, conn: Connection) -> None:
        """Give a connection that can be read to the pool."""
        self._busy.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """Take a connection back from the pool."""
        self._busy.discard(conn)
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> bool:
        """In a thread of the pool: read one request, answer it, and see the connection off if that was its last."""
        conn.waiting = time.monotonic(), HEAD_SECONDS
        try:
            keep = bool(super().handle(conn))
        finally:
            conn.waiting = None
        if not keep:
            _linger(conn.sock)
        return keep

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """In a thread of the pool: answer the request, whose head has arrived."""
        conn.waiting = None
        conn.sock.settimeout(IO_SECONDS)
        asked_to_close, body = req.should_close, req.body.reader
        req.should_close = lambda: asked_to_close() or _too_much_left(body)
        req.body.reader = _WatchedBody(body, conn)
        try:
            return bool(super().handle_request(req, conn))
        except TimeoutError:
            self.log.debug("%s does not read its answer", conn.client)
            return False

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what never became a request with a problem document, as all else."""
        if isinstance(exc, ssl.SSLError):
            self.log.debug("TLS with %s failed: %s", addr, exc)
            return
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        detail = "this is a fault of the service; its log tells more"
        if isinstance(exc, http_errors.ParseException):
            status, detail = _STATUSES.get(type(exc), HTTPStatus.BAD_REQUEST), str(exc)[:300]
            self.log.debug("malformed request from %s: %s", addr, exc)
        else:
            self.log.error("error while answering %s", getattr(req, "path", "a request"), exc_info=exc)
        body = encode_json({"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            client.settimeout(LINGER_SECONDS)
            client.sendall(head.encode() + body)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn of the main loop."""
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, _TICK_SECONDS / 2))

    def murder_pending(self) -> None:
        """Each turn: end what has waited too long, or everything when stopping."""
        super().murder_pending()
        now = time.monotonic()
        if not self.alive:
            self._wind_up(now)
        elif now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._hang_up_on_the_slow(now)

    def _hang_up_on_the_slow(self, now: float) -> None:
        waiting = [(conn, *waits) for conn in self._busy if (waits := conn.waiting) is not None]
        crowded = len(waiting) > self.cfg.threads / 2
        for conn, since, patience in waiting:
            if now - since > (CROWDED_SECONDS if crowded else patience):
                conn.hang_up()

    def _wind_up(self, now: float) -> None:
        if self._stopping_since is None:
            self._stopping_since = now
            self.wsgi.extensions["nodeobs"].stop.set()
        for conn in self.pending_conns:
            conn.timeout = 0.0
        super().murder_pending()
        if now - self._stopping_since > STOP_SECONDS:
            self.murder_keepalived(force=True)
            for conn in self._busy:
                conn.hang_up()


def _too_much_left(reader: LengthReader | ChunkedReader) -> bool:
    """Whether more of a body is unread than is worth reading; the answer is then to say that the connection closes."""
    if isinstance(reader, LengthReader):
        return bool(reader.length > DRAIN_BYTES)
    return reader.parser is not None


def _calm_garbage_collection() -> None:
    """Look for garbage less often, and not among what was there at the start.

    A full collection stops every thread: with a thousand agents' connections open for 100 ms, several times a second.
    Less often halves what the slowest requests wait then, and takes no more memory (``bench/crowd.py``).
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


def _linger(sock: socket.socket) -> None:
    """Wait a little for the client to close, so that the end of the answer is not lost to a reset (RFC 9112, 9.6)."""
    try:
        sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + LINGER_SECONDS
        drained = 0
        while drained < LINGER_BYTES and (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(65536)
            if not data:
                return
            drained += len(data)
    except OSError:
        return  # it is closed already
