"""Which Run an alert asks for, decided without a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.model import (
    AnsweredAlert,
    AnsweredRecord,
    Metadata,
    Phase,
    ProfileType,
    Run,
    RunTrigger,
    TriggerKind,
    TriggerRecord,
    decode_json,
    encode_json,
)
from nodeobs.runs.notification import Alert
from nodeobs.runs.triggers import History, Outcome, Plan, Trigger, assign, plan, recall
from tests.builders import START as NOW
from tests.builders import make_run
from tests.runs.alert_builders import FIRED, make_alert, make_trigger

NOTHING = History()


def decide(
    *alerts: Alert,
    trigger: Trigger | None = None,
    history: History = NOTHING,
    now: datetime = NOW,
    group_key: str = "group",
) -> Plan:
    """Plan for one trigger that matches all of these alerts."""
    rule = trigger or make_trigger()
    ((_, matched),) = assign([rule], alerts).matched
    return plan(rule, matched, group_key=group_key, history=history, now=now, default_namespace="nodeobs")


def outcomes(planned: Plan) -> list[str]:
    return [verdict.outcome.value for verdict in planned.verdicts]


def made(planned: Plan) -> Run:
    assert planned.run is not None
    return planned.run


def answering(planned: Plan, *, age: float = 0, phase: Phase = Phase.SUCCEEDED, name: str = "") -> Run:
    """The planned Run as a store has it some seconds after."""
    run = made(planned)
    return make_run(name or run.metadata.name, age=age, phase=phase, nodes=run.spec.nodes, trigger=run.spec.trigger)


class TestAssigning:
    def test_the_first_trigger_that_matches_wins(self) -> None:
        rules = [make_trigger("db", 'team="db"'), make_trigger("critical", "severity=critical"), make_trigger("all")]
        alerts = [make_alert("a"), make_alert("b", team="db"), make_alert("c", severity="info")]
        assigned = assign(rules, alerts)
        assert {rule.name: [m.alert.fingerprint for m in group] for rule, group in assigned.matched} == {
            "critical": ["a"],
            "db": ["b"],
            "all": ["c"],
        }

    def test_every_matcher_has_to_be_met(self) -> None:
        rule = make_trigger(matchers='alertname=KubeletSlow,severity="critical"')
        assert not assign([rule], [make_alert(severity="warning")]).matched

    def test_resolved_and_unmatched_alerts_start_nothing(self) -> None:
        assigned = assign([make_trigger()], [make_alert("a", resolved=True), make_alert("b", alertname="Disk")])
        assert not assigned.matched
        assert [verdict.outcome for verdict in assigned.settled] == [Outcome.RESOLVED, Outcome.UNMATCHED]

    def test_a_label_of_a_megabyte_is_refused(self) -> None:
        (verdict,) = assign([make_trigger()], [make_alert(junk="x" * 2**20)]).settled
        assert verdict.outcome is Outcome.REFUSED
        assert verdict.message == "the label 'junk' is longer than 4096 characters"


class TestNodes:
    @pytest.mark.parametrize(
        ("value", "node"),
        [
            ("worker-1", "worker-1"),
            ("worker-1:9100", "worker-1"),
            ("Worker-1.Example.COM:9100", "worker-1.example.com"),
            ("10.0.0.7:10250", "10.0.0.7"),
            ("10.0.0.7", "10.0.0.7"),
            ("[fd00::7]:10250", "fd00::7"),
            ("[fd00:0:0::7]", "fd00::7"),
            ("FD00::7", "fd00::7"),
            ("::1", "::1"),
        ],
    )
    def test_a_label_is_reduced_to_the_host(self, value: str, node: str) -> None:
        assert made(decide(make_alert(instance=value))).spec.nodes == (node,)

    @pytest.mark.parametrize(
        "value",
        [
            "../../etc",
            "a b",
            "a/b",
            "node\n",
            "-x",
            "x" * 254,
            ":9100",
            "[]:1",
            "[x]:1",
            "fe80::1%eth0",
            "a:b:c",
            "\x1b[2J",
        ],
    )
    def test_what_names_no_node_is_refused(self, value: str) -> None:
        assigned = assign([make_trigger()], [make_alert(node=value)])
        (verdict,) = assigned.settled
        assert not assigned.matched
        assert verdict.outcome is Outcome.REFUSED
        assert verdict.trigger == "kubelet-slow"
        assert "the label 'node'" in verdict.message
        assert verdict.message.isprintable()

    def test_the_first_label_that_names_a_node_is_taken(self) -> None:
        assert made(decide(make_alert(node="worker-1", instance="10.0.0.7:9100"))).spec.nodes == ("worker-1",)
        assert made(decide(make_alert(node="../x", instance="10.0.0.7:9100"))).spec.nodes == ("10.0.0.7",)
        assert made(decide(make_alert(node="", instance="10.0.0.7:9100"))).spec.nodes == ("10.0.0.7",)

    def test_an_alert_that_names_no_node_is_about_all(self) -> None:
        assert made(decide(make_alert())).spec.nodes == ()
        assert made(decide(make_alert("a"), make_alert("b", node="worker-1"))).spec.nodes == ()
        assert made(decide(make_alert(node="worker-1"), trigger=make_trigger(nodes_from=()))).spec.nodes == ()

    def test_more_nodes_than_a_run_may_list_are_all(self) -> None:
        alerts = [make_alert(str(number), node=f"worker-{number}") for number in range(5001)]
        assert len(made(decide(*alerts[:5000])).spec.nodes) == 5000
        assert made(decide(*alerts)).spec.nodes == ()

    @given(st.text(max_size=30))
    def test_any_label_names_a_valid_node_or_is_refused(self, value: str) -> None:
        assigned = assign([make_trigger()], [make_alert(node=value)])
        for rule, matched in assigned.matched:
            run = made(plan(rule, matched, group_key="", history=NOTHING, now=NOW, default_namespace="nodeobs"))
            assert decode_json(encode_json(run), Run) == run
        assert bool(assigned.matched) is not bool(assigned.settled)


class TestRun:
    def test_one_run_over_the_nodes_of_all_alerts(self) -> None:
        planned = decide(make_alert("a", node="w2"), make_alert("b", node="w1"), make_alert("c", node="w1:9100"))
        run = made(planned)
        assert run.spec.nodes == ("w1", "w2")
        assert run.spec.trigger == RunTrigger(
            kind=TriggerKind.ALERT,
            name="kubelet-slow",
            alerts=tuple(AnsweredAlert(fingerprint=fingerprint, starts_at=FIRED) for fingerprint in "abc"),
        )
        assert outcomes(planned) == ["created"] * 3
        assert {verdict.run for verdict in planned.verdicts} == {run.key}
        assert [(record.fingerprint, record.nodes) for record in planned.records] == [
            ("a", ("w2",)),
            ("b", ("w1",)),
            ("c", ("w1",)),
        ]

    def test_the_run_is_what_the_trigger_says(self) -> None:
        trigger = make_trigger(
            namespace="sre", profiles=(ProfileType.HEAP,), targets=("kubelet",), duration_seconds=7, nodes_from=()
        )
        run = made(decide(make_alert(), trigger=trigger))
        assert run.metadata.namespace == "sre"
        assert run.spec.node_observability_ref.name == "cluster"
        assert (run.spec.profiles, run.spec.targets, run.spec.duration_seconds) == (
            (ProfileType.HEAP,),
            ("kubelet",),
            7,
        )
        assert made(decide(make_alert())).metadata.namespace == "nodeobs"

    def test_the_same_alert_twice_in_a_notification_counts_once(self) -> None:
        planned = decide(make_alert("a", node="w1"), make_alert("a", node="w1"))
        assert outcomes(planned) == ["created", "duplicate"]
        assert len(planned.records) == 1

    def test_the_largest_run_can_be_stored(self) -> None:
        planned = decide(*(make_alert(str(number), node=f"worker-{number}") for number in range(10_000)))
        run = made(planned)
        assert decode_json(encode_json(run), Run) == run


class TestName:
    def test_it_is_the_same_for_everyone_who_is_told_the_same(self) -> None:
        alerts = [make_alert("a", since=FIRED + timedelta(minutes=1)), make_alert("b")]
        name = made(decide(*alerts)).metadata.name
        assert name == made(decide(*reversed(alerts), now=NOW + timedelta(hours=1))).metadata.name
        assert name.startswith("kubelet-slow-")
        assert len(name.removeprefix("kubelet-slow-")) == 10

    def test_it_differs_with_all_that_it_is_derived_from(self) -> None:
        names = {
            made(decide(make_alert())).metadata.name,
            made(decide(make_alert(), group_key="other")).metadata.name,
            made(decide(make_alert(since=FIRED + timedelta(microseconds=1)))).metadata.name,
            made(decide(make_alert(), trigger=make_trigger("other"))).metadata.name,
        }
        assert len(names) == 4

    def test_the_instant_counts_and_not_how_it_is_written(self) -> None:
        elsewhere = datetime.fromisoformat("2026-01-01T04:55:00+02:00")
        assert made(decide(make_alert(since=elsewhere))).metadata.name == made(decide(make_alert())).metadata.name

    @pytest.mark.parametrize("since", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
    def test_the_ends_of_time_are_instants_too(self, since: str) -> None:
        run = made(decide(make_alert(since=datetime.fromisoformat(since))))
        assert decode_json(encode_json(run), Run) == run

    def test_a_later_alert_of_the_group_that_began_at_the_same_instant_gets_another(self) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first, age=60)], record=None)
        second = decide(make_alert("a", node="w1"), make_alert("b", node="w2"), history=history)
        assert outcomes(second) == ["duplicate", "created"]
        assert made(second).key != made(first).key

    @given(
        st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,3}\Z"), st.text()
    )
    def test_it_is_valid_for_any_trigger(self, name: str, group_key: str) -> None:
        run = made(decide(make_alert(), trigger=make_trigger(name), group_key=group_key))
        assert decode_json(encode_json(run), Run) == run
        assert len(run.metadata.name) <= 63


class TestHistory:
    def test_an_alert_is_answered_once(self) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first, age=86_400)], record=None)
        again = decide(make_alert("a", node="w1"), history=history)
        assert again.run is None
        assert outcomes(again) == ["duplicate"]
        assert again.verdicts[0].run == made(first).key

    def test_an_alert_that_fires_anew_is_another(self) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first, age=86_400)], record=None)
        assert outcomes(decide(make_alert("a", node="w1", since=NOW), history=history)) == ["created"]

    def test_the_record_remembers_when_the_run_is_gone(self) -> None:
        first = decide(make_alert("a", node="w1"))
        record = TriggerRecord(metadata=Metadata(name="kubelet-slow"), answered=first.records)
        history = recall("kubelet-slow", runs=[], record=record)
        later = NOW + timedelta(minutes=29)
        known = [make_alert("a", node="w1"), make_alert("b", node="w1"), make_alert("c", node="w2")]
        assert outcomes(decide(*known, history=history, now=later)) == ["duplicate", "cooldown", "created"]

    def test_another_triggers_runs_and_those_of_people_do_not_count(self) -> None:
        alerts = (AnsweredAlert(fingerprint="a", starts_at=FIRED),)
        others = [
            make_run("r1", phase=Phase.SUCCEEDED),
            make_run("r2", trigger=RunTrigger(kind=TriggerKind.ALERT, name="other", alerts=alerts)),
            make_run("r3", trigger=RunTrigger(kind=TriggerKind.API, name="kubelet-slow", alerts=alerts)),
        ]
        history = recall("kubelet-slow", runs=others, record=None)
        assert outcomes(decide(make_alert("a"), history=history)) == ["created"]

    def test_a_rejected_run_answered_nothing_and_keeps_its_name(self) -> None:
        first = decide(make_alert("a", node="w1"))
        record = TriggerRecord(metadata=Metadata(name="kubelet-slow"), answered=first.records)
        history = recall("kubelet-slow", runs=[answering(first, phase=Phase.REJECTED)], record=record)
        again = decide(make_alert("a", node="w1"), history=history)
        assert outcomes(again) == ["created"]
        assert made(again).key != made(first).key

    @pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED, Phase.RUNNING])
    def test_other_runs_answered_whatever_came_of_them(self, phase: Phase) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first, phase=phase)], record=None)
        assert outcomes(decide(make_alert("a"), make_alert("b", node="w1"), history=history)) == [
            "duplicate",
            "cooldown",
        ]


class TestCooldown:
    @pytest.mark.parametrize(
        ("covered", "asked", "expected"),
        [
            (["w1"], "w1", "cooldown"),
            (["w1"], "w2", "created"),
            (["w1", "w2"], "w2", "cooldown"),
            ([""], "w1", "cooldown"),
            ([""], "", "cooldown"),
            (["w1", "w2"], "", "created"),
        ],
    )
    def test_a_recent_run_over_the_same_node_or_all_is_enough(
        self, covered: Sequence[str], asked: str, expected: str
    ) -> None:
        first = decide(*(make_alert(f"old-{node}", node=node) for node in covered))
        for known in ({"runs": [answering(first)], "record": None}, {"runs": [], "record": record_of(first)}):
            history = recall("kubelet-slow", **known)
            assert outcomes(decide(make_alert("new", node=asked), history=history)) == [expected]

    def test_it_ends_after_its_time(self) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first)], record=None)
        (verdict,) = decide(make_alert("b", node="w1"), history=history, now=NOW + timedelta(minutes=29)).verdicts
        assert verdict.outcome is Outcome.COOLDOWN
        assert verdict.run == made(first).key
        assert "another 60 s" in verdict.message
        after = NOW + timedelta(minutes=30)
        assert outcomes(decide(make_alert("b", node="w1"), history=history, now=after)) == ["created"]

    def test_the_newest_run_counts(self) -> None:
        runs = [answering(decide(make_alert("a", node="w1")), age=age, name=f"run-{age}") for age in (3600, 60, 7200)]
        history = recall("kubelet-slow", runs=runs, record=None)
        (verdict,) = decide(make_alert("b", node="w1"), history=history).verdicts
        assert verdict.run == "nodeobs/run-60"

    def test_none_is_possible(self) -> None:
        first = decide(make_alert("a", node="w1"))
        history = recall("kubelet-slow", runs=[answering(first)], record=None)
        trigger = make_trigger(cooldown_minutes=0)
        assert outcomes(decide(make_alert("b", node="w1"), history=history, trigger=trigger)) == ["created"]

    def test_only_the_new_alerts_nodes_are_profiled(self) -> None:
        history = recall("kubelet-slow", runs=[answering(decide(make_alert("a", node="w1")))], record=None)
        planned = decide(make_alert("b", node="w1"), make_alert("c", node="w2"), history=history)
        assert outcomes(planned) == ["cooldown", "created"]
        assert made(planned).spec.nodes == ("w2",)


def record_of(planned: Plan) -> TriggerRecord:
    return TriggerRecord(metadata=Metadata(name="kubelet-slow"), answered=planned.records)


arrivals = st.lists(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["w1", "w2", ""])), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@given(arrivals, st.integers(0, 40))
def test_no_alert_starts_two_runs_and_no_node_is_profiled_while_cooling(
    notifications: list[list[tuple[str, str]]], minutes: int
) -> None:
    runs: list[Run] = []
    records: tuple[AnsweredRecord, ...] = ()
    answered: set[Any] = set()
    covered: dict[str, datetime] = {}
    for number, notification in enumerate(notifications):
        now = NOW + timedelta(minutes=minutes * number)
        record = TriggerRecord(metadata=Metadata(name="kubelet-slow"), answered=records)
        history = recall("kubelet-slow", runs=runs, record=record)
        planned = decide(*(make_alert(f, node=node) for f, node in notification), history=history, now=now)
        assert [verdict.alert.fingerprint for verdict in planned.verdicts] == [f for f, _ in notification]
        if planned.run is None:
            assert "created" not in outcomes(planned)
            continue
        assert planned.run.key not in {run.key for run in runs}
        for entry in planned.records:
            assert entry.fingerprint not in answered
            answered.add(entry.fingerprint)
            for node in {"", *entry.nodes}:
                assert node not in covered or now - covered[node] >= timedelta(minutes=30)
        for node in planned.run.spec.nodes or [""]:
            covered[node] = now
        age = (NOW - now).total_seconds()
        runs.append(answering(planned, age=age))
        records += planned.records
