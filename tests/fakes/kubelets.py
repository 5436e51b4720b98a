"""Kubelets behind a fake API server's node proxy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.fakes.agent_simulator import tiny_profile
from tests.fakes.api_server import Answer, Request, status

TRACE = b"go 1.26 trace\x00\x00\x00"
PROXY = "/api/v1/nodes/{node}/proxy/debug/pprof/"

Say = Callable[[Request], Answer]


def profile(request: Request) -> Answer:
    """What a kubelet that is well answers, after the time that it takes."""
    time.sleep(float(request.query.get("seconds", "0")))
    return Answer(body=TRACE if request.path.endswith("/trace") else tiny_profile())


class Kubelets:
    """Answers of an API server with these nodes; ``say`` has what a node's kubelet, or the API server, says instead."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes
        self.say: dict[str, Say] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        """What a node has beside its name."""
        self._lock = threading.Lock()
        self.profiling: set[tuple[str, str]] = set()
        """Node and profile of what is going on now."""
        self.together: set[frozenset[tuple[str, str]]] = set()
        """What went on at the same time."""

    def __call__(self, request: Request) -> Answer:
        if request.path == "/api/v1/nodes":
            items = [{"metadata": {"name": name, "labels": {}}, **self.rows.get(name, {})} for name in self.nodes]
            return Answer(body={"metadata": {"resourceVersion": "1"}, "items": items})
        node, profile_name = of(request)
        if node not in self.nodes:
            return Answer(404, status(404, "NotFound", f'nodes "{node}" not found'))
        with self._lock:
            self.profiling.add((node, profile_name))
            self.together.add(frozenset(self.profiling))
        try:
            return self.say.get(node, profile)(request)
        finally:
            with self._lock:
                self.profiling.discard((node, profile_name))


def of(request: Request) -> tuple[str, str]:
    """Node and profile that a request is about."""
    parts = request.path.split("/")
    assert parts[:4] == ["", "api", "v1", "nodes"], request.path
    assert parts[5:8] == ["proxy", "debug", "pprof"], request.path
    return parts[4], parts[8]


def text(code: int, said: str) -> Say:
    """A kubelet's own answer."""
    return lambda _: Answer(code, f"{said}\n".encode(), {"content-type": "text/plain"})


def told(code: int, reason: str, message: str) -> Say:
    """The API server's own answer."""
    return lambda _: Answer(code, status(code, reason, message))
