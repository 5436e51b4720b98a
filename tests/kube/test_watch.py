"""Watches end when they should, and what is kept in memory follows the API server through all that befalls it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest

from nodeobs.errors import InvalidInput, NotFound, StoreUnavailable, WatchExpired
from nodeobs.kube.backoff import Backoff
from nodeobs.kube.client import KubeClient
from nodeobs.kube.watch import Reflector, list_pages, watch_events
from tests.fakes.api_server import Answer, FakeApiServer, Request, event, page, status
from tests.kube.conftest import Serve
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

PATH = "/api/v1/configmaps"


def never() -> threading.Event:
    return threading.Event()


def watch(
    client: KubeClient, *, stop: threading.Event | None = None, seconds: float = 30
) -> Generator[tuple[str, str], None, None]:
    for one in watch_events(client, PATH, "5", seconds=seconds, stop=stop or never()):
        yield one.type, one.revision


def decode(document: bytes) -> Any:
    decoded = json.loads(document)
    if decoded.get("data") == "bad":
        raise InvalidInput("not such an object")
    return decoded


def reflect(client: KubeClient, **params: str) -> Reflector[Any]:
    return Reflector(client, PATH, decode, params=params, randomness=Random(1))


def names(reflector: Reflector[Any]) -> set[str]:
    return {item["metadata"]["name"] for item in reflector.items()}


def no_watching_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]


# --- one watch


def test_events_come_in_order_with_their_objects(serve: Serve) -> None:
    lines = [event("ADDED", "a", 6), event("BOOKMARK", "", 8), event("MODIFIED", "a", 9), event("DELETED", "a", 11)]
    server, client = serve(lambda _: Answer(lines=lines))
    found = list(watch_events(client, PATH, "5", params={"fieldSelector": "x=y"}, seconds=29.2, stop=never()))
    assert [(one.type, one.revision) for one in found] == [
        ("ADDED", "6"),
        ("BOOKMARK", "8"),
        ("MODIFIED", "9"),
        ("DELETED", "11"),
    ]
    assert json.loads(found[0].object) == lines[0]["object"]
    assert server.requests[0].query == {
        "fieldSelector": "x=y",
        "watch": "true",
        "resourceVersion": "5",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "30",
    }


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (Answer(lines=[{"type": "ERROR", "object": status(410, "Expired", "too old")}]), WatchExpired, "too old"),
        (Answer(410, status(410, "Expired", "too old")), WatchExpired, "too old"),
        (Answer(lines=[{"type": "ERROR", "object": status(500, "", "etcd fell")}]), StoreUnavailable, "etcd fell"),
        (Answer(lines=[{"type": "ERROR", "object": status(404, "NotFound", "?")}]), StoreUnavailable, "was ended"),
        (Answer(500, status(500, "", "no leader")), StoreUnavailable, "no leader"),
        (Answer(404, status(404, "NotFound", "no such kind")), NotFound, "no such kind"),
        (Answer(lines=[b"{"]), StoreUnavailable, "cannot be read"),
        (Answer(lines=[b'{"type": "ADDED", "object": 1}']), StoreUnavailable, "cannot be read"),
        (Answer(lines=[], then="reset"), StoreUnavailable, "broke off"),
    ],
)
def test_what_goes_wrong_is_told(serve: Serve, answer: Answer, error: type[Exception], says: str) -> None:
    _, client = serve(lambda _: answer)
    with pytest.raises(error, match=says):
        list(watch(client))
    wait_for("the reading thread ends", no_watching_threads, seconds=5)


def test_what_came_before_it_broke_counts(serve: Serve) -> None:
    _, client = serve(lambda _: Answer(lines=[event("ADDED", "a", 6)], then="close"))
    events = watch(client)
    assert next(events) == ("ADDED", "6")
    with pytest.raises(StoreUnavailable):
        next(events)


@pytest.mark.parametrize("answer", [Answer(lines=[], then="hang"), Answer(status=0, then="hang")])
def test_a_silent_watch_ends_when_it_is_to_stop(serve: Serve, answer: Answer) -> None:
    server, client = serve(lambda _: answer)
    stop = never()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    assert list(watch(client, stop=stop)) == []
    assert time.monotonic() - began < 0.8
    if answer.status:  # one that was not answered yet ends with its time limit, or the server
        wait_for("the connection is closed", lambda: not server.open, seconds=5)
        wait_for("the reading thread ends", no_watching_threads, seconds=5)


def test_a_watch_that_was_left_before_it_was_answered_is_hung_up_then(serve: Serve) -> None:
    answer = threading.Event()

    def late(_: Request) -> Answer:
        answer.wait(10)
        return Answer(lines=[], then="hang")

    server, client = serve(late)
    stop = never()
    threading.Timer(0.2, stop.set).start()
    assert list(watch(client, stop=stop)) == []
    answer.set()
    wait_for("it has been asked", lambda: server.requests, seconds=5)
    wait_for("the reading thread ends", no_watching_threads, seconds=5)


def test_who_leaves_a_busy_watch_leaves_nothing_behind(serve: Serve) -> None:
    server, client = serve(lambda _: Answer(lines=(event("ADDED", "a", number) for number in range(10**9))))
    with closing(watch(client)) as events:
        assert next(events) == ("ADDED", "0")
        # The reader has filled its queue, and waits for room in it.
        time.sleep(0.1)
    wait_for("the connection is closed", lambda: not server.open, seconds=5)
    wait_for("the reading thread ends", no_watching_threads, seconds=5)


@pytest.mark.slow
def test_a_server_that_says_nothing_for_longer_than_it_was_asked_is_given_up(serve: Serve) -> None:
    _, client = serve(lambda _: Answer(lines=[], then="hang"))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        list(watch(client, seconds=0.5))
    assert 5 < time.monotonic() - began < 9


def test_a_list_goes_on_page_by_page(serve: Serve) -> None:
    pages = {"": page(7, "a", "b", following="more"), "more": page(7, "c")}
    server, client = serve(lambda request: Answer(body=pages[request.query.get("continue", "")]))
    found = list(list_pages(client, PATH, {"labelSelector": "x"}, limit=2))
    assert [len(one.items) for one in found] == [2, 1]
    assert found[-1].revision == "7"
    assert [request.query.get("limit") for request in server.requests] == ["2", "2"]
    assert {request.query["labelSelector"] for request in server.requests} == {"x"}
    assert not any("resourceVersion" in request.query for request in server.requests)


# --- a kind in memory


class Script:
    """Answers lists and watches in turn; a watch beyond the last hangs."""

    def __init__(self, lists: list[Answer], watches: list[Answer]) -> None:
        self._lists = iter(lists)
        self._watches = iter(watches)

    def __call__(self, request: Request) -> Answer:
        if "watch" in request.query:
            return next(self._watches, Answer(lines=[], then="hang"))
        return next(self._lists)


def watched_from(server: FakeApiServer) -> list[str]:
    return [one.query["resourceVersion"] for one in list(server.requests) if "watch" in one.query]


def lists(server: FakeApiServer) -> int:
    return sum("watch" not in one.query for one in list(server.requests))


@pytest.fixture
def follow(serve: Serve) -> Iterator[Callable[..., tuple[FakeApiServer, Reflector[Any]]]]:
    """Starts a reflector on scripted lists and watches."""
    started: list[Reflector[Any]] = []

    def start(listed: list[Answer], watches: list[Answer], **params: str) -> tuple[FakeApiServer, Reflector[Any]]:
        server, client = serve(Script(listed, watches))
        started.append(reflect(client, **params))
        started[-1].start()
        return server, started[-1]

    yield start
    for reflector in started:
        reflector.close()


def test_it_lists_then_follows(follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]]) -> None:
    changes: queue.Queue[object] = queue.Queue()
    server, reflector = follow(
        [Answer(body=page(7, "a", following="more")), Answer(body=page(7, "b"))],
        [Answer(lines=iter(changes.get, None))],
        fieldSelector="status.phase!=Failed",
    )
    wait_for("it has listed", lambda: reflector.has_synced, seconds=5)
    assert names(reflector) == {"a", "b"}
    for change in (event("ADDED", "c", 8), event("MODIFIED", "a", 9, data="new"), event("DELETED", "b", 10)):
        changes.put(change)
    wait_for("it has followed", lambda: names(reflector) == {"a", "c"}, seconds=5)
    assert [item for item in reflector.items() if item.get("data")] == [reflector.get("a", "default")]
    assert reflector.get("b", "default") is None
    assert reflector.get("a") is None
    assert watched_from(server) == ["7"]
    assert {request.query["fieldSelector"] for request in server.requests} == {"status.phase!=Failed"}
    changes.put(None)


def test_before_it_has_listed_nothing_can_be_read(serve: Serve) -> None:
    _, client = serve(lambda _: Answer(503))
    with closing(reflect(client)) as reflector:
        for read in (reflector.items, lambda: reflector.get("a")):
            with pytest.raises(StoreUnavailable, match="not been listed yet"):
                read()
        reflector.start()
        assert not reflector.has_synced


def test_after_a_break_it_watches_on_from_where_it_was(
    follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]],
) -> None:
    broken = [
        Answer(lines=[event("ADDED", "b", 8)], then="close"),
        Answer(lines=[event("BOOKMARK", "", 12)], then="end"),
        Answer(lines=[event("ADDED", "c", 13)], then="hang"),
    ]
    server, reflector = follow([Answer(body=page(7, "a"))], broken)
    wait_for("it has followed", lambda: reflector.has_synced and names(reflector) == {"a", "b", "c"}, seconds=10)
    assert watched_from(server) == ["7", "8", "12"]
    assert lists(server) == 1


@pytest.mark.parametrize(
    "expired",
    [
        Answer(lines=[{"type": "ERROR", "object": status(410, "Expired")}]),
        Answer(410, status(410, "Gone")),
    ],
)
def test_where_changes_are_lost_it_lists_again(
    follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]], expired: Answer
) -> None:
    server, reflector = follow([Answer(body=page(7, "a", "b")), Answer(body=page(20, "b", "c"))], [expired])
    wait_for("it has listed again", lambda: reflector.has_synced and names(reflector) == {"b", "c"}, seconds=5)
    wait_for("it watches on", lambda: watched_from(server) == ["7", "20"], seconds=5)


def test_a_list_that_expires_half_way_begins_again(
    follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]],
) -> None:
    listed = [
        Answer(body=page(7, "a", following="more")),
        Answer(410, status(410, "Expired")),
        Answer(body=page(9, "b")),
    ]
    server, reflector = follow(listed, [])
    wait_for("it has listed", lambda: reflector.has_synced, seconds=5)
    assert names(reflector) == {"b"}
    assert [request.query.get("continue") for request in server.asked()[:3]] == [None, "more", None]


def test_while_it_cannot_follow_it_keeps_what_it_knows(
    follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]],
) -> None:
    _, reflector = follow([Answer(body=page(7, "a"))], [Answer(500, status(500))] * 9)
    wait_for("it has listed", lambda: reflector.has_synced, seconds=5)
    assert names(reflector) == {"a"}


def test_what_cannot_be_decoded_is_left_out(follow: Callable[..., tuple[FakeApiServer, Reflector[Any]]]) -> None:
    listed = page(7, "a", "b")
    listed["items"][1]["data"] = "bad"
    lines = [event("MODIFIED", "a", 8, data="bad"), event("ADDED", "c", 9)]
    _, reflector = follow([Answer(body=listed)], [Answer(lines=lines, then="hang")])
    wait_for("it has followed", lambda: reflector.has_synced and "c" in names(reflector), seconds=5)
    assert names(reflector) == {"c"}


def test_a_fault_in_decoding_does_not_end_it(serve: Serve) -> None:
    faults = iter([ZeroDivisionError()])

    def faulty(document: bytes) -> Any:
        for fault in faults:
            raise fault
        return decode(document)

    _, client = serve(Script([Answer(body=page(7, "a")), Answer(body=page(8, "a"))], []))
    with closing(Reflector(client, PATH, faulty, randomness=Random(1))) as reflector:
        reflector.start()
        wait_for("it has listed", lambda: reflector.has_synced, seconds=5)
        assert names(reflector) == {"a"}


def test_who_could_not_take_a_change_is_told_again(serve: Serve) -> None:
    faults: list[Exception] = [StoreUnavailable("not now"), ZeroDivisionError()]
    told: list[set[str]] = []

    def changed() -> None:
        if faults:
            raise faults.pop()
        told.append(names(reflector))

    _, client = serve(Script([Answer(body=page(7, "a")), Answer(body=page(7, "a"))], []))
    with closing(Reflector(client, PATH, decode, randomness=Random(1), changed=changed)) as reflector:
        reflector.start()
        wait_for("it is told", lambda: told == [{"a"}], seconds=5)


# --- how often it asks


def attempts_within(seconds: float, *, already: int = 0) -> int:
    """Attempts in a span of time after ``already`` others, each of which fails at once."""
    backoff, passed, count = Backoff(Random(3)), 0.0, 0
    for _ in range(already):
        backoff.after(0.0)
    while passed < seconds:
        passed += backoff.after(0.0)
        count += 1
    return count


def test_requests_per_minute_against_a_server_that_is_gone_are_few() -> None:
    assert attempts_within(60) <= 10
    assert attempts_within(600, already=10) <= 10 * 4
    assert attempts_within(600, already=2000) <= 10 * 4, "after a day"


def test_what_lasted_makes_the_pauses_short_again_and_jitter_spreads_them() -> None:
    backoff = Backoff(Random(3))
    pauses = [backoff.after(0.0) for _ in range(12)]
    assert max(pauses) <= 30
    assert len({round(pause, 6) for pause in pauses}) == 12
    assert 0 < backoff.after(60.0) <= 0.25


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, status(500)),
        Answer(status=0, then="close"),
        Answer(lines=[]),
        Answer(lines=[event("ADDED", "a", 8)]),
        Answer(lines=[{"type": "ERROR", "object": status(410, "Expired")}]),
    ],
)
def test_it_never_asks_in_a_hot_loop(serve: Serve, answer: Answer) -> None:
    healthy_list = answer.lines is not None

    def respond(request: Request) -> Answer:
        return answer if "watch" in request.query or not healthy_list else Answer(body=page(7, "a"))

    server, client = serve(respond)
    with closing(reflect(client)) as reflector:
        reflector.start()
        time.sleep(3)
    # Pauses of at least 0.25, 0.5, 1 and 2 s: four attempts, of a list, a watch, and one retry of a broken GET each.
    assert 2 <= len(server.requests) <= 4 * 2 + 1


@pytest.mark.parametrize("answer", [Answer(status=0, then="hang"), Answer(500, status(500))])
def test_closing_is_quick_whatever_the_server_does(serve: Serve, answer: Answer) -> None:
    server, client = serve(lambda _: answer)
    reflector = reflect(client)
    reflector.start()
    wait_for("it has asked", lambda: server.requests, seconds=5)
    began = time.monotonic()
    reflector.close()
    assert time.monotonic() - began < 1.5
    reflect(client).close()  # never started


# --- a real API server


@pytest.fixture
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client:
        yield client


def config_map(client: KubeClient, namespace: str, name: str) -> None:
    client.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": name}})


@pytest.mark.cluster
def test_a_real_watch_follows_and_ends(admin: KubeClient, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = [*list_pages(admin, path)][-1].revision
    config_map(admin, namespace, "a")
    admin.request("DELETE", f"{path}/a")
    began = time.monotonic()
    found = list(watch_events(admin, path, since, seconds=1, stop=never()))
    assert [one.type for one in found][:2] == ["ADDED", "DELETED"]
    assert 0.5 < time.monotonic() - began < 5
    later = list(watch_events(admin, path, found[0].revision, seconds=0, stop=never()))
    assert [one.type for one in later][:1] == ["DELETED"]


@pytest.mark.cluster
def test_a_selector_makes_a_finished_pod_disappear(admin: KubeClient, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    admin.request("POST", path, pod)
    selector = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
    with closing(Reflector(admin, path, json.loads, params=selector, randomness=Random(1))) as reflector:
        reflector.start()
        wait_for("the pod is there", lambda: reflector.has_synced and reflector.items(), seconds=10)
        patch = {"status": {"phase": "Succeeded"}}
        admin.request("PATCH", f"{path}/p/status", patch, content_type="application/merge-patch+json")
        wait_for("the pod is left out", lambda: not reflector.items(), seconds=10)


@pytest.mark.cluster
def test_nothing_is_missed_over_a_compaction(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = [*list_pages(admin, path)][-1].revision
    config_map(admin, namespace, "before")
    with closing(Reflector(admin, path, json.loads, randomness=Random(1))) as reflector:
        reflector.start()
        wait_for("it has listed", lambda: reflector.has_synced, seconds=10)
        admin.request("DELETE", f"{path}/before")
        api_server.etcd_compact()
        config_map(admin, namespace, "after")
        wait_for("it has caught up", lambda: names(reflector) == {"after"}, seconds=30)
    with pytest.raises(WatchExpired):
        list(watch_events(admin, path, since, seconds=5, stop=never()))
