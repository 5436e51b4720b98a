"""Objects of older versions are rewritten in the end, whatever the API server answers first."""

from __future__ import annotations

import threading

import pytest

from nodeobs.kube import migration
from nodeobs.kube.migration import STORAGE_VERSION, Migration
from tests.fakes.api_server import Answer, Request
from tests.kube.conftest import Serve


def test_an_answer_that_is_none_does_not_end_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "_RETRY_SECONDS", 0.01)
    answers = iter([b"<html>log in</html>", b"null"])

    def respond(request: Request) -> Answer:
        definition = {"metadata": {"resourceVersion": "1"}, "status": {"storedVersions": [STORAGE_VERSION]}}
        return Answer(body=next(answers, definition))

    server, client = serve(respond)
    Migration(client, ["nodeobservabilities"]).run(threading.Event())
    assert len(server.requests) == 3
