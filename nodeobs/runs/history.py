"""Which finished Runs are forgotten; their outputs have a retention of their own."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nodeobs.model import Phase, Run

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What is remembered of a finished Run to tell when it may go; all of them fit into memory."""

    uid: str
    namespace: str
    name: str
    parent: str
    finished_at: datetime
    succeeded: bool
    ttl_seconds: int | None


class History:
    """The finished Runs, as the leader's watch tells them; ``keep`` of each NodeObservability stay.

    Safe to be used from many threads.
    """

    def __init__(self, *, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._runs: dict[str, FinishedRun] = {}

    def reset(self, runs: Iterable[Run]) -> None:
        """Know these Runs and no others."""
        known = {run.metadata.uid: _remembered(run) for run in runs if _may_go(run)}
        with self._lock:
            self._runs = known

    def note(self, run: Run) -> None:
        """Know the Run as it is now."""
        with self._lock:
            if _may_go(run):
                self._runs[run.metadata.uid] = _remembered(run)
            else:
                self._runs.pop(run.metadata.uid, None)

    def drop(self, uid: str) -> None:
        """Forget about a Run that is gone."""
        with self._lock:
            self._runs.pop(uid, None)

    def expired(self, now: datetime) -> list[FinishedRun]:
        """Runs that are to be deleted: past their ttlSecondsAfterFinished, or not among the newest that are kept.

        Those are counted for each NodeObservability; its newest success stays as well, because what is exported of it
        is read from the store.
        """
        finished: defaultdict[str, list[FinishedRun]] = defaultdict(list)
        with self._lock:
            for run in self._runs.values():
                finished[run.parent].append(run)
        gone: list[FinishedRun] = []
        for siblings in finished.values():
            siblings.sort(key=lambda run: run.finished_at, reverse=True)
            success = next((run for run in siblings if run.succeeded), None)
            gone.extend(
                run
                for place, run in enumerate(siblings)
                if (place >= self._keep and run is not success) or _ttl_passed(run, now)
            )
        return gone


def _may_go(run: Run) -> bool:
    return run.finished and run.metadata.deletion_timestamp is None


def _remembered(run: Run) -> FinishedRun:
    return FinishedRun(
        uid=run.metadata.uid,
        namespace=run.metadata.namespace,
        name=run.metadata.name,
        parent=run.spec.node_observability_ref.name,
        finished_at=run.status.finished_timestamp or run.metadata.creation_timestamp or _EPOCH,
        succeeded=run.status.phase is Phase.SUCCEEDED,
        ttl_seconds=run.spec.ttl_seconds_after_finished,
    )


def _ttl_passed(run: FinishedRun, now: datetime) -> bool:
    return run.ttl_seconds is not None and now >= run.finished_at + timedelta(seconds=run.ttl_seconds)
