"""Requests to the API server: JSON in, JSON out, every failure one of our errors."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import httpx
import msgspec

from nodeobs.errors import (
    AlreadyExists,
    ConfigurationError,
    Conflict,
    InvalidInput,
    NodeobsError,
    NotFound,
    RunInProgress,
    StoreDenied,
    StoreUnavailable,
    WatchExpired,
)
from nodeobs.kube.lane import Lane
from nodeobs.typed import decode

if TYPE_CHECKING:
    # Not when the program runs: the kubernetes package takes 30 MB, and only a cluster needs it.
    from nodeobs.kube.credentials import Credentials

D = TypeVar("D")

CONCURRENT_RUN: Final = "ConcurrentRun"
"""Cause that our own admission webhook gives for a second Run; its field is the holder's ``namespace/name``."""

_KINDS: Final[Mapping[int, type[NodeobsError]]] = {
    400: InvalidInput,
    404: NotFound,
    409: Conflict,
    410: WatchExpired,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
}
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_WHOLE_FACTOR = 4
_ATTEMPTS = 3
_MAX_ANSWER = 256 << 20
"""Bytes; a list of 5,000 nodes in one piece has some 100 MB."""
_MAX_LINE = 32 << 20
_BROKEN_EARLY = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""As when the API server has closed a connection that was kept."""


class Cause(msgspec.Struct, frozen=True):
    """One detail of a failure (metav1.StatusCause)."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True):
    """What a failure is about (metav1.StatusDetails)."""

    causes: tuple[Cause, ...] | None = None


class Status(msgspec.Struct, frozen=True):
    """A failure as the API server tells it (metav1.Status)."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


class Stream:
    """Lines of an answer that goes on, such as a watch; :meth:`hang_up` ends it from another thread."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._hung_up = threading.Event()

    def lines(self) -> Iterator[bytes]:
        """Every line, without its end. Ends when the server ends it, or it is hung up.

        Raises:
            StoreUnavailable: the connection broke, nothing came for too long, or a line was too long.
        """
        rest = bytearray()
        try:
            for chunk in self._response.iter_bytes():
                first, *others = chunk.split(b"\n")
                rest += first
                if len(rest) > _MAX_LINE:
                    raise StoreUnavailable(f"a line of the API server's answer is longer than {_MAX_LINE >> 20} MiB")
                if others:
                    yield from filter(None, (bytes(rest), *others[:-1]))
                    rest = bytearray(others[-1])
        except httpx.HTTPError as error:
            if not self._hung_up.is_set():
                raise StoreUnavailable(
                    f"the API server's answer to {self._response.url.path} broke off: {_text(error)}"
                ) from error

    def hang_up(self) -> None:
        """End the stream for whoever reads it. May be called from any thread, and twice."""
        self._hung_up.set()
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                # Not SSLSocket's own, which would take its state away from the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class KubeClient:
    """The API server. Safe to be used from many threads; close it when done.

    A GET whose connection turns out to be closed is sent once more: a server that restarts closes those that were
    kept. Sent again is also what it refuses with a Retry-After (429, 503), or with 401 where our credentials have
    changed meanwhile.

    Raises (every call):
        NotFound, AlreadyExists, Conflict, WatchExpired: as the API server says (404, 409, 410).
        InvalidInput: the object is not acceptable to it (400, 422), or an admission webhook refuses it.
        RunInProgress: our admission webhook refuses a second Run.
        StoreUnavailable: it cannot be reached, or is overloaded; a retry can help. StoreDenied: it refuses our
            credentials, or they lack the right.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        pause: Callable[[float], None] = time.sleep,
        max_answer: int = _MAX_ANSWER,
    ) -> None:
        """``max_answer`` bounds an answer, in bytes.

        Raises:
            ConfigurationError: the API server's address or proxy cannot be used.
        """
        self.credentials = credentials
        self._pause = pause
        self._max_answer = max_answer
        self._lock = threading.Lock()
        self._closed = False
        self._lane = Lane(credentials.endpoint())

    def get(self, path: str, params: Mapping[str, str] | None = None, *, seconds: float = _ANSWER_SECONDS) -> bytes:
        """GET a path such as ``/api/v1/nodes``; the answer's body."""
        return self.request("GET", path, params=params, seconds=seconds)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        seconds: float = _ANSWER_SECONDS,
    ) -> bytes:
        """One request, its ``body`` (anything msgspec encodes) sent as JSON; the answer's body.

        ``seconds`` bounds each wait: to connect, and for the next byte. An answer that dribbles in for four times as
        long is given up.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"content-type": content_type}
        until = time.monotonic() + _WHOLE_FACTOR * seconds
        timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._send(method, path, params, content, headers, timeout) as answer:
                    whole = self._whole(answer, until)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if attempt == 1 and method == "GET" and isinstance(error, _BROKEN_EARLY):
                    continue
                raise _unreachable(self.credentials.server, error) from error
            if answer.is_success:
                return whole
            if attempt == _ATTEMPTS or not self._may_help(answer, until):
                break
        raise failure(answer.status_code, whole)

    @contextmanager
    def stream(self, path: str, params: Mapping[str, str] | None = None, *, silence: float) -> Iterator[Stream]:
        """A GET whose answer goes on; nothing for ``silence`` seconds is taken for a broken connection."""
        timeout = httpx.Timeout(silence, connect=_CONNECT_SECONDS, pool=_CONNECT_SECONDS)
        try:
            with self._send("GET", path, params, None, {}, timeout) as answer:
                if not answer.is_success:
                    if answer.status_code == 401:
                        self.credentials.renew(answer.request.headers.get("authorization", ""))
                    raise failure(answer.status_code, self._whole(answer, time.monotonic() + _ANSWER_SECONDS))
                yield Stream(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.credentials.server, error) from error

    def close(self) -> None:
        """Close the connections; later requests fail."""
        with self._lock:
            self._closed = True
        self._lane.close()

    @contextmanager
    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
    ) -> Iterator[httpx.Response]:
        try:
            token = self.credentials.token()
            lane = self._enter_lane()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error
        try:
            with lane.stream(
                method,
                path,
                params=params,
                content=content,
                headers={**headers, **({"authorization": token} if token else {})},
                timeout=timeout,
            ) as answer:
                yield answer
        finally:
            self._leave_lane(lane)

    def _enter_lane(self) -> Lane:
        """The connections to what the credentials name now; earlier ones stay open until nobody uses them."""
        endpoint = self.credentials.endpoint()
        retired = None
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the client for the API server is closed")
            if endpoint is not self._lane.endpoint:
                retired, self._lane = self._lane, Lane(endpoint)
            lane = self._lane
            lane.users += 1
            unused = retired is not None and retired.users == 0
        if retired is not None and unused:
            retired.close()
        return lane

    def _leave_lane(self, lane: Lane) -> None:
        with self._lock:
            lane.users -= 1
            unused = lane.users == 0 and lane is not self._lane
        if unused:
            lane.close()

    def _may_help(self, answer: httpx.Response, until: float) -> bool:
        """Whether to send the request again after this refusal; waits as long as the answer asks for."""
        if answer.status_code == 401:
            return self.credentials.renew(answer.request.headers.get("authorization", ""))
        wait = answer.headers.get("retry-after", "")
        if answer.status_code not in (429, 503) or not wait.isdecimal() or time.monotonic() + int(wait) >= until:
            return False
        self._pause(int(wait))
        return True

    def _whole(self, answer: httpx.Response, until: float) -> bytes:
        whole = bytearray()
        for chunk in answer.iter_bytes():
            whole += chunk
            if len(whole) > self._max_answer:
                raise StoreUnavailable(
                    f"the API server's answer to {answer.url.path} is longer than {self._max_answer} bytes"
                )
            if time.monotonic() > until:
                raise StoreUnavailable(f"the API server's answer to {answer.url.path} does not come to an end")
        return bytes(whole)


def read_answer(answer: bytes | msgspec.Raw, kind: type[D], what: str = "answer") -> D:
    """What the API server answered, its ``what``, as a ``kind``.

    Raises:
        StoreUnavailable: it is none; as of something between.
    """
    try:
        return decode(answer, kind)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"the API server's {what} cannot be read: {error}") from error


def failure(code: int, body: bytes) -> NodeobsError:
    """Our error for the API server's answer of that HTTP status."""
    try:
        status = decode(body, Status)
    except msgspec.DecodeError:
        status = Status(message=body[:500].decode(errors="replace").strip())
    return failure_of(status, code)


def failure_of(status: Status, code: int) -> NodeobsError:
    """Our error for a Status, ``code`` being the HTTP status it came with."""
    message = status.message or f"the API server answered {code} {status.reason}".rstrip()
    causes = (status.details.causes if status.details else None) or ()
    concurrent = next((cause for cause in causes if cause.reason == CONCURRENT_RUN), None)
    if concurrent is not None:
        return RunInProgress(concurrent.message or message, holder=concurrent.field)
    if code == 409 and status.reason == "AlreadyExists":
        return AlreadyExists(message)
    if code == 401:
        return StoreDenied(f"the API server does not accept the credentials: {message}")
    if code == 403:
        return StoreDenied(f"the API server does not let nodeobs do this: {message}")
    if code in _KINDS:
        return _KINDS[code](message)
    return StoreUnavailable(f"the API server cannot answer: {message}")


def _unreachable(server: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"the API server at {server} cannot be reached: {_text(error)}")


def _text(error: Exception) -> str:
    # Without the line of C that Python's ssl met it in.
    return re.sub(r"^_ssl\.c:\d+: | \(_ssl\.c:\d+\)", "", str(error)) or type(error).__name__
