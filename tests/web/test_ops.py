"""Health, metrics, the profile of the service itself."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from nodeobs.pprof import read
from nodeobs.web.services import Services
from tests.web.support import assert_problem


def test_the_index_leads_on(client: FlaskClient) -> None:
    links = client.get("/").get_json()["links"]
    for name, path in links.items():
        answer = client.open(path, method="OPTIONS")
        assert answer.status_code == 200, name


def test_probes(client: FlaskClient) -> None:
    assert client.get("/healthz").data == b"ok\n"
    assert client.get("/readyz").data == b"ok\n"


def test_metrics_in_the_form_that_is_asked_for(client: FlaskClient) -> None:
    plain = client.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    names = {family.name for family in parse_text(plain.text)}
    assert names >= {"nodeobs_build_info", "nodeobs_webhook_duration_seconds", "nodeobs_leader"}
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(openmetrics.text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"nodeobs_build_info"}


def test_the_profile_is_one(client: FlaskClient) -> None:
    answer = client.get("/debug/pprof/profile?seconds=1")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert read(answer.data).duration_nanos >= 900_000_000


def test_one_profile_at_a_time_in_gos_words(app: Flask, services: Services) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.test_client().get, "/debug/pprof/profile?seconds=300")
        until = time.monotonic() + 30
        while True:
            second = app.test_client().get("/debug/pprof/profile?seconds=1")
            if second.status_code == 500:
                break
            assert time.monotonic() < until
        assert second.text == "Could not enable CPU profiling: cpu profiling already in use\n"
        assert second.headers["X-Go-Pprof"] == "1"
        services.stop.set()
        assert first.result(20).status_code == 200


@pytest.mark.parametrize("seconds", ["0", "301", "-1", "x", "1.5", ""])
def test_wrong_seconds(client: FlaskClient, seconds: str) -> None:
    assert_problem(client.get(f"/debug/pprof/profile?seconds={seconds}"), 400, "1 to 300")
