"""Who this process is to the API server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nodeobs.errors import StoreUnavailable
from nodeobs.kube.identity import OwnUser
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
    with pytest.raises(StoreUnavailable, match="SelfSubjectReview cannot be read"):
        own()
    server.respond = lambda _: Answer(500)
    with pytest.raises(StoreUnavailable):
        own()
    server.respond = lambda _: Answer(201, REVIEW)
    assert own() == NAME
