"""What is a notification of Alertmanager, and what is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import InvalidInput
from nodeobs.runs.notification import parse_notification
from tests.runs.alert_builders import body, payload


def test_reads_what_alertmanager_sends() -> None:
    notification = parse_notification(body(payload()))
    (alert,) = notification.alerts
    assert notification.group_key == '{}:{alertname="KubeletSlow"}'
    assert alert.status == "firing"
    assert alert.fingerprint == "7d1f3a0c5b2e4f68"
    assert alert.labels["node"] == "worker-1"
    assert alert.starts_at == datetime(2026, 1, 1, 2, 55, 0, 123457, UTC)


def test_ignores_fields_that_it_does_not_know() -> None:
    document = payload(silencedBy=["x"], deep={"deeper": [1, 2]}) | {"somethingNew": {"a": 1}}
    assert len(parse_notification(body(document)).alerts) == 1


def test_takes_ten_thousand_alerts_and_no_more() -> None:
    document = payload()
    document["alerts"] *= 10_000
    assert len(parse_notification(body(document)).alerts) == 10_000
    document["alerts"] *= 2
    with pytest.raises(InvalidInput) as refusal:
        parse_notification(body(document))
    assert refusal.value.pointer == "/alerts"


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], ""),
        (None, ""),
        ({}, ""),
        (payload() | {"version": "3"}, "/version"),
        (payload() | {"version": 4}, "/version"),
        (payload() | {"alerts": None}, "/alerts"),
        (payload() | {"alerts": {}}, "/alerts"),
        (payload() | {"alerts": [1]}, "/alerts/0"),
        (payload() | {"groupKey": 1}, "/groupKey"),
        (payload(status="pending"), "/alerts/0/status"),
        (payload(startsAt="NaN"), "/alerts/0/startsAt"),
        (payload(startsAt="2026-01-01T02:55:00"), "/alerts/0/startsAt"),
        (payload(startsAt=0), "/alerts/0/startsAt"),
        (payload(startsAt=None), "/alerts/0/startsAt"),
        (payload(fingerprint=""), "/alerts/0/fingerprint"),
        (payload(fingerprint="x" * 65), "/alerts/0/fingerprint"),
        (payload(fingerprint="a\nb"), "/alerts/0/fingerprint"),
        (payload(fingerprint="a\x1b[2J"), "/alerts/0/fingerprint"),
        (payload(labels={"node": 1}), "/alerts/0/labels/..."),
        (payload(labels=[]), "/alerts/0/labels"),
    ],
)
def test_refuses_with_a_pointer_to_what_is_wrong(document: Any, pointer: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_notification(body(document))
    assert refusal.value.pointer == pointer


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"\xff\xfe",
        body(payload())[:-1],
        b"[" * 100_000,
        body(payload()).replace(b"worker-1", b"\xff"),
        body(payload()).replace(b"worker-1", rb"\ud800"),
        b'{"version": NaN}',
    ],
)
def test_refuses_what_is_not_json(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_notification(raw)


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"version": "4", "alerts": text}).encode()))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_notification(raw)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(st.sampled_from(["version", "alerts", "groupKey", "truncatedAlerts", "status"]), trees)
def test_any_value_in_any_place_is_read_or_refused(key: str, value: Any) -> None:
    try:
        notification = parse_notification(body(payload() | {key: value}))
    except InvalidInput:
        return
    assert notification.version == "4"
