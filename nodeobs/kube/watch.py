"""Following what changes at the API server: one watch, and a memory of a whole kind that is kept up to date."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
import structlog

from nodeobs.errors import InvalidInput, NodeobsError, StoreUnavailable, WatchExpired
from nodeobs.kube.backoff import STEADY_SECONDS, Backoff
from nodeobs.kube.client import KubeClient, Status, Stream, failure_of, read_answer

log = structlog.get_logger(__name__)

T = TypeVar("T")

BOOKMARK: Final = "BOOKMARK"
DELETED: Final = "DELETED"

_GRACE_SECONDS = 5.0
_STOP_SECONDS = 0.1
_QUEUED = 256
_PAGE = 500
_WATCH_SECONDS = 300.0
_JOIN_SECONDS = 1.0


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """What names an object, and the revision it has."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Head(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


class WatchEvent(NamedTuple):
    """One event of a watch."""

    type: str
    """``ADDED``, ``MODIFIED``, ``DELETED``; or ``BOOKMARK``, whose object has nothing but the revision."""
    object: bytes
    """JSON; of a deleted object its last state, with the revision of the deletion."""
    revision: str
    """To watch on from after this event."""


class Page(NamedTuple):
    """Part of a list."""

    items: tuple[bytes, ...]
    """JSON of each object. The API server leaves ``kind`` and ``apiVersion`` out of the items of built-in kinds."""
    revision: str
    """Of the whole list; to watch on from."""


def list_pages(
    client: KubeClient, path: str, params: Mapping[str, str] | None = None, *, limit: int = _PAGE
) -> Iterator[Page]:
    """A consistent list of everything at ``path``, ``limit`` objects at a time; at least one page.

    Raises:
        WatchExpired: it took so long that the rest is no longer kept: begin again.
        StoreUnavailable: a retry can help.
    """
    following = ""
    while True:
        asked = {**(params or {}), "limit": str(limit)} | ({"continue": following} if following else {})
        page = read_answer(client.get(path, asked), _Page)
        yield Page(tuple(bytes(item) for item in page.items or ()), page.metadata.resource_version)
        following = page.metadata.continue_
        if not following:
            return


def watch_events(
    client: KubeClient,
    path: str,
    since: str,
    *,
    params: Mapping[str, str] | None = None,
    seconds: float,
    stop: threading.Event,
) -> Iterator[WatchEvent]:
    """What changed at ``path`` after revision ``since``, in order, and bookmarks.

    Ends after ``seconds`` (rounded up to whole seconds, at least one), when ``stop`` is set (within 0.2 s, whatever
    the API server does), or when the server ends it, which it may at any time.

    Raises:
        WatchExpired: the changes since then are no longer kept: list again.
        StoreUnavailable: the watch broke, or cannot be had now.
        NotFound: nothing of that kind is served.
    """
    whole = max(1, math.ceil(seconds))
    asked = {
        **(params or {}),
        "watch": "true",
        "resourceVersion": since,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(whole),
    }
    until = time.monotonic() + whole + _GRACE_SECONDS
    reader = _Reader(client, path, asked, silence=whole + _GRACE_SECONDS)
    try:
        while not stop.is_set() and time.monotonic() < until:
            try:
                line = reader.lines.get(timeout=_STOP_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                return
            if isinstance(line, Exception):
                raise line
            yield _event(line)
    finally:
        reader.leave()


class _Reader:
    """Reads one watch in a thread of its own, so that whoever waits for it can leave at any time."""

    def __init__(self, client: KubeClient, path: str, params: Mapping[str, str], *, silence: float) -> None:
        self._client = client
        self._path = path
        self._params = params
        self._silence = silence
        self._left = threading.Event()
        self._stream: Stream | None = None
        self.lines: queue.Queue[bytes | Exception | None] = queue.Queue(_QUEUED)
        """Lines, then None at the end or what went wrong."""
        threading.Thread(target=self._read, name=f"watch {path}", daemon=True).start()

    def leave(self) -> None:
        """End it; the thread ends by itself, at the latest with its time limit for connecting."""
        self._left.set()
        if self._stream is not None:
            self._stream.hang_up()
        while not self.lines.empty():  # it may be waiting for room
            self.lines.get()

    def _read(self) -> None:
        outcome: Exception | None = None
        try:
            with self._client.stream(self._path, self._params, silence=self._silence) as self._stream:
                lines = self._stream.lines()
                # Looked at before the first line as well: it may have been left before there was a stream to hang up.
                while not self._left.is_set() and (line := next(lines, None)) is not None:
                    self.lines.put(line)
        except Exception as error:  # noqa: BLE001 - a thread's edge: raised again by whoever reads the queue
            outcome = error
        if not self._left.is_set():
            self.lines.put(outcome)


def _event(line: bytes) -> WatchEvent:
    event = read_answer(line, _Line)
    if event.type == "ERROR":
        error = failure_of(status := read_answer(event.object, Status), status.code)
        raise error if isinstance(error, WatchExpired) else StoreUnavailable(f"the watch was ended: {error}")
    return WatchEvent(event.type, bytes(event.object), metadata_of(event.object).resource_version)


def metadata_of(document: bytes | msgspec.Raw) -> ObjectMeta:
    """Name, namespace and revision of an object in JSON.

    Raises:
        StoreUnavailable: it is no object.
    """
    return read_answer(document, _Head).metadata


def _ignore() -> None:
    return


class Failing(NamedTuple):
    """A Reflector that cannot follow."""

    since: float
    """By the monotonic clock."""
    error: NodeobsError
    """What the last attempt came to."""


class Reflector(Generic[T]):
    """All objects at a path, decoded, in memory, a moment behind the API server.

    A thread of its own lists and then watches, for as long as it takes: whatever fails is tried again, after a pause
    that grows to 30 s. Until it has listed once, and only until then, reading raises StoreUnavailable.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        decode: Callable[[bytes], T],
        *,
        params: Mapping[str, str] | None = None,
        randomness: Random,
        changed: Callable[[], None] = _ignore,
    ) -> None:
        """``decode`` raises InvalidInput for an object that is to be left out.

        ``params`` are those of list and watch, such as a ``fieldSelector``; what it selects no more is gone.
        ``changed`` is called, in the thread that follows, when what was decoded is another than before; again after a
        pause where it raises.
        """
        self._client = client
        self._path = path
        self._decode = decode
        self._params = params
        self._randomness = randomness
        self._changed = changed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], T] | None = None
        self._since = ""
        """Revision to watch from; empty: list first."""
        self._untold = False
        """Whether ``changed`` is still to be called: it has failed, and is called again until it does not."""
        self._watching = False
        self._began = 0.0
        """When the attempt that goes on began, by the monotonic clock."""
        self._failing: Failing | None = None
        self._thread = threading.Thread(target=self._run, name=f"reflector {path}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End, within a second."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    @property
    def has_synced(self) -> bool:
        """Whether it has listed once."""
        return self._objects is not None

    @property
    def is_current(self) -> bool:
        """Whether it has listed and is watching: what it knows is a moment old at most, as far as one can tell."""
        return self._watching

    @property
    def failing(self) -> Failing | None:
        """Since when every attempt has failed at once; None where the last one went well, or this one seems to."""
        steady = self._watching and time.monotonic() - self._began >= STEADY_SECONDS
        return None if steady else self._failing

    def items(self) -> tuple[T, ...]:
        """All objects, in no particular order.

        Raises:
            StoreUnavailable: not listed yet.
        """
        with self._lock:
            return tuple(self._known().values())

    def get(self, name: str, namespace: str = "") -> T | None:
        """The object of that name, or None.

        Raises:
            StoreUnavailable: not listed yet.
        """
        with self._lock:
            return self._known().get((namespace, name))

    def _known(self) -> dict[tuple[str, str], T]:
        if self._objects is None:
            raise StoreUnavailable(f"{self._path} has not been listed yet; try again in a moment")
        return self._objects

    def _run(self) -> None:
        backoff = Backoff(self._randomness)
        while not self._stop.is_set():
            self._began = time.monotonic()
            failure: NodeobsError | None = None
            try:
                self._follow()
            except WatchExpired:
                log.info("changes are no longer kept, listing again", path=self._path)
                self._since = ""
            except NodeobsError as error:
                log.warning("cannot follow the API server, trying again", path=self._path, error=str(error))
                failure = error
            except Exception:  # a thread's edge
                log.exception("following the API server failed, listing again", path=self._path)
                self._since = ""
            self._watching = False
            lasted = time.monotonic() - self._began
            self._note(failure, lasted)
            self._stop.wait(backoff.after(lasted))

    def _note(self, failure: NodeobsError | None, lasted: float) -> None:
        if failure is None:
            self._failing = None
        elif self._failing is None or lasted >= STEADY_SECONDS:
            self._failing = Failing(time.monotonic(), failure)
        else:
            self._failing = Failing(self._failing.since, failure)

    def _follow(self) -> None:
        """List where needed, then watch until the watch ends."""
        if not self._since:
            self._list()
        self._tell()
        seconds = _WATCH_SECONDS * self._randomness.uniform(1.0, 2.0)
        self._watching = True
        for event in watch_events(
            self._client, self._path, self._since, params=self._params, seconds=seconds, stop=self._stop
        ):
            if event.type != BOOKMARK:
                self._apply(event)
            self._since = event.revision

    def _list(self) -> None:
        found: dict[tuple[str, str], T] = {}
        revision = ""
        for page in list_pages(self._client, self._path, self._params):
            revision = page.revision
            for document in page.items:
                self._put(found, document, metadata_of(document))
        with self._lock:
            before, self._objects = self._objects, found
        self._since = revision
        self._untold |= found != before

    def _apply(self, event: WatchEvent) -> None:
        meta = metadata_of(event.object)
        key = meta.namespace, meta.name
        with self._lock:
            objects = self._known()
            before = objects.get(key)
            if event.type == DELETED:
                objects.pop(key, None)
            else:
                self._put(objects, event.object, meta)
            after = objects.get(key)
        self._untold |= after != before
        self._tell()

    def _tell(self) -> None:
        if self._untold:
            self._changed()
            self._untold = False

    def _put(self, objects: dict[tuple[str, str], T], document: bytes, meta: ObjectMeta) -> None:
        key = meta.namespace, meta.name
        try:
            objects[key] = self._decode(document)
        except InvalidInput as error:
            objects.pop(key, None)
            log.warning("an object is left out", path=self._path, name=meta.name, reason=str(error))
