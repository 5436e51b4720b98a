"""Notifications answered over a real store."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from nodeobs.errors import AlreadyExists, StoreUnavailable
from nodeobs.metrics import ALERT_OUTCOMES, Metrics
from nodeobs.model import Phase, Resource, Run, RunStatus, TriggerRecord, decode_json, encode_json, replace
from nodeobs.runs.alerts import Answer, answer, remember
from nodeobs.runs.notification import Notification
from nodeobs.runs.rules import admit
from nodeobs.runs.triggers import Outcome, Trigger
from nodeobs.store.base import Admit, R
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_observability, make_run
from tests.runs.alert_builders import FIRED, make_alert, make_notification, make_trigger


def clock() -> datetime:
    return datetime.now(UTC)


class Crash(BaseException):
    """The process ends here."""


class HinderedStore(SqliteStore):
    """A real store; what ``before`` holds is done, or raised, once before the next write of that kind."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, now=clock)
        self.before: dict[type[Resource], list[Callable[[], object]]] = {}

    def create(self, resource: R, *, admit: Admit | None = None) -> R:
        self._meddle(type(resource))
        return super().create(resource, admit=admit)

    def update(self, resource: R) -> R:
        self._meddle(type(resource))
        return super().update(resource)

    def _meddle(self, kind: type[Resource]) -> None:
        if waiting := self.before.get(kind):
            waiting.pop(0)()


def fail(error: BaseException) -> Callable[[], object]:
    def raise_it() -> None:
        raise error

    return raise_it


@dataclass
class World:
    """One service as far as alerts are concerned."""

    store: HinderedStore
    rules: Sequence[Trigger] = (make_trigger(),)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.registry)

    def tell(self, notification: Notification, *, now: datetime | None = None, finish: bool = False) -> Answer:
        """Send it; ``finish``: all Runs that are going end before and after."""
        if finish:
            self.finish()
        answered = answer(
            notification,
            self.rules,
            store=self.store,
            admit=partial(admit, now=clock),
            now=now or clock(),
            default_namespace="nodeobs",
            metrics=self.metrics,
        )
        if finish:
            self.finish()
        return answered

    def finish(self, phase: Phase = Phase.SUCCEEDED) -> None:
        for run in self.store.list(Run):
            if not run.status.phase.final:
                self.store.update(replace(run, status=RunStatus(phase=phase, finished_timestamp=clock())))

    def counted(self, outcome: str) -> float | None:
        return self.registry.get_sample_value("nodeobs_alert_notifications_total", {"outcome": outcome})


def outcomes(answered: Answer) -> list[str]:
    return [alert.outcome.value for alert in answered.alerts]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = HinderedStore(tmp_path / "nodeobs.db")
    store.create(make_observability("cluster", "kubelet", "crio"))
    yield World(store)
    store.close()


def test_what_is_answered_as_created_is_in_the_store(world: World) -> None:
    answered = world.tell(make_notification(make_alert("a", node="w1"), make_alert("b", node="w2")))
    (run,) = world.store.list(Run)
    assert outcomes(answered) == ["created", "created"]
    assert answered.runs == (run.key,)
    assert run.metadata.namespace == "nodeobs"
    assert run.spec.nodes == ("w1", "w2")
    record = world.store.get(TriggerRecord, "kubelet-slow")
    assert [(known.fingerprint, known.starts_at, known.run, known.nodes) for known in record.answered] == [
        ("a", FIRED, run.key, ("w1",)),
        ("b", FIRED, run.key, ("w2",)),
    ]


def test_the_answer_tells_what_became_of_each_alert_in_its_order(world: World) -> None:
    answered = world.tell(
        make_notification(
            make_alert("a", alertname="Disk"),
            make_alert("b", node="w1"),
            make_alert("c", resolved=True),
            make_alert("d", node="../x"),
        )
    )
    (key,) = answered.runs
    document = decode_json(encode_json(answered), dict)
    assert document["counts"] == {"unmatched": 1, "created": 1, "resolved": 1, "refused": 1}
    assert document["runs"] == [key]
    assert document["alerts"][1] == {
        "fingerprint": "b", "trigger": "kubelet-slow", "outcome": "created", "run": key, "message": "",
    }  # fmt: skip
    assert [(alert["fingerprint"], alert["outcome"]) for alert in document["alerts"]] == [
        ("a", "unmatched"), ("b", "created"), ("c", "resolved"), ("d", "refused"),
    ]  # fmt: skip


def test_each_alert_is_counted_by_its_outcome(world: World) -> None:
    notification = make_notification(make_alert("a"), make_alert("b"), make_alert("c", resolved=True))
    world.tell(notification)
    world.tell(notification)
    assert {outcome: world.counted(outcome) for outcome in ALERT_OUTCOMES} == {
        "created": 2, "duplicate": 2, "resolved": 2, "cooldown": 0, "run-in-progress": 0, "unmatched": 0,
        "refused": 0, "failed": 0,
    }  # fmt: skip
    assert {outcome.value for outcome in Outcome} < set(ALERT_OUTCOMES)


def test_without_rules_nothing_is_started(world: World) -> None:
    world.rules = ()
    assert outcomes(world.tell(make_notification(make_alert()))) == ["unmatched"]
    assert not world.store.list(Run)


def test_a_redelivery_is_a_duplicate_whatever_the_run_does(world: World) -> None:
    notification = make_notification(make_alert("a", node="w1"))
    (key,) = world.tell(notification).runs
    namespace, name = key.split("/")
    steps: list[Callable[[], None]] = [
        lambda: None,
        world.finish,
        partial(world.store.delete, Run, name, namespace),
    ]
    for step in steps:
        step()
        again = world.tell(notification, now=clock() + timedelta(days=1))
        assert outcomes(again) == ["duplicate"]
        assert again.alerts[0].run == key
        assert again.runs == ()


def test_the_other_alertmanager_of_a_pair_adds_only_what_is_new(world: World) -> None:
    world.tell(make_notification(make_alert("a", node="w1")))
    world.finish()
    answered = world.tell(make_notification(make_alert("a", node="w1"), make_alert("b", node="w2")))
    assert outcomes(answered) == ["duplicate", "created"]
    assert [run.spec.nodes for run in world.store.list(Run)] == [("w1",), ("w2",)]


def test_a_node_cools_down(world: World) -> None:
    world.tell(make_notification(make_alert("a", node="w1")))
    world.finish()
    later = make_notification(make_alert("a", node="w1", since=FIRED + timedelta(minutes=1)))
    assert outcomes(world.tell(later)) == ["cooldown"]
    assert outcomes(world.tell(later, now=clock() + timedelta(minutes=31))) == ["created"]


def test_every_trigger_gets_its_own_run(world: World) -> None:
    world.store.create(make_observability("other"))
    world.rules = (make_trigger("db", "team=db", nodes_from=()), replace_observability(make_trigger("rest"), "other"))
    answered = world.tell(make_notification(make_alert("a", node="w1"), make_alert("b", team="db")))
    assert outcomes(answered) == ["created", "created"]
    assert {run.spec.node_observability_ref.name for run in world.store.list(Run)} == {"cluster", "other"}
    assert len(set(answered.runs)) == 2


def replace_observability(trigger: Trigger, name: str) -> Trigger:
    return Trigger(name=trigger.name, matchers=trigger.matchers, node_observability=name)


class TestRunInProgress:
    def test_is_told_with_its_holder(self, world: World) -> None:
        world.store.create(make_run("going"))
        (alert,) = world.tell(make_notification(make_alert())).alerts
        assert alert.outcome is Outcome.RUN_IN_PROGRESS
        assert alert.run == "nodeobs/going"
        assert "nodeobs/going" in alert.message
        assert world.counted("run-in-progress") == 1
        assert len(world.store.list(Run)) == 1

    def test_is_not_remembered_so_that_a_redelivery_can_succeed(self, world: World) -> None:
        world.store.create(make_run("going"))
        notification = make_notification(make_alert("a", node="w1"), make_alert("a", node="w1"))
        assert outcomes(world.tell(notification)) == ["run-in-progress", "run-in-progress"]
        assert not world.store.list(TriggerRecord)
        world.finish()
        assert outcomes(world.tell(notification)) == ["created", "duplicate"]


class TestRefused:
    @pytest.mark.parametrize(
        ("trigger", "says"),
        [
            (replace_observability(make_trigger(), "nowhere"), "there is no NodeObservability 'nowhere'"),
            (make_trigger(targets=("etcd",)), "has no target 'etcd'"),
        ],
    )
    def test_says_why_and_writes_nothing(self, world: World, trigger: Trigger, says: str) -> None:
        world.rules = (trigger,)
        with capture_logs() as logs:
            (alert,) = world.tell(make_notification(make_alert())).alerts
        assert alert.outcome is Outcome.REFUSED
        assert says in alert.message
        assert alert.run is None
        assert not world.store.list(Run)
        assert not world.store.list(TriggerRecord)
        assert [(entry["log_level"], entry["trigger"]) for entry in logs] == [("warning", "kubelet-slow")]


class TestRaces:
    def test_another_replica_that_was_faster_makes_it_a_duplicate(self, world: World) -> None:
        notification = make_notification(make_alert("a", node="w1"))
        world.store.before[Run] = [lambda: world.tell(notification)]
        assert outcomes(world.tell(notification)) == ["duplicate"]
        assert len(world.store.list(Run)) == 1

    def test_what_the_other_did_not_know_has_its_own_outcome(self, world: World) -> None:
        first = make_notification(make_alert("a", node="w1"))
        world.store.before[Run] = [lambda: world.tell(first, finish=True)]
        answered = world.tell(make_notification(make_alert("a", node="w1"), make_alert("b", node="w2")))
        assert outcomes(answered) == ["duplicate", "created"]
        assert len(world.store.list(Run)) == 2

    def test_the_record_is_written_although_another_writes_it_too(self, world: World) -> None:
        other = make_notification(make_alert("b", node="w2"), group_key="other")
        for fingerprint in ("a", "c"):
            world.finish()
            world.store.before[TriggerRecord] = [lambda: world.tell(other, finish=True)]
            world.tell(make_notification(make_alert(fingerprint, node=f"node-{fingerprint}")))
        record = world.store.get(TriggerRecord, "kubelet-slow")
        assert sorted(known.fingerprint for known in record.answered) == ["a", "b", "c"]

    def test_it_does_not_try_forever(self, world: World) -> None:
        world.store.before[Run] = [fail(AlreadyExists("it exists")) for _ in range(5)]
        with pytest.raises(StoreUnavailable, match="kubelet-slow"):
            world.tell(make_notification(make_alert()))
        assert outcomes(world.tell(make_notification(make_alert()))) == ["created"]

    def test_many_at_once_create_one_run(self, world: World, tmp_path: Path) -> None:
        notification = make_notification(*(make_alert(str(number), node=f"w{number}") for number in range(5)))
        found: list[str] = []
        barrier = threading.Barrier(8)

        def deliver() -> None:
            store = HinderedStore(tmp_path / "nodeobs.db")
            replica = World(store)
            barrier.wait(30)
            found.extend(set(outcomes(replica.tell(notification))))
            store.close()

        threads = [threading.Thread(target=deliver) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(found) == ["created"] + ["duplicate"] * 7
        assert len(world.store.list(Run)) == 1
        assert len(world.store.get(TriggerRecord, "kubelet-slow").answered) == 5


class TestFailure:
    def test_a_store_that_is_down_is_told_and_counted(self, world: World) -> None:
        world.store.before[Run] = [fail(StoreUnavailable("locked"))]
        notification = make_notification(make_alert("a"), make_alert("b"), make_alert("c", resolved=True))
        with pytest.raises(StoreUnavailable, match="locked"):
            world.tell(notification)
        assert not world.store.list(Run)
        assert world.counted("failed") == 2
        assert world.counted("created") == 0
        assert outcomes(world.tell(notification)) == ["created", "created", "resolved"]

    def test_what_was_created_before_it_went_down_is_a_duplicate_afterwards(self, world: World) -> None:
        world.store.create(make_observability("other"))
        world.rules = (make_trigger("db", "team=db"), replace_observability(make_trigger("rest"), "other"))
        world.store.before[Run] = [lambda: None, fail(StoreUnavailable("locked"))]
        notification = make_notification(make_alert("a", team="db"), make_alert("b"))
        with pytest.raises(StoreUnavailable):
            world.tell(notification)
        assert outcomes(world.tell(notification)) == ["duplicate", "created"]

    def test_a_crash_before_the_record_is_written_starts_no_second_run(self, world: World) -> None:
        world.store.before[TriggerRecord] = [fail(Crash())]
        notification = make_notification(make_alert("a", node="w1"))
        with pytest.raises(Crash):
            world.tell(notification)
        assert not world.store.list(TriggerRecord)
        assert outcomes(world.tell(notification)) == ["duplicate"]
        assert len(world.store.list(Run)) == 1

    def test_a_record_that_somebody_spoilt_leaves_no_alert_unanswered(self, world: World, tmp_path: Path) -> None:
        first = make_notification(make_alert("a", node="w1"))
        world.tell(first, finish=True)
        with sqlite3.connect(tmp_path / "nodeobs.db") as database:
            database.execute("UPDATE objects SET document = 'rubbish' WHERE kind = 'TriggerRecord'")
        database.close()
        assert outcomes(world.tell(make_notification(make_alert("b", node="w2")), finish=True)) == ["created"]
        # What is not remembered is known by the Runs.
        assert outcomes(world.tell(first)) == ["duplicate"]
        again = make_notification(make_alert("a", node="w1", since=FIRED + timedelta(minutes=1)))
        assert outcomes(world.tell(again)) == ["cooldown"]

    def test_whoever_drives_the_run_writes_the_record_that_a_crash_left_out(self, world: World) -> None:
        world.store.before[TriggerRecord] = [fail(Crash())]
        with pytest.raises(Crash):
            world.tell(make_notification(make_alert("a", node="w1")))
        (run,) = world.store.list(Run)
        remember(world.store, run)
        remember(world.store, run)
        world.finish()
        record = world.store.get(TriggerRecord, "kubelet-slow")
        assert [(entry.fingerprint, entry.run, entry.nodes) for entry in record.answered] == [("a", run.key, ("w1",))]
        again = make_notification(make_alert("a", node="w1"), make_alert("z", node="w1"), group_key="other")
        assert outcomes(world.tell(again)) == ["duplicate", "cooldown"]

    def test_a_record_made_by_whoever_drives_the_run_covers_its_nodes_only(self, world: World) -> None:
        world.store.before[TriggerRecord] = [fail(Crash())]
        with pytest.raises(Crash):
            world.tell(make_notification(*(make_alert(f"f{number}", node=f"w{number}") for number in range(40))))
        (run,) = world.store.list(Run)
        remember(world.store, run)
        world.finish()
        again = make_notification(make_alert("y", node="w39"), make_alert("z", node="elsewhere"), group_key="other")
        assert outcomes(world.tell(again)) == ["cooldown", "created"]

    def test_an_alert_is_recorded_once_though_the_driver_was_faster(self, world: World) -> None:
        world.tell(make_notification(make_alert("before", node="w0")), finish=True)
        world.store.before[TriggerRecord] = [lambda: remember(world.store, world.store.list(Run)[-1])]
        world.tell(make_notification(make_alert("a", node="w1"), group_key="other"))
        record = world.store.get(TriggerRecord, "kubelet-slow")
        assert [entry.fingerprint for entry in record.answered] == ["before", "a"]

    def test_a_run_named_as_a_deleted_one_is_recorded_too(self, world: World) -> None:
        for fingerprint, node in (("a", "w1"), ("b", "w2")):
            world.tell(make_notification(make_alert(fingerprint, node=node)), finish=True)
            (run,) = world.store.list(Run)
            world.store.delete(Run, run.metadata.name, run.metadata.namespace)
        record = world.store.get(TriggerRecord, "kubelet-slow")
        assert [entry.fingerprint for entry in record.answered] == ["a", "b"]
        assert len({entry.run for entry in record.answered}) == 1

    def test_whoever_drives_the_run_is_told_that_the_record_cannot_be_written_now(self, world: World) -> None:
        world.store.before[TriggerRecord] = [fail(StoreUnavailable("locked")), fail(StoreUnavailable("locked"))]
        world.tell(make_notification(make_alert("a", node="w1")))
        (run,) = world.store.list(Run)
        with pytest.raises(StoreUnavailable, match="locked"):
            remember(world.store, run)
        remember(world.store, run)
        assert len(world.store.get(TriggerRecord, "kubelet-slow").answered) == 1

    def test_a_record_that_cannot_be_written_is_logged_and_the_run_told(self, world: World) -> None:
        world.store.before[TriggerRecord] = [fail(StoreUnavailable("disk full"))]
        with capture_logs() as logs:
            assert outcomes(world.tell(make_notification(make_alert()))) == ["created"]
        warning = next(entry for entry in logs if entry["log_level"] == "warning")
        assert warning["error"] == "disk full"
        assert outcomes(world.tell(make_notification(make_alert()))) == ["duplicate"]


def test_an_alert_whose_run_was_rejected_starts_another(world: World) -> None:
    notification = make_notification(make_alert("a", node="w1"))
    world.tell(notification)
    world.finish(Phase.REJECTED)
    assert outcomes(world.tell(notification)) == ["created"]
    assert len(world.store.list(Run)) == 2


def test_ten_thousand_alerts_are_one_run_and_the_record_stays_bounded(world: World) -> None:
    alerts = [make_alert(f"{number:05}", node=f"worker-{number}") for number in range(10_000)]
    answered = world.tell(make_notification(*alerts))
    assert answered.counts == {"created": 10_000}
    (run,) = world.store.list(Run)
    assert run.spec.nodes == ()
    assert run.spec.trigger is not None
    assert len(run.spec.trigger.alerts) == 10_000
    record = world.store.get(TriggerRecord, "kubelet-slow")
    assert len(record.answered) == 10_000
    assert record.answered[-1].fingerprint == "09999"
    assert world.tell(make_notification(*alerts)).counts == {"duplicate": 10_000}
    world.finish()
    assert world.tell(make_notification(*alerts), now=clock() + timedelta(hours=1)).counts == {"duplicate": 10_000}
    world.tell(make_notification(make_alert("one more")), now=clock() + timedelta(hours=1))
    record = world.store.get(TriggerRecord, "kubelet-slow")
    assert (len(record.answered), record.answered[-1].fingerprint) == (1000, "one more")


def test_the_log_tells_which_run_was_started(world: World) -> None:
    with capture_logs() as logs:
        (key,) = world.tell(make_notification(make_alert("a"), make_alert("b"))).runs
    assert logs == [
        {"event": "alerts started a Run", "log_level": "info", "run": key, "trigger": "kubelet-slow", "alerts": 2}
    ]
