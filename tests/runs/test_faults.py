"""Runs while the stores fail, and while something goes wrong that nobody foresaw."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nodeobs.agents.agent import Agent
from nodeobs.errors import OutputStoreUnavailable, StoreDenied, StoreUnavailable
from nodeobs.model import Condition, DriverClaim, FailureReason, Phase, Run, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.outputs.store import OutputStore
from nodeobs.runs import delivery, results
from nodeobs.runs.claimed import FINALIZER
from nodeobs.store.base import Change, R
from nodeobs.store.sqlite import SqliteStore
from tests.builders import START, make_observability, make_run
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for
from tests.runs.conftest import World, now

pytestmark = pytest.mark.slow


class FaultyStore(SqliteStore):
    """A store that can be made to fail; its watches are short."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, now=now)
        self.unreadable = 0
        """So many reads by the threads that drive Runs fail."""
        self.unwatchable: Exception | None = None
        self.refused: set[str] = set()
        """Names of objects whose changes are refused."""

    def update(self, resource: R) -> R:
        if resource.metadata.name in self.refused:
            raise StoreDenied("as the test wants it")
        return super().update(resource)

    def delete(self, kind: type[R], name: str, namespace: str = "", *, uid: str = "") -> None:
        if name in self.refused:
            raise StoreDenied("as the test wants it")
        super().delete(kind, name, namespace, uid=uid)

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        if self.unreadable and threading.current_thread().name.startswith("run-"):
            self.unreadable -= 1
            raise StoreUnavailable("as the test wants it")
        return super().get(kind, name, namespace)

    def watch(self, kind: type[R], since: str, *, stop: threading.Event, seconds: float) -> Iterator[Change[R]]:
        if self.unwatchable:
            raise self.unwatchable
        return super().watch(kind, since, stop=stop, seconds=min(seconds, 0.5))


class FullOutputs(OutputStore):
    """Outputs that take files and no manifest."""

    def write_manifest(self, uid: str, manifest: Manifest) -> None:
        raise OutputStoreUnavailable("as the test wants it")


class FlakyOutputs(OutputStore):
    """Outputs that take every merged profile at the second attempt."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refused: set[str] = set()

    def put_file(self, uid: str, name: str, source: Path) -> None:
        if name.startswith("merged/") and name not in self.refused:
            self.refused.add(name)
            raise OutputStoreUnavailable("as the test wants it")
        super().put_file(uid, name, source)


@pytest.fixture
def faulty(world: World) -> FaultyStore:
    world.store.close()
    store = world.store = FaultyStore(world.folder / "nodeobs.db")
    world.stack.callback(store.close)
    return store


def condition(run: Run, kind: str) -> Condition:
    return next(condition for condition in run.status.conditions if condition.type == kind)


def stuck(world: World) -> Run:
    """A Run whose agents have delivered, and whose output cannot be stored."""
    world.outputs = FullOutputs(str(world.folder / "outputs"))
    world.agents(Behaviour())
    world.lead()
    run = world.store.create(make_run(duration_seconds=1))

    def explained() -> bool:
        return any("cannot store the output" in condition.message for condition in world.get(run).status.conditions)

    wait_for("the Run says why it does not go on", explained)
    return world.get(run)


def test_a_run_that_its_driver_let_go_of_is_taken_up_again(world: World, faulty: FaultyStore) -> None:
    fleet = world.agents(Behaviour())
    asked = []

    def roster() -> Sequence[Agent]:
        asked.append(1)
        if len(asked) == 1:
            faulty.unreadable = 1
            raise RuntimeError("a bug")
        return fleet.roster()

    world.lead(world.controller(agents=roster))
    run = world.wait(world.store.create(make_run(duration_seconds=1)), seconds=20)
    assert run.status.phase is Phase.SUCCEEDED


def test_a_controller_that_fails_leaves_no_housekeeping_behind(world: World, faulty: FaultyStore) -> None:
    faulty.unwatchable = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        world.controller().run(threading.Event())
    assert not [thread.name for thread in threading.enumerate() if thread.name == "housekeeping"]


def test_why_a_run_does_not_go_on_is_not_written_over_what_a_newer_driver_wrote(world: World) -> None:
    run = stuck(world)
    status = results.going(run.status, Phase.RETRIEVING, message="the newer driver's", now=START)
    newer = replace(status, driver=DriverClaim(holder="newer", term=10**6))
    world.store.update(replace(run, status=newer))
    wait_for("it lets go", lambda: world.value("nodeobs_run_in_progress", nodeobservability="cluster") == 0)
    assert world.get(run).status == newer


def test_a_run_whose_output_cannot_be_stored_can_be_cancelled(world: World) -> None:
    run = stuck(world)
    world.change(run, cancel=True)
    run = world.wait(run, seconds=20)
    assert run.status.phase is Phase.CANCELLED
    assert "as the test wants it" in condition(run, "Finished").message
    following = world.store.create(make_run("following", duration_seconds=1))
    wait_for("the next one is not held up", lambda: world.get(following).status.phase is not Phase.PENDING)


def test_a_merged_profile_that_cannot_be_stored_at_once_is_not_given_up(world: World) -> None:
    world.outputs = FlakyOutputs(str(world.folder / "outputs"))
    world.agents(Behaviour())
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert (Path(run.status.output) / "merged" / "kubelet-cpu.pb.gz").exists()
    assert condition(run, "Degraded").status == "False"


def test_a_spool_in_which_nothing_can_be_merged_costs_the_merged_profiles_only(world: World) -> None:
    world.agents(Behaviour())
    run = world.store.create(make_run(duration_seconds=1))
    spool = world.spool / run.metadata.uid
    spool.mkdir(parents=True)
    (spool / "merged").write_text("where the folder would be")
    world.lead()
    run = world.wait(run)
    assert run.status.phase is Phase.SUCCEEDED
    assert (Path(run.status.output) / "node-0" / "kubelet-cpu.pb.gz").exists()
    assert "merged kubelet cpu: cannot merge in the spool" in condition(run, "Degraded").message


@pytest.mark.parametrize("name", ["merged", "manifest.json"])
def test_a_node_called_as_a_part_of_every_output_does_not_hold_the_run_up(world: World, name: str) -> None:
    fleet = world.agents(Behaviour(), Behaviour())
    roster = [fleet.roster()[0], dataclasses.replace(fleet.roster()[1], name=name)]
    world.lead(world.controller(agents=lambda: roster))
    run = world.wait(world.store.create(make_run(duration_seconds=1)), seconds=20)
    assert [agent.name for agent in run.status.agents] == ["node-0"]
    assert f"cannot be called {name!r}" in run.status.failed_agents[0].message


class AwayOutputs(OutputStore):
    """Outputs that cannot be reached when files are to be stored."""

    def put_file(self, uid: str, name: str, source: Path) -> None:
        raise OutputStoreUnavailable("as the test wants it")


def test_what_could_not_be_stored_stays_on_its_agent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_STORE_PAUSES", (0.01, 0.01))
    world.outputs = AwayOutputs(str(world.folder / "outputs"))
    fleet = world.agents(Behaviour(), Behaviour(failing={"kubelet": FailureReason.FORBIDDEN}))
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    reasons = {agent.name: agent.reason for agent in run.status.failed_agents}
    assert reasons == {"node-0": FailureReason.INTERNAL, "node-1": FailureReason.FORBIDDEN}
    wait_for("the other agent may drop its copies", lambda: fleet[1].asked("DELETE"))
    assert not fleet[0].asked("DELETE")


def test_a_run_without_an_output_names_none(world: World) -> None:
    run = stuck(world)
    assert run.status.output
    world.change(run, cancel=True)
    assert world.wait(run, seconds=20).status.output == ""


def test_giving_up_on_a_run_that_is_handed_over_leaves_it_to_the_next_driver(world: World) -> None:
    run = world.store.create(make_run())
    driver = world.driver(run)
    driver.hand_over()
    driver.fail("as the test wants it")
    assert world.get(run).status.phase is Phase.PENDING


def test_a_run_that_cannot_be_written_holds_up_no_other(world: World, faulty: FaultyStore) -> None:
    """Somebody's policy may refuse every change of a Run."""
    world.agents(Behaviour())
    faulty.create(make_observability("second"))
    faulty.create(make_run("holder", parent="second", duration_seconds=600))
    faulty.refused = {"loser", "ended"}
    loser = faulty.create(make_run("loser", parent="second", duration_seconds=1))
    ended = faulty.create(make_run("ended", parent="third", phase=Phase.FAILED))
    SqliteStore.update(faulty, replace(ended, metadata=replace(ended.metadata, finalizers=(FINALIZER,))))
    world.lead()
    good = world.wait(faulty.create(make_run("good", duration_seconds=1)), seconds=20)
    assert good.status.phase is Phase.SUCCEEDED
    faulty.refused = set()
    assert world.wait(loser, seconds=20).status.phase is Phase.REJECTED
    wait_for("it is let go", lambda: not world.get(ended).metadata.finalizers)


@pytest.mark.parametrize("how", ["deleted by force", "finished by somebody"])
def test_the_agents_of_a_run_that_is_no_more_are_free_for_the_next(world: World, how: str) -> None:
    fleet = world.agents(Behaviour())
    world.lead()
    run = world.store.create(make_run(duration_seconds=600))
    wait_for("it profiles", lambda: fleet[0].started_at and world.get(run).status.phase is Phase.RUNNING)
    found = world.get(run)
    if how == "deleted by force":
        world.store.update(replace(found, metadata=replace(found.metadata, finalizers=())))
        world.store.delete(Run, run.metadata.name, run.metadata.namespace)
    else:
        world.store.update(replace(found, status=replace(found.status, phase=Phase.FAILED, driver=None)))
        world.store.delete(Run, run.metadata.name, run.metadata.namespace)
    wait_for("the agent is told", lambda: fleet[0].asked("DELETE"), seconds=20)
    wait_for("the Run is gone", lambda: not world.store.list(Run), seconds=30)
    again = world.wait(world.store.create(make_run("next", duration_seconds=1)), seconds=20)
    assert again.status.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("recovering", [False, True])
def test_a_run_whose_agents_cannot_be_found_says_so_and_can_be_cancelled(world: World, recovering: bool) -> None:
    def roster() -> Sequence[Agent]:
        raise StoreUnavailable("as the test wants it")

    world.lead(world.controller(agents=roster))
    run = world.store.create(make_run(phase=Phase.RUNNING if recovering else Phase.PENDING))

    def explained() -> bool:
        return any("cannot find the agents" in condition.message for condition in world.get(run).status.conditions)

    wait_for("the Run says why it does not go on", explained)
    world.change(run, cancel=True)
    assert world.wait(run, seconds=30).status.phase is Phase.CANCELLED


def test_a_run_that_is_cancelled_before_it_began_disturbs_no_agent(world: World) -> None:
    fleet = world.agents(Behaviour())
    run = world.store.create(make_run(cancel=True))
    world.lead()
    done = world.wait(run)
    assert done.status.phase is Phase.CANCELLED
    assert condition(done, "Finished").message == "cancelled before it began"
    assert not fleet[0].asked("POST")


def test_a_run_is_counted_once_although_what_follows_fails(world: World) -> None:
    fleet = world.agents(Behaviour())
    asked = []

    def roster() -> Sequence[Agent]:
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("a bug")
        return fleet.roster()

    stop = world.lead(world.controller(agents=roster))
    world.wait(world.store.create(make_run(duration_seconds=1)))
    wait_for("it fails", lambda: world.value("nodeobs_internal_errors_total", where="driver"))
    stop()
    assert world.value("nodeobs_runs_total", result="Succeeded", trigger="resource") == 1


def test_a_run_that_was_created_again_is_not_forgotten_in_place_of_the_old_one(world: World) -> None:
    old = world.store.create(make_run("nightly", phase=Phase.SUCCEEDED, ttl_seconds_after_finished=0))
    world.history.reset([old])
    world.store.delete(Run, "nightly", "nodeobs")
    new = world.store.create(make_run("nightly", duration_seconds=1))
    world.housekeeping().forget_runs()
    assert world.get(new).metadata.uid == new.metadata.uid


def test_a_run_that_cannot_be_forgotten_does_not_keep_the_others(world: World, faulty: FaultyStore) -> None:
    faulty.refused = {"kept"}
    runs = [
        faulty.create(make_run(name, phase=Phase.SUCCEEDED, ttl_seconds_after_finished=0)) for name in ("kept", "gone")
    ]
    world.history.reset(runs)
    world.housekeeping().forget_runs()
    assert [run.metadata.name for run in faulty.list(Run)] == ["kept"]
    faulty.refused = set()
    world.housekeeping().forget_runs()
    assert not faulty.list(Run)
