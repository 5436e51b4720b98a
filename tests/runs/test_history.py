"""Which finished Runs are forgotten."""

from __future__ import annotations

from datetime import timedelta

from nodeobs.model import Phase, Run
from nodeobs.runs.history import expired
from tests.builders import START, make_run


def names(runs: list[Run]) -> list[str]:
    return sorted(run.metadata.name for run in runs)


def test_the_newest_are_kept_for_each_nodeobservability() -> None:
    runs = [make_run(f"a{n}", phase=Phase.SUCCEEDED, age=n) for n in range(4)]
    runs += [make_run(f"b{n}", phase=Phase.SUCCEEDED, age=n, parent="other") for n in range(2)]
    assert names(expired(runs, keep=2, now=START)) == ["a2", "a3"]


def test_runs_that_are_going_are_never_forgotten() -> None:
    runs = [make_run(f"r{n}", phase=Phase.RUNNING, age=n, ttl_seconds_after_finished=0) for n in range(3)]
    assert expired(runs, keep=0, now=START) == []


def test_the_last_success_is_kept_beyond_the_limit() -> None:
    runs = [make_run("good", phase=Phase.SUCCEEDED, age=99)]
    runs += [make_run(f"bad{n}", phase=Phase.FAILED, age=n) for n in range(3)]
    assert names(expired(runs, keep=2, now=START)) == ["bad2"]


def test_ttl_counts_from_the_finish() -> None:
    run = make_run("r", phase=Phase.FAILED, age=0, ttl_seconds_after_finished=60)
    assert expired([run], keep=5, now=START + timedelta(seconds=59)) == []
    assert expired([run], keep=5, now=START + timedelta(seconds=60)) == [run]
