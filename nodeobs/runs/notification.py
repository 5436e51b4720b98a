"""What Alertmanager sends to a webhook (payload version 4), as much of it as matters here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, field

from nodeobs.model import Document, decode_json


class Alert(Document, frozen=True, kw_only=True):
    """One alert of a notification. ``startsAt`` has microseconds; what is finer is rounded."""

    status: Literal["firing", "resolved"]
    fingerprint: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[!-~]+\Z")]
    """Alertmanager's digest of the labels, in hexadecimal."""
    starts_at: Annotated[datetime, Meta(tz=True)]
    labels: dict[str, str] = field(default_factory=dict)


class Notification(Document, frozen=True, kw_only=True):
    """A group of alerts. Fields that are not listed here are ignored, as newer Alertmanagers add some."""

    version: Literal["4"]
    alerts: Annotated[tuple[Alert, ...], Meta(max_length=10_000)]
    group_key: str = ""
    truncated_alerts: Annotated[int, Meta(ge=0)] = 0
    """So many more alerts the sender left out (its ``max_alerts``)."""


def parse_notification(body: bytes) -> Notification:
    """Notification from a request's body.

    Raises:
        InvalidInput: not JSON, or not a notification of version 4 with at most 10,000 alerts.
    """
    return decode_json(body, Notification)
