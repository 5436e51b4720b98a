"""One Run at a time, and what else may not start."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import InvalidInput, MissingNodeObservability, RunInProgress, UnknownTarget
from nodeobs.model import (
    Condition,
    NodeObservability,
    NodeObservabilityRef,
    NodeObservabilitySpec,
    Phase,
    Run,
    TargetSpec,
    replace,
)
from nodeobs.runs.rules import awaited, check_observability, may_exist, may_start, settle
from tests.builders import START, make_observability, make_run

GOING = [phase for phase in Phase if not phase.final]
FINAL = [phase for phase in Phase if phase.final]


@pytest.mark.parametrize("phase", GOING)
def test_a_run_is_refused_while_another_is_going(phase: Phase) -> None:
    holder = make_run("first", phase=phase, age=12)

    with pytest.raises(RunInProgress) as refusal:
        may_start(make_run("second"), runs=[holder], now=START)

    assert refusal.value.holder == "nodeobs/first"
    assert "nodeobs/first" in str(refusal.value)
    assert phase.value in str(refusal.value)
    assert "12 s" in str(refusal.value)


@pytest.mark.parametrize("phase", FINAL)
def test_finished_runs_hold_nothing(phase: Phase) -> None:
    may_start(make_run("second"), runs=[make_run("first", phase=phase)], now=START)


def test_runs_on_another_nodeobservability_do_not_conflict() -> None:
    may_start(make_run("second", parent="masters"), runs=[make_run("first", phase=Phase.RUNNING)], now=START)


def test_a_run_of_another_namespace_conflicts() -> None:
    with pytest.raises(RunInProgress):
        may_start(make_run("same", namespace="a"), runs=[make_run("same", namespace="b")], now=START)


def test_a_run_never_conflicts_with_itself() -> None:
    run = make_run("first", phase=Phase.RUNNING)
    may_start(run, runs=[run], now=START)


def test_a_missing_nodeobservability_is_named() -> None:
    with pytest.raises(MissingNodeObservability, match="'cluster'"):
        may_exist(make_run(), observability=None)


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownTarget, match=r"no target 'etcd'; its targets are crio, kubelet"):
        may_exist(make_run(targets=("etcd",)), observability=make_observability("cluster", "kubelet", "crio"))


def test_any_target_is_allowed_where_the_agents_decide() -> None:
    may_exist(make_run(targets=("etcd",)), observability=make_observability())


def test_the_reference_must_be_of_the_parents_type() -> None:
    run = make_run()
    ref = NodeObservabilityRef(name="cluster", type="scripting")
    with pytest.raises(InvalidInput) as refusal:
        may_exist(replace(run, spec=replace(run.spec, node_observability_ref=ref)), observability=make_observability())
    assert refusal.value.pointer == "/spec/nodeObservabilityRef/type"


def test_nothing_starts_on_what_nothing_acts_on() -> None:
    with pytest.raises(InvalidInput, match=r"'cluster' has spec\.type 'scripting', which nothing acts on") as refusal:
        may_exist(make_run(), observability=make_observability(type="scripting"))
    assert refusal.value.pointer == "/spec/nodeObservabilityRef/name"


def test_via_the_api_server_there_is_the_kubelet_only_whatever_is_listed() -> None:
    listed = make_observability("cluster", "kubelet", "crio", via="apiServer")
    may_exist(make_run(targets=("kubelet",)), observability=listed)
    with pytest.raises(UnknownTarget, match="its targets are kubelet: only the kubelet is profiled, via apiServer"):
        may_exist(make_run(targets=("crio",)), observability=listed)


@pytest.mark.parametrize("address", [{"url": "https://h/debug/pprof"}, {"socket": "/run/x"}])
def test_via_the_api_server_the_kubelet_has_no_address_of_its_own(address: dict[str, str]) -> None:
    targets = (TargetSpec(name="kubelet", **address),)
    check_observability(NodeObservabilitySpec(targets=targets))
    with pytest.raises(InvalidInput, match="target kubelet may have no address") as refusal:
        check_observability(NodeObservabilitySpec(targets=targets, via="apiServer"))
    assert refusal.value.pointer == "/spec/targets/0"


def test_what_is_not_possible_in_this_mode_starts_nothing() -> None:
    with pytest.raises(InvalidInput, match="'cluster': via 'apiServer' needs a cluster") as refusal:
        may_exist(make_run(), observability=make_observability(via="apiServer"), vias=["agents"])
    assert refusal.value.pointer == "/spec/nodeObservabilityRef/name"


def test_without_agents_there_is_nothing_to_wait_for() -> None:
    made = make_observability(via="apiServer")
    made = replace(made, metadata=replace(made.metadata, creation_timestamp=START))
    assert awaited(made, now=START, seconds=120) == ""


def test_a_claimed_run_stays_and_the_oldest_pending_one_goes_first() -> None:
    claimed = make_run("claimed", phase=Phase.RUNNING, age=1, claimed_in_term=3)
    older = make_run("older", age=50)
    assert settle([older, claimed]).driven == (claimed,)
    assert settle([older, claimed]).rejected == ((older, claimed),)

    younger = make_run("younger", age=49)
    assert settle([younger, older]).driven == (older,)


def test_a_run_that_is_being_driven_stays_although_an_older_one_turns_up_before_it_is_claimed() -> None:
    # The API server tells creations of one second apart by their uids alone, and shows them one after the other.
    late, driven = make_run("a-late", age=5), make_run("b-driven", age=5)
    settlement = settle([late, driven], begun={driven.metadata.uid})
    assert settlement.driven == (driven,)
    assert settlement.rejected == ((late, driven),)


def test_a_run_of_an_earlier_term_gives_way_to_that_of_a_later_one() -> None:
    earlier, later = make_run("a", age=9, claimed_in_term=1), make_run("b", claimed_in_term=2)
    assert settle([earlier, later]).driven == (later,)


RUNS = st.lists(
    st.builds(
        make_run,
        name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        parent=st.sampled_from(["cluster", "masters"]),
        phase=st.sampled_from(list(Phase)),
        age=st.integers(0, 3),
        claimed_in_term=st.none(),
    ),
    unique_by=lambda run: run.key,
    max_size=12,
)


@given(RUNS)
def test_settling_leaves_exactly_one_run_for_each_nodeobservability(runs: list[Run]) -> None:
    going = [run for run in runs if not run.status.phase.final]
    settlement = settle(runs)

    parents = [run.spec.node_observability_ref.name for run in settlement.driven]
    assert sorted(parents) == sorted({run.spec.node_observability_ref.name for run in going})
    assert {run.key for run in going} == {run.key for run in settlement.driven} | {
        run.key for run, _ in settlement.rejected
    }
    assert len(going) == len(settlement.driven) + len(settlement.rejected)
    backwards = settle(runs[::-1]).driven
    assert {run.key for run in backwards} == {run.key for run in settlement.driven}


def just_made(*, age: float = 10.0, generation: int = 1, **ready: Any) -> NodeObservability:
    """A NodeObservability of that age; ``ready`` is its condition."""
    made = make_observability()
    created = START - timedelta(seconds=age)
    conditions = (Condition(type="Ready", **ready),) if ready else ()
    return replace(
        made,
        metadata=replace(made.metadata, creation_timestamp=created, generation=generation),
        status=replace(made.status, conditions=conditions, observed_generation=1),
    )


@pytest.mark.parametrize(
    ("observability", "says"),
    [
        (just_made(), "are being made"),
        (just_made(status="False", reason="Progressing", message="ready on 0 of 3 nodes"), "ready on 0 of 3 nodes"),
        (just_made(status="True", reason="Ready", generation=2), "are being made"),
        (just_made(status="True", reason="Ready"), ""),
        (just_made(status="False", reason="Failed", message="no such right"), ""),
        (just_made(age=120.0, status="False", reason="Progressing", message="ready on 0 of 3 nodes"), ""),
        (just_made(age=120.0), ""),
    ],
)
def test_agents_are_waited_for_while_they_are_new(observability: NodeObservability, says: str) -> None:
    found = awaited(observability, now=START, seconds=120.0)
    assert says in found
    assert bool(says) == bool(found)


def test_nothing_is_waited_for_where_agents_are_somebody_elses() -> None:
    assert awaited(just_made(age=0.0), now=START, seconds=0.0) == ""
