"""Every failure is a problem document."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from nodeobs.web.services import Services
from tests.web.support import OBSERVABILITIES, RUNS, WEBHOOK, assert_problem


@pytest.mark.parametrize("path", ["/nothing", "/api/v2/runs", f"{RUNS}/a", f"{RUNS}/a/b/c/d/e/f", "/%2e%2e/etc"])
def test_unknown_paths(client: FlaskClient, path: str) -> None:
    assert_problem(client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", RUNS, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", f"{RUNS}/a/b", {"GET", "HEAD", "OPTIONS", "DELETE"}),
        ("GET", WEBHOOK, {"OPTIONS", "POST"}),
        ("PATCH", f"{OBSERVABILITIES}/a", {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_methods_that_are_not_there(client: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    answer = client.open(path, method=method)
    assert_problem(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_options_and_head(client: FlaskClient) -> None:
    assert "POST" in client.options(RUNS).headers["Allow"]
    head, get = client.head(RUNS), client.get(RUNS)
    assert head.status_code == 200
    assert head.data == b""
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_a_slash_at_the_end_does_no_harm(client: FlaskClient) -> None:
    assert client.get(f"{RUNS}/").status_code == 200


def test_a_fault_of_ours_is_logged_and_not_told(app: Flask, services: Services) -> None:
    def broken() -> str:
        raise RuntimeError("a secret inside")

    app.add_url_rule("/broken", "broken", broken)
    with capture_logs() as logged:
        document = assert_problem(app.test_client().get("/broken"), 500)
    assert "secret" not in str(document)
    assert isinstance(logged[0]["exc_info"], RuntimeError)
    assert services.metrics.registry.get_sample_value("nodeobs_internal_errors_total", {"where": "http"}) == 1
