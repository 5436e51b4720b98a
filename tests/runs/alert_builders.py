"""Short ways to make alerts, notifications and triggers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from nodeobs.runs.matchers import parse_matchers
from nodeobs.runs.notification import Alert, Notification
from nodeobs.runs.triggers import Trigger

FIRED = datetime(2026, 1, 1, 2, 55, tzinfo=UTC)


def make_alert(fingerprint: str = "f1", *, resolved: bool = False, since: datetime = FIRED, **labels: str) -> Alert:
    """Alert on a slow kubelet; ``labels`` are added, or replace the usual ones."""
    return Alert(
        status="resolved" if resolved else "firing",
        fingerprint=fingerprint,
        starts_at=since,
        labels={"alertname": "KubeletSlow", "severity": "critical"} | labels,
    )


def make_notification(*alerts: Alert, group_key: str = '{}:{alertname="KubeletSlow"}') -> Notification:
    """Notification with these alerts."""
    return Notification(version="4", group_key=group_key, alerts=alerts)


def make_trigger(
    name: str = "kubelet-slow", matchers: str = 'alertname=~"Kubelet.*"', cooldown_minutes: float = 30, **others: Any
) -> Trigger:
    """Trigger on slow kubelets, over the node that the label ``node`` names."""
    return Trigger(
        name=name,
        matchers=parse_matchers(matchers),
        node_observability="cluster",
        cooldown=timedelta(minutes=cooldown_minutes),
        **({"nodes_from": ("node", "instance")} | others),
    )


def payload(**changes: Any) -> dict[str, Any]:
    """What Alertmanager 0.34 sends, all of it, with one alert; ``changes`` are to that alert."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "KubeletSlow", "node": "worker-1", "severity": "critical"},
        "annotations": {"summary": "slow"},
        "startsAt": "2026-01-01T02:55:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example:9090/graph?g0.expr=1",
        "fingerprint": "7d1f3a0c5b2e4f68",
    }
    return {
        "receiver": "nodeobs",
        "status": "firing",
        "alerts": [alert | changes],
        "groupLabels": {"alertname": "KubeletSlow"},
        "commonLabels": {"alertname": "KubeletSlow"},
        "commonAnnotations": {},
        "routeLabels": {},
        "externalURL": "http://alertmanager.example:9093",
        "version": "4",
        "groupKey": '{}:{alertname="KubeletSlow"}',
        "truncatedAlerts": 0,
        "notification_reason": "new",
    }


def body(document: object) -> bytes:
    """The document as a request's body."""
    return json.dumps(document).encode()
