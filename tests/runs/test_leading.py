"""What a controller does with Runs that others left, and with a lead that it loses."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from nodeobs.errors import NotFound
from nodeobs.model import DriverClaim, NodeObservability, Phase, Run, replace
from nodeobs.runs.claimed import FINALIZER
from nodeobs.runs.controller import Controller
from nodeobs.runs.driver import Ending
from tests.builders import make_run
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for
from tests.runs.conftest import World, now

pytestmark = pytest.mark.slow


class Term:
    """A lead that the test takes away."""

    def __init__(self, number: int) -> None:
        self.holder = f"holder-{number}"
        self.leader = "somebody"
        self.number = number
        self.lost = threading.Event()
        self.tries = 0

    def try_acquire(self) -> int | None:
        self.tries += 1
        return None if self.lost.is_set() else self.number

    def held(self) -> bool:
        return not self.lost.is_set()

    def release(self) -> None:
        self.lost.set()


class Notebook:
    """Keeps the Events that it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def record(self, run: Run, *, type: str, reason: str, message: str) -> None:  # noqa: A002
        self.seen.append((run.metadata.name, type, reason))


def controller(world: World, term: Term, **around: Any) -> Controller:
    return Controller(
        store=world.store,
        leadership=term,
        surroundings=replace_around(world, **around),
        history=world.history,
        beside=[world.housekeeping().run],
        metrics=world.metrics,
        now=now,
    )


def replace_around(world: World, **changes: Any) -> Any:
    return dataclasses.replace(world.surroundings(), **changes)


def test_a_lost_lead_lets_go_and_the_next_leader_finishes_the_run(world: World) -> None:
    fleet = world.agents(Behaviour(), Behaviour())
    first, second = Term(1), Term(2)
    world.lead(controller(world, first))
    run = world.store.create(make_run(duration_seconds=3))
    wait_for("agents start", lambda: all(agent.started_at for agent in fleet.agents))
    first.lost.set()
    world.lead(controller(world, second))
    done = world.wait(run)
    assert done.status.phase is Phase.SUCCEEDED
    assert done.status.driver == DriverClaim(holder="holder-2", term=2)
    assert len(done.status.agents) == 2
    assert [len(agent.asked("POST")) for agent in fleet.agents] == [2, 2], "asked again, which starts nothing"


def test_a_driver_of_an_earlier_term_writes_nothing_any_more(world: World) -> None:
    world.agents(Behaviour())
    run = world.store.create(make_run(duration_seconds=1))
    driver = world.driver(run)
    world.store.update(replace(run, status=replace(run.status, driver=DriverClaim(holder="later", term=7))))
    with pytest.raises(Exception, match="driven by later, in term 7"):
        driver.drive()
    assert world.get(run).status.phase is Phase.PENDING


def test_a_finished_run_that_its_driver_could_not_let_go_is_let_go(world: World) -> None:
    world.agents(Behaviour())
    stuck = world.store.create(make_run("stuck", phase=Phase.SUCCEEDED))
    stuck = world.store.update(replace(stuck, metadata=replace(stuck.metadata, finalizers=(FINALIZER, "other/one"))))
    world.lead()
    wait_for("it is let go", lambda: world.get(stuck).metadata.finalizers == ("other/one",))
    later = world.store.create(make_run("later", phase=Phase.SUCCEEDED))
    later = world.store.update(replace(later, metadata=replace(later.metadata, finalizers=(FINALIZER,))))
    world.store.delete(Run, "later", "nodeobs")

    def gone() -> bool:
        try:
            world.get(later)
        except NotFound:
            return True
        return False

    wait_for("it is gone", gone)


def test_a_run_whose_nodeobservability_was_deleted_says_so(world: World) -> None:
    world.agents(Behaviour())
    run = world.store.create(make_run())
    world.store.delete(NodeObservability, "cluster")
    driver = world.driver(run)
    assert driver.drive() is Ending.FINISHED
    status = world.get(run).status
    assert status.phase is Phase.FAILED
    assert status.conditions[0].reason == "MissingNodeObservability"
    assert "'cluster' was deleted" in status.conditions[0].message


def test_a_nodeobservability_that_was_deleted_raises_no_alert(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeobs.runs.controller._WATCH_SECONDS", 0.2)

    def shown() -> float | None:
        series = {"nodeobservability": "cluster"}
        return world.metrics.registry.get_sample_value("nodeobs_last_run_failed_agents", series)

    world.agents(Behaviour(), Behaviour(start_status=401))
    world.lead()
    world.wait(world.store.create(make_run(duration_seconds=1)))
    wait_for("the Run is shown", lambda: shown() == 1)
    world.store.delete(NodeObservability, "cluster")
    wait_for("it is shown no more", lambda: shown() is None)


def test_a_run_belongs_to_its_nodeobservability(world: World) -> None:
    world.agents(Behaviour())
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    parent = world.store.get(NodeObservability, "cluster")
    (owner,) = run.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid) == ("NodeObservability", "cluster", parent.metadata.uid)
    assert not owner.controller


def test_events_tell_the_start_each_reason_the_end_and_a_rejection(world: World) -> None:
    world.agents(Behaviour(), Behaviour(start_status=401), Behaviour(start_status=401))
    notebook = Notebook()
    world.store.create(make_run("first", duration_seconds=1))
    second = world.store.create(make_run("second", duration_seconds=1))
    world.lead(controller(world, Term(1), recorder=notebook))
    world.wait(second)
    wait_for("the end is told", lambda: ("first", "Normal", "Finished") in notebook.seen)
    assert sorted(notebook.seen) == [
        ("first", "Normal", "Finished"),
        ("first", "Normal", "Started"),
        ("first", "Warning", "AgentFailed"),
        ("second", "Warning", "Rejected"),
    ]


def test_who_stands_by_says_once_for_whom(world: World) -> None:
    ahead = Term(1)
    ahead.lost.set()
    with capture_logs() as logs:
        hand_over = world.lead(controller(world, ahead))
        wait_for("it tried twice", lambda: ahead.tries >= 2)
        hand_over()
    assert [entry["leader"] for entry in logs if entry["event"] == "standing by"] == ["somebody"]
