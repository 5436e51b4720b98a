"""Real work for the profiled processes, so that there is something to see: scrapes, lists, redelivered alerts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx


class Request(NamedTuple):
    """One request of the work; sent again and again."""

    kind: str
    method: str
    url: str
    token: str
    body: dict[str, Any] | None = None


class Work:
    """Sends its requests in turn, ``rate`` a second, while the ``with`` block lasts."""

    def __init__(self, requests: Sequence[Request], *, rate: float) -> None:
        self._requests = requests
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-work", daemon=True)
        self.answered: Counter[str] = Counter()
        """By kind and status."""
        self.unanswered = 0

    def __enter__(self) -> Work:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def document(self) -> dict[str, int]:
        """What was answered, and ``unanswered``."""
        return dict(self.answered) | {"unanswered": self.unanswered}

    def _run(self) -> None:
        due = time.monotonic()
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            while True:
                for request in self._requests:
                    due = max(due + self._pause, time.monotonic() - 1.0)
                    if self._stop.wait(max(0.0, due - time.monotonic())):
                        return
                    self._send(client, request)

    def _send(self, client: httpx.Client, request: Request) -> None:
        try:
            answer = client.request(
                request.method, request.url, json=request.body, headers={"Authorization": f"Bearer {request.token}"}
            )
        except httpx.TransportError:  # the agent that is killed, for one
            self.unanswered += 1
            return
        self.answered[f"{request.kind}: {answer.status_code}"] += 1
