"""Which finished Runs are forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from nodeobs.model import Phase, Run, replace
from nodeobs.runs.history import History
from tests.builders import START, make_run


def expired(runs: Iterable[Run], *, keep: int, now: datetime = START) -> list[str]:
    history = History(keep=keep)
    history.reset(runs)
    return sorted(run.name for run in history.expired(now))


def test_the_newest_are_kept_for_each_nodeobservability() -> None:
    runs = [make_run(f"a{n}", phase=Phase.SUCCEEDED, age=n) for n in range(4)]
    runs += [make_run(f"b{n}", phase=Phase.SUCCEEDED, age=n, parent="other") for n in range(2)]
    assert expired(runs, keep=2) == ["a2", "a3"]


def test_runs_that_are_going_are_never_forgotten() -> None:
    runs = [make_run(f"r{n}", phase=Phase.RUNNING, age=n, ttl_seconds_after_finished=0) for n in range(3)]
    assert expired(runs, keep=0) == []


def test_the_last_success_is_kept_beyond_the_limit() -> None:
    runs = [make_run("good", phase=Phase.SUCCEEDED, age=99)]
    runs += [make_run(f"bad{n}", phase=Phase.FAILED, age=n) for n in range(3)]
    assert expired(runs, keep=2) == ["bad2"]


def test_ttl_counts_from_the_finish() -> None:
    run = make_run("r", phase=Phase.FAILED, age=0, ttl_seconds_after_finished=60)
    assert expired([run], keep=5, now=START + timedelta(seconds=59)) == []
    assert expired([run], keep=5, now=START + timedelta(seconds=60)) == ["r"]


def test_a_run_that_is_gone_or_going_away_is_not_named() -> None:
    history = History(keep=0)
    run = make_run("r", phase=Phase.FAILED, age=0)
    history.note(run)
    assert [found.name for found in history.expired(START)] == ["r"]
    history.note(replace(run, metadata=replace(run.metadata, deletion_timestamp=START)))
    assert history.expired(START) == []
    history.note(run)
    history.drop(run.metadata.uid)
    assert history.expired(START) == []
