"""Alertmanager's notifications over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace as replace_services
from typing import Any

import pytest
from flask.testing import FlaskClient

from nodeobs.errors import StoreUnavailable
from nodeobs.model import NodeObservability, Phase, Run, RunStatus, TriggerKind, TriggerRecord, replace
from nodeobs.web import create_app
from nodeobs.web.services import Services
from tests.web.support import WEBHOOK, assert_problem, make_run, notification


def outcomes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [alert["outcome"] for alert in answer.get_json()["alerts"]]


def test_an_alert_becomes_a_run_that_is_stored_before_the_answer(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    answer = client.post(WEBHOOK, json=notification("node-1", "node-2"))
    assert outcomes(answer) == ["created", "created"]
    (run,) = services.store.list(Run)
    assert answer.get_json()["runs"] == [run.key]
    assert run.spec.nodes == ("node-1", "node-2")
    assert run.spec.trigger is not None
    assert run.spec.trigger.kind is TriggerKind.ALERT
    assert outcomes(client.post(WEBHOOK, json=notification("node-1", "node-2"))) == ["duplicate", "duplicate"]
    assert len(services.store.list(Run)) == 1


def test_every_outcome_is_a_success_to_alertmanager(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    services.store.create(make_run("going"))
    assert outcomes(client.post(WEBHOOK, json=notification("node-1"))) == ["run-in-progress"]
    going = services.store.get(Run, "going", "nodeobs")
    services.store.update(replace(going, status=RunStatus(phase=Phase.FAILED)))
    assert outcomes(client.post(WEBHOOK, json=notification("node-1"))) == ["created"]
    (created,) = (run for run in services.store.list(Run) if run.metadata.name != "going")
    services.store.update(replace(created, status=RunStatus(phase=Phase.SUCCEEDED)))
    later = notification("node-1", starts_at="2026-01-01T03:01:00Z")
    assert outcomes(client.post(WEBHOOK, json=later)) == ["cooldown"]
    assert outcomes(client.post(WEBHOOK, json=notification("node-1", status="resolved"))) == ["resolved"]
    other = notification("node-1")
    other["alerts"][0]["labels"] = {"alertname": "Other"}
    assert outcomes(client.post(WEBHOOK, json=other)) == ["unmatched"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": "4"}',
        b'{"version": "3", "alerts": []}',
        b'{"version": 4, "alerts": []}',
        json.dumps(notification("a")).encode()[:-5],
        json.dumps({**notification("a"), "alerts": [{"status": "firing"}]}).encode(),
        json.dumps({**notification("a"), "alerts": [{**notification("a")["alerts"][0], "startsAt": "NaN"}]}).encode(),
        json.dumps({**notification("a"), "alerts": notification("a")["alerts"] * 10_001}).encode(),
    ],
)
def test_what_is_no_notification_is_refused_and_starts_nothing(
    client: FlaskClient, services: Services, observability: NodeObservability, body: bytes
) -> None:
    assert_problem(client.post(WEBHOOK, data=body), 400, "notification")
    assert not services.store.list(Run)
    assert not services.store.list(TriggerRecord)


def test_ten_thousand_alerts_at_once(client: FlaskClient, services: Services, observability: NodeObservability) -> None:
    answer = client.post(WEBHOOK, json=notification(*(f"node-{number}" for number in range(10_000))))
    assert set(outcomes(answer)) == {"created"}
    assert len(services.store.list(Run)) == 1


def test_a_store_that_is_down_is_worth_a_retry(services: Services) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            raise StoreUnavailable("the database is locked")

    client = create_app(replace_services(services, store=Down())).test_client()  # type: ignore[arg-type]
    assert_problem(client.post(WEBHOOK, json=notification("node-1")), 503, "locked")


def test_a_body_over_the_limit(client: FlaskClient, services: Services) -> None:
    limit = services.settings.max_body_bytes
    assert_problem(client.post(WEBHOOK, data=b" " * (limit + 1)), 413, str(limit))
    assert_problem(client.post(WEBHOOK, data=b" " * limit), 400)
    assert not services.store.list(Run)


def test_it_is_measured(client: FlaskClient, services: Services) -> None:
    client.post(WEBHOOK, json=notification("node-1", status="resolved"))
    client.post(WEBHOOK, data=b"{")
    sample = services.metrics.registry.get_sample_value
    assert sample("nodeobs_webhook_duration_seconds_count", {"webhook": "alertmanager"}) == 2
    assert sample("nodeobs_alert_notifications_total", {"outcome": "resolved"}) == 1
