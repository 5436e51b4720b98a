"""Which finished Runs are forgotten. Pure; their outputs have a retention of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from nodeobs.model import Phase, Run

_EPOCH = datetime.fromtimestamp(0, UTC)


def expired(runs: Iterable[Run], *, keep: int, now: datetime) -> list[Run]:
    """Finished Runs that are to be deleted: past their ttlSecondsAfterFinished, or not among the newest ``keep``.

    The newest ``keep`` are counted for each NodeObservability; its newest success stays as well, because what is
    exported of it is read from the store.
    """
    finished: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.status.phase.final and run.metadata.deletion_timestamp is None:
            finished[run.spec.node_observability_ref.name].append(run)
    gone: list[Run] = []
    for siblings in finished.values():
        siblings.sort(key=_finished_at, reverse=True)
        success = next((run for run in siblings if run.status.phase is Phase.SUCCEEDED), None)
        gone.extend(
            run for place, run in enumerate(siblings) if (place >= keep and run is not success) or _ttl_passed(run, now)
        )
    return gone


def _finished_at(run: Run) -> datetime:
    return run.status.finished_timestamp or run.metadata.creation_timestamp or _EPOCH


def _ttl_passed(run: Run, now: datetime) -> bool:
    ttl = run.spec.ttl_seconds_after_finished
    return ttl is not None and now >= _finished_at(run) + timedelta(seconds=ttl)
