"""Requests to the API server: JSON in, JSON out, every failure one of our errors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from nodeobs import __version__
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

if TYPE_CHECKING:
    # Not when the program runs: the kubernetes package takes 30 MB, and only a cluster needs it.
    from nodeobs.kube.credentials import Credentials

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
_POOL = 64
_MAX_ERROR = 1 << 20


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
            StoreUnavailable: the connection broke, or nothing came for too long.
        """
        rest = b""
        try:
            for chunk in self._response.iter_bytes():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from filter(None, whole)
        except httpx.HTTPError as error:
            if not self._hung_up.is_set():
                raise _unreachable(str(self._response.url), error) from error

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

    Raises (every call):
        NotFound, AlreadyExists, Conflict, WatchExpired: as the API server says (404, 409, 410).
        InvalidInput: the object is not acceptable to it (400, 422), or an admission webhook refuses it.
        RunInProgress: our admission webhook refuses a second Run.
        StoreUnavailable: it cannot be reached, or is overloaded; a retry can help. StoreDenied: it refuses our
            credentials, or they lack the right.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._lock = threading.Lock()
        self._context = credentials.context()
        self._http = self._make()
        self._retired: list[httpx.Client] = []

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
        """One request, its ``body`` (anything msgspec encodes) sent as JSON; the answer's body."""
        content = None if body is None else msgspec.json.encode(body)
        headers = self._headers() | ({"content-type": content_type} if content is not None else {})
        timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
        try:
            answer = self._client().request(
                method, path, content=content, params=params, headers=headers, timeout=timeout, extensions=self._sni()
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.credentials.server, error) from error
        if not answer.is_success:
            raise failure(answer.status_code, answer.content)
        return answer.content

    @contextmanager
    def stream(self, path: str, params: Mapping[str, str] | None = None, *, silence: float) -> Iterator[Stream]:
        """A GET whose answer goes on; nothing for ``silence`` seconds is taken for a broken connection."""
        timeout = httpx.Timeout(silence, connect=_CONNECT_SECONDS)
        try:
            with self._client().stream(
                "GET", path, params=params, headers=self._headers(), timeout=timeout, extensions=self._sni()
            ) as answer:
                if not answer.is_success:
                    raise failure(answer.status_code, answer.read()[:_MAX_ERROR])
                yield Stream(answer)
        except httpx.HTTPError as error:
            raise _unreachable(self.credentials.server, error) from error

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in (self._http, *self._retired):
                client.close()

    def _headers(self) -> dict[str, str]:
        try:
            token = self.credentials.token()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error
        return {"authorization": token} if token else {}

    def _sni(self) -> dict[str, Any]:
        name = self.credentials.server_name
        return {"sni_hostname": name} if name else {}

    def _client(self) -> httpx.Client:
        """The client; a new one when the certificates have changed, the old one serving what is open."""
        try:
            context = self.credentials.context()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error
        with self._lock:
            if context is not self._context:
                self._context = context
                self._retired = [*self._retired[-1:], self._http]
                self._http = self._make()
            return self._http

    def _make(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.credentials.server,
            verify=self._context,
            headers={"accept": "application/json", "user-agent": f"nodeobs/{__version__}"},
            limits=httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL, keepalive_expiry=30),
            trust_env=True,
        )


def failure(code: int, body: bytes) -> NodeobsError:
    """Our error for the API server's answer of that HTTP status."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = Status(message=body[:500].decode(errors="replace"))
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
    if code in (401, 403):
        return StoreDenied(f"the API server does not let nodeobs do this: {message}")
    if code in _KINDS:
        return _KINDS[code](message)
    return StoreUnavailable(f"the API server cannot answer: {message}")


def _unreachable(server: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"the API server at {server} cannot be reached: {error or type(error).__name__}")
