"""A notification as Alertmanager sends it (payload version 4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

_NEVER = "0001-01-01T00:00:00Z"


def notification(nodes: Sequence[str], now: datetime) -> dict[str, Any]:
    """Kubelets slow on ``nodes`` since a minute, another alert that no trigger wants, and one that is resolved."""
    since = _instant(now - timedelta(minutes=1))
    alerts = [_alert({"alertname": "KubeletSlow", "severity": "critical", "node": node}, since) for node in nodes]
    alerts.append(_alert({"alertname": "DiskFilling", "severity": "warning", "node": nodes[0]}, since))
    resolved = _alert({"alertname": "KubeletSlow", "severity": "critical", "node": "node-9"}, since)
    alerts.append(resolved | {"status": "resolved", "endsAt": _instant(now)})
    return {
        "version": "4",
        "groupKey": '{}:{alertname="KubeletSlow"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "nodeobs",
        "groupLabels": {"alertname": "KubeletSlow"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "alerts": alerts,
    }


def grown(payload: dict[str, Any], count: int) -> dict[str, Any]:
    """The same notification when ``count`` more alerts have joined its group, none of which a trigger wants."""
    since = payload["alerts"][0]["startsAt"]
    labels = ({"alertname": "DiskFilling", "severity": "warning", "node": f"worker-{n}"} for n in range(count))
    return payload | {"alerts": [*payload["alerts"], *(_alert(each, since) for each in labels)]}


def _alert(labels: dict[str, str], since: str) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": f"{labels['alertname']} on {labels['node']}"},
        "startsAt": since,
        "endsAt": _NEVER,
        "generatorURL": "http://prometheus.example:9090/graph",
        "fingerprint": sha256(repr(sorted(labels.items())).encode()).hexdigest()[:16],
    }


def _instant(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
