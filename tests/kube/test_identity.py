"""Who this process is to the API server."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nodeobs.errors import StoreUnavailable
from nodeobs.kube.identity import OwnRight, OwnUser
from tests.fakes.api_server import Answer, Request
from tests.kube.conftest import Serve

NAME = "system:serviceaccount:nodeobs:nodeobs"
REVIEW = {"status": {"userInfo": {"username": NAME}}}


def test_it_is_asked_once_it_is_known_no_more(serve: Serve) -> None:
    server, client = serve(lambda _: Answer(201, REVIEW))
    own = OwnUser(client)
    assert [own(), own()] == [NAME, NAME]
    assert [request.path for request in server.requests] == ["/apis/authentication.k8s.io/v1/selfsubjectreviews"]


def test_nobody_waits_for_another_one_to_ask(serve: Serve) -> None:
    together = threading.Barrier(2)

    def respond(_: Request) -> Answer:
        together.wait(10)
        return Answer(201, REVIEW)

    own = OwnUser(serve(respond)[1])
    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(own), pool.submit(own)]] == [NAME, NAME]


def test_what_cannot_be_found_out_is_asked_again(serve: Serve) -> None:
    server, client = serve(lambda _: Answer(201, b"{}"))
    own = OwnUser(client)
    with pytest.raises(StoreUnavailable, match="review of ourselves cannot be read"):
        own()
    server.respond = lambda _: Answer(500)
    with pytest.raises(StoreUnavailable):
        own()
    server.respond = lambda _: Answer(201, REVIEW)
    assert own() == NAME


def test_a_right_that_is_held_is_asked_for_seldom_and_one_that_is_not_soon_again(serve: Serve) -> None:
    server, client = serve(lambda _: Answer(201, {"status": {"allowed": False}}))
    now = 0.0
    right = OwnRight(client, verb="get", resource="nodes", subresource="proxy", monotonic=lambda: now)
    assert [right(), right()] == [False, False]
    server.respond = lambda _: Answer(201, {"status": {"allowed": True}})
    assert not right()
    now = 31.0
    assert right()
    now = 600.0
    assert right()
    asked = [json.loads(request.body)["spec"]["resourceAttributes"] for request in server.requests]
    assert asked == [{"verb": "get", "resource": "nodes", "subresource": "proxy"}] * 2
    now = 632.0
    server.respond = lambda _: Answer(500)
    with pytest.raises(StoreUnavailable):
        right()
