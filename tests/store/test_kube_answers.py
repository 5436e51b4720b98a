"""What the store makes of an API server that answers as one hopes it never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from nodeobs.errors import InvalidInput, RunInProgress, StoreUnavailable, WatchExpired
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.model import NodeObservability, Phase, Run, replace, to_builtins
from nodeobs.store.base import Change
from nodeobs.store.kube import KubeStore
from tests.builders import make_observability, make_run
from tests.fakes.api_server import Answer, FakeApiServer, Request, status

Open = Callable[[Callable[[Request], Answer]], tuple[KubeStore, FakeApiServer]]

MISSING = Answer(404, status(404, "NotFound", "the server could not find the requested resource"))


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """A store whose API server answers so."""
    with ExitStack() as stack:

        def opened(respond: Callable[[Request], Answer]) -> tuple[KubeStore, FakeApiServer]:
            server = stack.enter_context(FakeApiServer(respond))
            credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
            client = stack.enter_context(closing(KubeClient(credentials)))
            return KubeStore(client, namespace="nodeobs"), server

        yield opened


def document(run: Run, *, revision: int = 1) -> dict[str, Any]:
    run = replace(run, metadata=replace(run.metadata, resource_version=str(revision)))
    found: dict[str, Any] = to_builtins(run)
    return found


def listed(*items: dict[str, Any], revision: int = 7, following: str = "") -> Answer:
    return Answer(body={"metadata": {"resourceVersion": str(revision), "continue": following}, "items": list(items)})


def test_a_list_that_expires_half_way_begins_again(open_store: Open) -> None:
    answers = iter(
        [
            listed(document(make_run("stale")), following="token"),
            Answer(410, status(410, "Expired", "the provided continue parameter is too old")),
            listed(document(make_run("b")), following="token", revision=8),
            listed(document(make_run("a", age=5)), revision=8),
        ]
    )
    store, server = open_store(lambda request: next(answers))
    snapshot = store.snapshot(Run)
    assert [run.metadata.name for run in snapshot.items] == ["a", "b"]
    assert snapshot.revision == "8"
    assert [request.query.get("continue") for request in server.requests] == [None, "token", None, "token"]
    # Consistent: not from a cache, as resourceVersion=0 would be.
    assert all("resourceVersion" not in request.query for request in server.requests)


def test_a_list_that_always_expires_is_given_up(open_store: Open) -> None:
    store, server = open_store(lambda request: Answer(410, status(410, "Expired", "too old")))
    with pytest.raises(StoreUnavailable, match="takes longer"):
        store.list(Run)
    assert len(server.requests) == 5


def test_definitions_that_are_not_installed_are_named(open_store: Open) -> None:
    store, _ = open_store(lambda request: MISSING)
    attempts: list[Callable[[], object]] = [
        lambda: store.list(Run),
        lambda: store.snapshot(NodeObservability),
        lambda: store.create(make_observability()),
        lambda: store.create(make_run()),
        lambda: list(store.watch(Run, "5", stop=threading.Event(), seconds=0)),
    ]
    for attempt in attempts:
        with pytest.raises(StoreUnavailable, match=r"`nodeobs manifests \| kubectl apply"):
            attempt()


def test_definitions_of_an_older_version_are_named(open_store: Open) -> None:
    refusal = Answer(400, status(400, "BadRequest", "field label not supported: status.phase"))
    store, server = open_store(lambda request: refusal)
    with pytest.raises(StoreUnavailable, match="nodeobs manifests"):
        store.list(Run, unfinished=True)
    selector = server.requests[0].query["fieldSelector"].split(",")
    assert set(selector) == {f"status.phase!={phase.value}" for phase in Phase if phase.final}


def test_a_watch_that_ends_at_once_is_not_asked_for_without_a_pause(open_store: Open) -> None:
    store, server = open_store(lambda request: Answer(lines=[]))
    assert list(store.watch(Run, "5", stop=threading.Event(), seconds=2.2)) == []
    assert 2 <= len(server.requests) <= 4


def test_a_watch_goes_on_from_where_it_was_whatever_it_could_read(open_store: Open) -> None:
    unreadable = {"type": "MODIFIED", "object": {"metadata": {"name": "x", "resourceVersion": "6"}, "spec": 1}}
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    good = {"type": "ADDED", "object": document(make_run(), revision=8)}
    first = [[unreadable, good], [bookmark]]

    def respond(request: Request) -> Answer:
        return Answer(lines=first.pop(0)) if first else Answer(410, status(410, "Expired", "too old"))

    store, server = open_store(respond)
    seen: list[Change[Run]] = []
    with pytest.raises(WatchExpired):
        seen.extend(store.watch(Run, "5", stop=threading.Event(), seconds=30))
    assert [request.query["resourceVersion"] for request in server.requests] == ["5", "8", "9"]


def test_a_silent_watch_ends_promptly_when_told_to(open_store: Open) -> None:
    store, server = open_store(lambda request: Answer(lines=[], then="hang"))
    stop = threading.Event()
    ended: list[float] = []

    def follow() -> None:
        assert list(store.watch(Run, "5", stop=stop, seconds=60)) == []
        ended.append(time.monotonic())

    watcher = threading.Thread(target=follow)
    watcher.start()
    while not server.requests:
        time.sleep(0.01)
    told = time.monotonic()
    stop.set()
    watcher.join(30)
    assert ended[0] - told < 2


def test_a_refusal_of_our_own_admission_keeps_its_holder(open_store: Open) -> None:
    cause = {"reason": "ConcurrentRun", "message": "Run a/b is Running", "field": "a/b"}
    refusal = status(409, "Conflict", "denied") | {"details": {"causes": [cause]}}
    store, _ = open_store(lambda request: Answer(409, refusal))
    with pytest.raises(RunInProgress, match="Run a/b is Running") as caught:
        store.create(make_run())
    assert caught.value.holder == "a/b"


def test_an_answer_that_is_no_object_is_not_taken_for_one(open_store: Open) -> None:
    store, _ = open_store(lambda request: Answer(body=b"<html>"))
    for attempt in (
        lambda: store.get(Run, "run-1", "nodeobs"),
        lambda: store.list(Run),
        lambda: store.create(make_run()),
    ):
        with pytest.raises(StoreUnavailable):
            attempt()
    with pytest.raises(InvalidInput):
        store.create(make_run(duration_seconds=0))
