"""The API server's audit log: who asked for what."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class Request(msgspec.Struct, frozen=True):
    """One request, as the API server answered it."""

    user: str
    verb: str
    uri: str
    code: int
    agent: str
    received: datetime


class _User(msgspec.Struct):
    username: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class _Event(msgspec.Struct, rename="camel"):
    """An event of audit.k8s.io/v1; a watch has two of them."""

    audit_id: str = msgspec.field(name="auditID")
    verb: str
    request_uri: str = msgspec.field(name="requestURI")
    request_received_timestamp: datetime
    user: _User = msgspec.field(default_factory=_User)
    user_agent: str = ""
    response_status: _Status = msgspec.field(default_factory=_Status)


def read(log: Path) -> list[Request]:
    """Every request in the log, each once, in the order they were answered."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    events: dict[str, _Event] = {}
    for line in lines:
        event = msgspec.json.decode(line, type=_Event)
        events.setdefault(event.audit_id, event)
    return [
        Request(
            user=event.user.username,
            verb=event.verb,
            uri=event.request_uri,
            code=event.response_status.code,
            agent=event.user_agent,
            received=event.request_received_timestamp,
        )
        for event in events.values()
    ]
