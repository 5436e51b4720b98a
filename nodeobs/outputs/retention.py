"""Which outputs are let go, by age, number and size."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from nodeobs.errors import OutputError
from nodeobs.outputs.manifest import MANIFEST_NAME
from nodeobs.outputs.store import Entry, OutputStore

log = structlog.get_logger(__name__)

INCOMPLETE_KEPT = timedelta(days=1)
"""An output without a manifest, of a Run that is not going, is kept so long for a person to look at."""

_UUID = re.compile(r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is kept at most, over all NodeObservabilities together."""

    max_age: timedelta
    max_count: int
    """Complete outputs."""
    max_bytes: int


@dataclass(frozen=True, kw_only=True)
class OutputInfo:
    """As much of an output as retention has to know."""

    uid: str
    node_observability: str
    finished_at: datetime
    """Of an incomplete output, when its newest file was written."""
    bytes: int
    complete: bool
    empty: bool = False
    """No agent delivered anything; it only tells why."""


def plan(outputs: Iterable[OutputInfo], policy: Policy, *, active: Collection[str], now: datetime) -> list[str]:
    """The uids of the outputs to delete, oldest first. Pure.

    Outputs of ``active`` Runs (uids) and the newest complete one of each NodeObservability that holds anything stay,
    whatever the policy says; they count for it all the same. Of the others the oldest go until number and size are
    right.
    """
    by_age = sorted(outputs, key=lambda output: (output.finished_at, output.uid))
    newest = {output.node_observability: output.uid for output in by_age if output.complete and not output.empty}
    protected = {*active, *newest.values()}
    free = [output for output in by_age if output.uid not in protected]
    doomed = {output.uid for output in free if not output.complete and now - output.finished_at > INCOMPLETE_KEPT}
    doomed |= {output.uid for output in free if output.complete and now - output.finished_at > policy.max_age}
    kept = [output for output in by_age if output.uid not in doomed]
    count, size = sum(output.complete for output in kept), sum(output.bytes for output in kept)
    for output in free:
        if output.complete and output.uid not in doomed and (count > policy.max_count or size > policy.max_bytes):
            doomed.add(output.uid)
            count, size = count - 1, size - output.bytes
    return [output.uid for output in by_age if output.uid in doomed]


def enforce(store: OutputStore, policy: Policy, *, active: Collection[str], now: datetime) -> list[str]:
    """Delete what :func:`plan` says; return the uids that are deleted. One that cannot be is logged.

    Raises:
        OutputStoreUnavailable: the outputs cannot be listed or read now.
    """
    deleted = []
    for uid in plan(_survey(store), policy, active=active, now=now):
        try:
            store.delete(uid)
        except OutputError as error:
            log.warning("cannot delete an output, trying again later", uid=uid, error=str(error))
        else:
            deleted.append(uid)
    return deleted


def _survey(store: OutputStore) -> Iterator[OutputInfo]:
    for uid, entries in store.outputs().items():
        has_manifest = any(entry.name == MANIFEST_NAME for entry in entries)
        head = store.read_head(uid) if has_manifest else None
        complete = head is not None and head.run.uid == uid
        # Whoever keeps outputs in a folder that holds other things too should not lose those.
        if complete or _UUID.search(uid):
            yield OutputInfo(
                uid=uid,
                node_observability=head.run.node_observability if head else "",
                finished_at=head.finished_at if head else _last_written(entries),
                bytes=sum(entry.size for entry in entries),
                complete=complete,
                empty=head is not None and not head.summary.bytes,
            )


def _last_written(entries: Sequence[Entry]) -> datetime:
    return max(entry.modified for entry in entries)
