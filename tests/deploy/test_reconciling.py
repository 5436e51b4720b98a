"""Rounds against an API server of the test's own making: what goes wrong in the middle of one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.deploy import reconciler, rounds
from nodeobs.deploy.reconciler import Reconciler
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.paths import OBSERVABILITIES
from nodeobs.metrics import Metrics
from nodeobs.model import to_builtins
from nodeobs.store.kube import KubeStore
from tests.agents.driving import connector
from tests.deploy.documents import NAMESPACE, config, observability
from tests.fakes.api_server import Answer, FakeApiServer, Request, status
from tests.processes import wait_for

Respond = Callable[[Request], Answer | None]


@contextmanager
def reconciling(
    folder: Path,
    *names: str,
    respond: Respond,
    changes: Callable[[], Iterable[object]] = tuple,
    denied: Callable[[Request], bool] = lambda _request: False,
) -> Iterator[tuple[FakeApiServer, threading.Event]]:
    """A reconciler of these NodeObservabilities; ``respond`` answers what is neither a list nor a watch.

    ``changes`` are the events of the NodeObservabilities' watch; ``denied`` requests are refused for lack of rights.
    """
    items = [dict[str, Any](to_builtins(observability(name))) for name in names]

    def answer(request: Request) -> Answer:
        if denied(request):
            return Answer(403, status(403, "Forbidden", f"you may not read {request.path}"))
        if request.query.get("watch"):
            lines = changes() if request.path == OBSERVABILITIES.collection() else ()
            return Answer(lines=lines, then="hang")
        if "limit" in request.query:
            found = items if request.path == OBSERVABILITIES.collection() else []
            return Answer(body={"metadata": {"resourceVersion": "1"}, "items": found})
        return respond(request) or Answer(404, status(404, "NotFound", "not found"))

    stop = threading.Event()
    with FakeApiServer(answer) as server:
        client = KubeClient(load_credentials(kubeconfig=server.kubeconfig(folder / "kubeconfig"), environ={}))
        made = Reconciler(
            client,
            store=KubeStore(client, namespace=NAMESPACE),
            config=config(),
            connector=connector(),
            kubelet_ca_file=None,
            metrics=Metrics(CollectorRegistry()),
            now=lambda: datetime.now(UTC),
            randomness=Random(1),
        )
        thread = threading.Thread(target=made.run, args=(stop,))
        thread.start()
        try:
            yield server, stop
        finally:
            stop.set()
            thread.join(10)
            client.close()


def test_who_leads_no_more_writes_for_no_other(tmp_path: Path) -> None:
    stopped = threading.Event()

    def respond(request: Request) -> Answer | None:
        if request.method != "PATCH":
            return None
        stop.set()
        stopped.set()
        return Answer(body={})

    with reconciling(tmp_path, "first", "second", respond=respond) as (server, stop):
        assert stopped.wait(10)
    written = [request.path for request in server.asked("PATCH")]
    assert len(written) == 5
    assert all("first" in path for path in written), written


def test_nothing_is_kept_of_one_that_is_gone(tmp_path: Path) -> None:
    gone, back = threading.Event(), threading.Event()

    def changes() -> Iterator[dict[str, Any]]:
        document = to_builtins(observability("first"))
        gone.wait(10)
        yield {"type": "DELETED", "object": document}
        back.wait(10)
        yield {"type": "ADDED", "object": document}

    def secrets() -> list[str]:
        return [json.loads(one.body)["data"]["tls.crt"] for one in server.asked("PATCH") if "secrets" in one.path]

    def respond(request: Request) -> Answer | None:
        return Answer(body={}) if request.method == "PATCH" else None

    with reconciling(tmp_path, "first", respond=respond, changes=changes) as (server, _):
        wait_for("the first is made", lambda: len(secrets()) == 1)
        gone.set()
        time.sleep(2.5)  # a round without it
        back.set()
        wait_for("it is made again", lambda: len(secrets()) == 2, seconds=10)
        assert len(set(secrets())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False], ids=["from the start", "later"])
def test_what_may_not_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    monkeypatch.setattr(reconciler, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(rounds, "_LOOK_SECONDS", 1.0)
    denying = threading.Event()
    if at_once:
        denying.set()
    said: list[tuple[str, str, str]] = []

    document = dict[str, Any](to_builtins(observability("first")))

    def respond(request: Request) -> Answer | None:
        if request.path == OBSERVABILITIES.item("first"):
            return Answer(body=document)
        if not request.path.endswith("/status"):
            return Answer(body={}) if request.method == "PATCH" else None
        (ready,) = json.loads(request.body)["status"]["conditions"]
        said.append((ready["status"], ready["reason"], ready["message"]))
        return Answer(body=document)

    def denied(request: Request) -> bool:
        return denying.is_set() and request.path.endswith("/daemonsets")

    with reconciling(tmp_path, "first", respond=respond, denied=denied) as (server, _):
        if not at_once:
            wait_for("all is looked at", lambda: said)
            assert said[-1][1] != "Unknown"
            denying.set()
            server.drop_connections()
        wait_for("it is told", lambda: said and said[-1][:2] == ("Unknown", "Unknown"), seconds=70)
        assert said[-1][2].startswith("what there is in the cluster cannot be followed: ")
        assert "/daemonsets" in said[-1][2]
        denying.clear()
        wait_for("it is looked at again", lambda: said[-1][1] != "Unknown", seconds=60)
