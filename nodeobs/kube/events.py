"""Events on Runs, as ``kubectl describe`` shows them: written on the side, never in the way."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import structlog

from nodeobs.errors import AlreadyExists, Conflict, NodeobsError, NotFound, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import EVENTS
from nodeobs.model import API_VERSION, Run
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES: Final = 1024
COMPONENT: Final = "nodeobs"

_WAITING = 256
_KEPT = timedelta(minutes=5)
_ANSWER_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_LONGEST_PREFIX = 230
_LONGEST_INSTANCE = 128
_TRIES = 3


@dataclass(frozen=True)
class _Event:
    run: Run
    type: str
    reason: str
    message: str
    at: datetime


class EventRecorder:
    """Writes Events (core/v1) in a thread of its own.

    The same thing said again about a Run, by whichever process, is one Event that counts. While the API server cannot
    be reached, what was recorded waits: the last 256, for five minutes.
    """

    def __init__(self, client: KubeClient, *, now: Callable[[], datetime], instance: str) -> None:
        """``instance`` is this process's name among its replicas."""
        self._client = client
        self._now = now
        self._instance = instance[:_LONGEST_INSTANCE]
        self._news = threading.Condition()
        self._waiting: deque[_Event] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)

    def start(self) -> None:
        """Begin to write; what was recorded before is not lost."""
        self._thread.start()

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, if that can be done at once, for at most so many seconds."""
        with self._news:
            self._closing.set()
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def record(self, run: Run, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:  # noqa: A002 - the field's name
        """Have it written. Never waits and never raises; ``message`` is cut to 1024 bytes."""
        event = _Event(run, type, reason, message, self._now())
        with self._news:
            if len(self._waiting) >= _WAITING:
                _log_lost(self._waiting.popleft(), "too many others wait")
            self._waiting.append(event)
            self._news.notify_all()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while (event := self._next()) is not None:
            if self._settled(event):
                pause = _FIRST_PAUSE
                continue
            with self._news:
                self._waiting.append(event)  # behind the others: what is wrong may be wrong with this one only
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _next(self) -> _Event | None:
        """The next one as soon as there is one; None when there is none and none is to be waited for."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._closing.is_set())
            return self._waiting.popleft() if self._waiting else None

    def _settled(self, event: _Event) -> bool:
        """Write it; False when it is to be tried again."""
        try:
            self._write(event)
        except StoreUnavailable as error:
            if not self._closing.is_set() and self._now() - event.at < _KEPT:
                return False
            _log_lost(event, str(error))
        except NodeobsError as error:
            _log_lost(event, str(error))
        except Exception:  # a thread's edge
            log.exception("writing an Event failed", run=event.run.key, reason=event.reason)
        return True

    def _write(self, event: _Event) -> None:
        new = self._new(event)
        name, namespace = new["metadata"]["name"], new["metadata"]["namespace"]
        for _ in range(_TRIES):
            try:
                self._client.request("POST", EVENTS.collection(namespace), new, seconds=_ANSWER_SECONDS)
            except AlreadyExists:
                try:
                    self._count(EVENTS.item(name, namespace), new["lastTimestamp"])
                except (Conflict, NotFound):  # another replica says the same; or the old one expired just now
                    continue
            return
        _log_lost(event, "others write the same one")

    def _count(self, path: str, last: str) -> None:
        known = decode(self._client.get(path, seconds=_ANSWER_SECONDS), dict[str, Any])
        known["count"] = (known.get("count") or 1) + 1
        known["lastTimestamp"] = last
        self._client.request("PUT", path, known, seconds=_ANSWER_SECONDS)

    def _new(self, event: _Event) -> dict[str, Any]:
        data = event.run.metadata
        message = _cut(event.message)
        said = f"{data.uid}\0{event.type}\0{event.reason}\0{message}"
        # The same for what is said again, so that the API server finds out.
        suffix = hashlib.sha256(said.encode()).hexdigest()[:16]
        instant = event.at.replace(microsecond=0).isoformat().replace("+00:00", "Z")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{data.name[:_LONGEST_PREFIX].rstrip('-.')}.{suffix}",
                "namespace": data.namespace,
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": Run.KIND,
                "name": data.name,
                "namespace": data.namespace,
                "uid": data.uid,
                "resourceVersion": data.resource_version,
            },
            "type": event.type,
            "reason": event.reason,
            "message": message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": instant,
            "lastTimestamp": instant,
            "count": 1,
        }


def _cut(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MAX_MESSAGE_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _log_lost(event: _Event, why: str) -> None:
    log.warning("an Event is not written", run=event.run.key, reason=event.reason, error=why)
