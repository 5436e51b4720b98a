"""Reviews: their documents, what is remembered of them, and how the service asks for them."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nodeobs.errors import AccessUnknown, Forbidden, Unauthenticated
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.reviewer import Reviewer
from nodeobs.kube.reviews import (
    ALLOWED_SECONDS,
    ENTRIES,
    REFUSED_SECONDS,
    Identity,
    Memory,
    PathRight,
    ResourceRight,
    Right,
    UserInfo,
    Verdict,
    access_review,
    may_be_token,
    read_access_review,
    read_token_review,
    token_review,
)
from tests.fakes.review_server import ReviewServer
from tests.processes import wait_for

ADA = Identity("ada")
GET_RUN = ResourceRight(verb="get", resource="nodeobservabilityruns", namespace="prod", name="slow")
METRICS = PathRight(verb="get", path="/metrics")


def sent(document: dict[str, Any]) -> dict[str, Any]:
    """The spec as it goes over the wire."""
    spec: dict[str, Any] = json.loads(msgspec.json.encode(document))["spec"]
    return spec


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with ReviewServer() as server:
        server.users["token-of-ada"] = "ada"
        yield server


@pytest.fixture
def client(server: ReviewServer, tmp_path: Path) -> Iterator[KubeClient]:
    with closing(KubeClient(load_credentials(kubeconfig=server.kubeconfig(tmp_path / "config"), environ={}))) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reviewer(client: KubeClient, clock: Clock) -> Reviewer:
    return Reviewer(client, monotonic=clock)


def test_a_token_review_names_audiences_only_where_some_are_asked() -> None:
    assert token_review("t")["spec"] == {"token": "t"}
    assert token_review("t", audiences=("nodeobs-agent",))["spec"] == {"token": "t", "audiences": ["nodeobs-agent"]}


def test_an_access_review_tells_all_that_is_known_of_the_user() -> None:
    identity = Identity("ada", "7", ("staff", "night"), (("scope", ("a", "b")),))
    assert sent(access_review(identity, GET_RUN)) == {
        "user": "ada",
        "uid": "7",
        "groups": ["staff", "night"],
        "extra": {"scope": ["a", "b"]},
        "resourceAttributes": {
            "verb": "get",
            "resource": "nodeobservabilityruns",
            "namespace": "prod",
            "name": "slow",
            "group": "nodeobservability.olm.openshift.io",
        },
    }
    assert access_review(ADA, METRICS)["spec"] == {
        "user": "ada",
        "nonResourceAttributes": {"verb": "get", "path": "/metrics"},
    }


def test_rights_read_as_people_say_them() -> None:
    group = "nodeobservability.olm.openshift.io"
    assert str(GET_RUN) == f"get nodeobservabilityruns.{group} 'slow' in namespace 'prod'"
    output = ResourceRight(verb="get", resource="nodeobservabilityruns", subresource="output")
    assert str(output) == f"get nodeobservabilityruns/output.{group}"
    assert str(METRICS) == "get the path /metrics"


@given(
    st.builds(
        UserInfo,
        username=st.text(min_size=1),
        uid=st.text(),
        groups=st.none() | st.lists(st.text()).map(tuple),
        extra=st.none() | st.dictionaries(st.text(), st.lists(st.text()).map(tuple)),
    )
)
def test_a_user_goes_from_one_review_into_the_other_unchanged(user: UserInfo) -> None:
    answer = json.dumps({"status": {"authenticated": True, "user": msgspec.to_builtins(user)}})
    identity = read_token_review(answer).identity
    assert identity is not None
    spec = sent(access_review(identity, METRICS))
    assert spec["user"] == user.username
    assert spec.get("uid", "") == user.uid
    assert spec.get("groups", []) == list(user.groups or ())
    assert spec.get("extra", {}) == {key: list(values) for key, values in (user.extra or {}).items()}
    assert hash(identity) == hash(user.identity())


@pytest.mark.parametrize(
    ("found", "allowed"),
    [(["nodeobs-agent", "other"], True), (["other"], False), ([], False), (None, False)],
)
def test_a_token_for_somebody_else_is_refused_even_by_a_server_that_knows_no_audiences(
    found: list[str] | None, allowed: bool
) -> None:
    status = {"authenticated": True, "user": {"username": "ada"}, "audiences": found}
    assert read_token_review(json.dumps({"status": status}), audiences=("nodeobs-agent",)).allowed is allowed


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"status": null}',
        '{"kind": "Status", "status": "Failure"}',
        '{"status": {"allowed": "yes", "authenticated": "yes"}}',
        '{"status": {"authenticated": true}}',
        '{"status": {"authenticated": true, "user": {"username": ""}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_answer_to_a_review_is_no_verdict(answer: str) -> None:
    with pytest.raises(AccessUnknown):
        read_token_review(answer)
    with pytest.raises(AccessUnknown):
        read_access_review(answer)


def test_authorizers_that_failed_are_no_refusal() -> None:
    def answer(**status: Any) -> str:
        return json.dumps({"status": status})

    with pytest.raises(AccessUnknown, match="webhook is gone"):
        read_access_review(answer(allowed=False, evaluationError="webhook is gone"))
    assert read_access_review(answer(allowed=True, evaluationError="one of them is gone")).allowed
    refused = read_access_review(answer(allowed=False, denied=True, reason="no\nway", evaluationError="gone"))
    assert refused == Verdict(False, "no way")


def test_a_flood_of_refusals_pushes_out_nobody_who_was_accepted() -> None:
    memory: Memory[int] = Memory()
    accepted, refused = Verdict(True), Verdict(False)
    memory.put(-1, accepted, asked=0)
    for number in range(ENTRIES + 1):
        memory.put(number, refused, asked=0)
    assert memory.get(-1, now=1) == accepted
    assert memory.get(0, now=1) is None
    assert memory.get(1, now=1) == refused


def test_the_longest_unused_gives_way() -> None:
    memory: Memory[str] = Memory(entries=2)
    for key in "ab":
        memory.put(key, Verdict(True), asked=0)
    memory.get("a", now=1)
    memory.put("c", Verdict(True), asked=1)
    assert [key for key in "abc" if memory.get(key, now=2)] == ["a", "c"]


def test_a_later_verdict_takes_the_place_of_an_earlier_one() -> None:
    memory: Memory[str] = Memory()
    memory.put("a", Verdict(True), asked=0)
    memory.put("a", Verdict(False), asked=1)
    assert memory.get("a", now=2) == Verdict(False)
    assert memory.get("a", now=1 + REFUSED_SECONDS) is None


@pytest.mark.parametrize(
    ("token", "good"),
    [("abc.DEF-_~+/=", True), ("", False), ("a b", False), ("a\n", False), ("é", False), ("a" * 16_385, False)],
)
def test_what_can_be_no_token_is_not_asked_about(
    reviewer: Reviewer, server: ReviewServer, token: str, good: bool
) -> None:
    assert may_be_token(token) is good
    with pytest.raises(Unauthenticated):
        reviewer.authenticate(token)
    assert len(server.tokens) == good


def test_a_token_is_reviewed_once_a_minute(reviewer: Reviewer, server: ReviewServer, clock: Clock) -> None:
    for _ in range(3):
        assert reviewer.authenticate("token-of-ada").user == "ada"
    assert server.tokens == [{"token": "token-of-ada"}]
    clock.seconds = ALLOWED_SECONDS - 0.1
    del server.users["token-of-ada"]
    assert reviewer.authenticate("token-of-ada").user == "ada"
    clock.seconds = ALLOWED_SECONDS
    with pytest.raises(Unauthenticated):
        reviewer.authenticate("token-of-ada")


def test_a_refused_token_is_reviewed_again_after_ten_seconds(
    reviewer: Reviewer, server: ReviewServer, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            reviewer.authenticate("new-token")
    assert len(server.tokens) == 1
    server.users["new-token"] = "nora"
    clock.seconds = REFUSED_SECONDS
    assert reviewer.authenticate("new-token").user == "nora"


def test_a_right_is_reviewed_once_a_minute_and_for_each_user(
    reviewer: Reviewer, server: ReviewServer, clock: Clock
) -> None:
    server.rights.add(("ada", "get", "/metrics"))
    for _ in range(3):
        reviewer.require(ADA, METRICS)
    assert len(server.accesses) == 1
    with pytest.raises(Forbidden, match="bob may not get the path /metrics"):
        reviewer.require(Identity("bob"), METRICS)
    # Another user who only looks alike.
    assert reviewer.allows(Identity("ada", "another-uid"), METRICS).allowed
    assert len(server.accesses) == 3
    server.rights.clear()
    reviewer.require(ADA, METRICS)
    clock.seconds = ALLOWED_SECONDS
    with pytest.raises(Forbidden):
        reviewer.require(ADA, METRICS)


@pytest.mark.parametrize("failing", [500, 429, 403, 401, 404, 422, b"garbage", b"{}"])
def test_what_cannot_be_reviewed_is_neither_accepted_nor_refused_and_not_remembered(
    reviewer: Reviewer, server: ReviewServer, failing: int | bytes
) -> None:
    server.rights.add(("ada", "get", "/metrics"))
    server.failing = failing
    with pytest.raises(AccessUnknown):
        reviewer.authenticate("token-of-ada")
    with pytest.raises(AccessUnknown):
        reviewer.require(ADA, METRICS)
    server.failing = None
    assert reviewer.authenticate("token-of-ada").user == "ada"
    reviewer.require(ADA, METRICS)


def test_without_an_api_server_only_what_is_remembered_is_known(tmp_path: Path) -> None:
    with ReviewServer() as server:
        server.users["token-of-ada"] = "ada"
        client = KubeClient(load_credentials(kubeconfig=server.kubeconfig(tmp_path / "config"), environ={}))
        reviewer = Reviewer(client)
        reviewer.authenticate("token-of-ada")
    with closing(client):
        assert reviewer.authenticate("token-of-ada").user == "ada"
        with pytest.raises(AccessUnknown, match="cannot be reached"):
            reviewer.authenticate("another-token")


def test_a_hanging_api_server_is_waited_for_shortly(client: KubeClient, server: ReviewServer) -> None:
    server.held = threading.Event()
    with pytest.raises(AccessUnknown, match="cannot be reached"):
        Reviewer(client, seconds=0.2).authenticate("token-of-ada")


def test_equal_questions_at_the_same_time_are_asked_once(reviewer: Reviewer, server: ReviewServer) -> None:
    server.held = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(reviewer.authenticate, "token-of-ada") for _ in range(20)]
        wait_for("the review has come", lambda: bool(server.tokens), seconds=30)
        server.held.set()
        assert {answer.result().user for answer in answers} == {"ada"}
    assert len(server.tokens) == 1


def test_a_failure_reaches_all_who_wait_for_it(reviewer: Reviewer, server: ReviewServer) -> None:
    server.held, server.failing = threading.Event(), 500
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(reviewer.authenticate, "token-of-ada") for _ in range(5)]
        wait_for("the review has come", lambda: bool(server.tokens), seconds=30)
        server.held.set()
        assert all(isinstance(answer.exception(), AccessUnknown) for answer in answers)


def test_many_callers_at_once_are_all_answered(client: KubeClient, server: ReviewServer) -> None:
    reviewer = Reviewer(client, at_once=2, patience=30, seconds=30)
    server.held = threading.Event()
    with ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(reviewer.authenticate, "token-of-ada") for _ in range(30)]
        wait_for("the review has come", lambda: bool(server.tokens), seconds=30)
        server.held.set()
        assert {answer.result().user for answer in answers} == {"ada"}
    assert len(server.tokens) == 1


def test_only_so_many_threads_wait_for_reviews(client: KubeClient, server: ReviewServer) -> None:
    reviewer = Reviewer(client, at_once=3, patience=0, seconds=30)
    reviewer.authenticate("token-of-ada")
    server.held = threading.Event()
    numbers = itertools.count()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(reviewer.authenticate, f"token-{next(numbers)}") for _ in range(3)]
        wait_for("three wait", lambda: len(server.tokens) == 4, seconds=30)
        with pytest.raises(AccessUnknown, match="the most at once"):
            reviewer.authenticate("one-more")
        assert reviewer.authenticate("token-of-ada").user == "ada"
        server.held.set()
        assert all(isinstance(answer.exception(), Unauthenticated) for answer in waiting)
    with pytest.raises(Unauthenticated):
        reviewer.authenticate("one-more")


def test_no_token_is_logged_or_told(reviewer: Reviewer, server: ReviewServer) -> None:
    texts = []
    with capture_logs() as logged:
        for server.failing in (None, 500, b"garbage"):
            with pytest.raises((Unauthenticated, AccessUnknown)) as caught:
                reviewer.authenticate(f"secret-{server.failing!r}".replace(" ", ""))
            texts.append(str(caught.value))
    assert any("token refused" in entry["event"] for entry in logged)
    assert "secret" not in f"{logged} {texts} {vars(reviewer)}"


def test_every_right_can_be_a_key() -> None:
    rights: set[Right] = {GET_RUN, METRICS, ResourceRight(verb="get", resource="metrics"), GET_RUN}
    assert len(rights) == 3
