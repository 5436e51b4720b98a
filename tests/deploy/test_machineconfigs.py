"""What is said of a NodeObservabilityMachineConfig, what is left to turn off, and when the pool may go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodeobs.deploy.machineconfigs import FINALIZER, View, left, pool_needed, status_of, verdict
from nodeobs.deploy.machineobserved import Stored, Unread, read_stored
from nodeobs.deploy.machines import (
    LABEL,
    NODE_MANAGER,
    Machine,
    Pool,
    machine_config,
    machine_config_pool,
    node_with,
    read_machine,
    read_made,
    read_pool,
)
from nodeobs.model import NodeObservabilityMachineConfig, from_builtins, replace
from tests.deploy.documents import NOW

GROUP = "machineconfiguration.openshift.io"
MASTER = "node-role.kubernetes.io/master"

SELECTORS = st.dictionaries(st.sampled_from("ac"), st.sampled_from("bd"), max_size=2)


@st.composite
def machines(draw: st.DrawFn) -> list[Machine]:
    """Nodes of all kinds: whose label is ours, somebody else's or of no pool, and those of the control plane."""
    kinds = st.tuples(st.sampled_from(["", NODE_MANAGER, "kubectl", "yes"]), st.booleans(), SELECTORS)
    return [
        machine(
            f"node-{number}",
            *([MASTER] if master else []),
            *([LABEL] if by in (NODE_MANAGER, "kubectl") else []),
            by=by,
            **({LABEL: by} if by == "yes" else {}),
            **labels,
        )
        for number, (by, master, labels) in enumerate(draw(st.lists(kinds, max_size=6)))
    ]


def written(before: Machine, *, label: bool) -> Machine:
    """The node once its label was applied, or taken off."""
    labels = {key: value for key, value in before.labels.items() if key != LABEL} | ({LABEL: ""} if label else {})
    return Machine(before.name, before.uid, labels, label, before.in_pool)


def config(
    name: str = "cluster",
    *,
    on: bool = True,
    held: bool = True,
    selector: Mapping[str, str] | None = None,
    **metadata: Any,
) -> Any:
    finalizers = [FINALIZER] if held else []
    spec = {"debug": {"enableCrioProfiling": on}, "nodeSelector": {"a": "b"} if selector is None else selector}
    document = {"metadata": {"name": name, "finalizers": finalizers, **metadata}, "spec": spec}
    return from_builtins(document, NodeObservabilityMachineConfig)


def machine(name: str, *labels: str, by: str = NODE_MANAGER, config: str = "rendered-worker-1", **more: str) -> Machine:
    owned: dict[str, Any] = {"f:metadata": {"f:labels": {f"f:{label}": {} for label in labels}}}
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "labels": {"a": "b", **dict.fromkeys(labels, ""), **more},
        "annotations": {f"{GROUP}/currentConfig": config, f"{GROUP}/desiredConfig": "rendered-worker-1"},
        "managedFields": [{"manager": by, "operation": "Apply", "fieldsV1": owned}, {"manager": "kubelet"}],
    }
    return read_machine(json.dumps({"metadata": metadata, "spec": {}}).encode())


def pool(name: str = "nodeobservability", *true: str, ours: bool = True, **status: Any) -> Pool:
    conditions = [{"type": kind, "status": "True", "reason": "why", "message": f"{kind}!"} for kind in true]
    counts = {"machineCount": 1, "updatedMachineCount": 1, "observedGeneration": 2}
    metadata = {"name": name, "generation": 2, "annotations": machine_config()["metadata"]["annotations"]}
    if not ours:
        del metadata["annotations"]
    configuration = {"source": [{"name": "00-worker"}, {"name": "10-crio-nodeobservability"}]}
    given = {"conditions": conditions, "configuration": configuration, **counts, **status}
    return read_pool(json.dumps({"metadata": metadata, "spec": {}, "status": given}).encode())


def view(*pools: Pool, configs: Any = (), **given: Any) -> View:
    usual: dict[str, Any] = {
        "openshift": True,
        "served": True,
        "machines": (machine("one", LABEL),),
        "machine_config": read_made(json.dumps(machine_config()).encode()),
    }
    return View(configs=configs or (config(),), pools={one.name: one for one in pools}, **(usual | given))


def said(seen: View) -> tuple[bool, str, str]:
    return tuple(verdict(seen.configs[0], seen))  # type: ignore[return-value]


def test_it_is_on_once_the_pool_has_it_on_every_labelled_node() -> None:
    assert said(view(pool("nodeobservability", "Updated"))) == (True, "Ready", "CRI-O's profiling is on for 1 nodes")
    not_yet = [
        pool("nodeobservability", "Updated", "Updating"),
        pool("nodeobservability"),
        pool("nodeobservability", "Updated", observedGeneration=1),
        pool("nodeobservability", "Updated", updatedMachineCount=0),
        pool("nodeobservability", "Updated", machineCount=0, updatedMachineCount=0),
        pool("nodeobservability", "Updated", configuration={"source": [{"name": "00-worker"}]}),
        pool("nodeobservability", "Updated", configuration=None),
    ]
    for one in not_yet:
        enabled, reason, message = said(view(one))
        assert (enabled, reason) == (False, "Progressing"), one
        assert "is being rolled out, for which nodes restart" in message


def test_a_degraded_pool_is_a_failure() -> None:
    found = said(view(pool("nodeobservability", "Degraded")))
    assert found == (False, "Failed", "MachineConfigPool nodeobservability is degraded: why: Degraded!")


def test_a_paused_pool_is_told() -> None:
    raw = json.dumps({"metadata": {"name": "nodeobservability"}, "spec": {"paused": True}})
    assert said(view(read_pool(raw.encode())))[2].endswith("is paused: nothing happens until its spec.paused is false")


def test_it_is_made_step_by_step() -> None:
    ready = pool("nodeobservability", "Updated")
    for seen in (view(), view(ready, machine_config=None), view(ready, machines=(machine("one"),))):
        assert said(seen)[1:] == ("Progressing", "the MachineConfig, its pool and the nodes' labels are being written")


def test_problems_are_told() -> None:
    assert said(view(pool("nodeobservability", "Updated"), problems=("no right",))) == (False, "Failed", "no right")


def test_the_control_plane_is_never_labelled() -> None:
    apart = machine("apart", MASTER, by="kubelet")
    seen = view(pool("nodeobservability", "Updated"), machines=(machine("one", LABEL), apart))
    assert seen.to_label == []
    assert said(seen)[2] == "CRI-O's profiling is on for 1 nodes. of the control plane, and left alone: apart"
    assert said(view(machines=(apart,)))[1:] == (
        "Invalid",
        "of the control plane, and left alone: apart. no other node is selected",
    )
    # One that was labelled, and became one of the control plane's.
    turned = machine("apart", MASTER, LABEL)
    assert view(machines=(turned,)).to_unlabel == [turned]


def test_which_nodes_are_labelled_and_which_are_not_any_more() -> None:
    both, new, theirs = machine("both", LABEL), machine("new"), machine("theirs", LABEL, by="kubectl")
    astray = machine("astray", LABEL, a="c")
    machines = (both, new, theirs, astray)
    assert (view(machines=machines).to_label, view(machines=machines).to_unlabel) == ([new], [astray])
    off = view(configs=(config(on=False),), machines=machines)
    assert (off.to_label, off.to_unlabel) == ([], [both, astray])
    # Before its finalizer is there nothing is turned on; but nothing of it is turned off either.
    bare = view(configs=(config(held=False),), machines=machines)
    assert (bare.held, bare.to_label, bare.to_unlabel) == ([], [], [astray])
    assert left(view(configs=(config(held=False),))) == ""


@given(machines(), st.lists(st.tuples(st.booleans(), SELECTORS), max_size=4))
def test_one_round_labels_the_union_of_all_that_are_on_and_the_next_nothing(
    found: list[Machine], wishes: list[tuple[bool, dict[str, str]]]
) -> None:
    configs = tuple(config(f"c-{n}", on=on, selector=selector) for n, (on, selector) in enumerate(wishes))
    seen = View(openshift=True, served=True, configs=configs, machines=found)
    on, off = ({one.name for one in some} for some in (seen.to_label, seen.to_unlabel))
    wanted = {
        one.name
        for one in found
        if MASTER not in one.labels
        and any(wish and selector.items() <= one.labels.items() for wish, selector in wishes)
    }
    assert on == {one.name for one in found if one.name in wanted and LABEL not in one.labels}
    assert off == {one.name for one in found if one.name not in wanted and one.ours}
    after = [written(one, label=one.name in on) if one.name in on | off else one for one in found]
    settled = View(openshift=True, served=True, configs=configs, machines=after)
    assert (settled.to_label, settled.to_unlabel) == ([], [])


def test_an_empty_selector_is_every_node_but_the_control_planes() -> None:
    everywhere = (config(selector={}),)
    apart, plain = machine("apart", MASTER, by="kubelet"), machine("plain", a="c")
    seen = view(configs=everywhere, machines=(machine("one"), plain, apart))
    assert [one.name for one in seen.to_label] == ["one", "plain"]
    assert said(view(configs=everywhere, machines=(apart,)))[1] == "Invalid"


def test_a_label_with_a_value_is_told_and_brings_no_node_into_the_pool() -> None:
    valued = machine("one", **{LABEL: "yes"})
    seen = view(pool("nodeobservability", "Updated"), machines=(valued, machine("two", LABEL)))
    assert (seen.to_label, seen.to_unlabel) == ([], [])
    assert said(seen)[1:] == (
        "Failed",
        f"the label {LABEL} of one has a value that somebody else set, with which the pool does not select it",
    )
    back = view(pool("worker", "Updated"), pool(machineCount=0), machines=(valued,))
    assert pool_needed(back) == ""


def test_what_is_left_is_told_in_turn() -> None:
    off = (config(on=False),)
    workers = pool("worker", "Updated", ours=False)
    mine = pool("nodeobservability", machineCount=0, updatedMachineCount=0)
    bare = (machine("one"),)
    assert "is being taken off one" in left(view(mine, workers, configs=off))
    assert "MachineConfig 10-crio-nodeobservability is being del" in left(view(mine, configs=off, machines=bare))
    gone: dict[str, Any] = {"configs": off, "machines": bare, "machine_config": None}
    assert "MachineConfigPool nodeobservability is being del" in left(view(mine, workers, **gone))
    assert "MachineConfigPool worker is being rolled out" in left(view(mine, pool("worker", "Updating"), **gone))
    assert left(view(workers, **gone)) == ""
    assert left(view(workers, pool(ours=False), **gone)) == "", "somebody else's pool is theirs"
    seen = view(mine, workers, **(gone | {"configs": (config(on=False), config("other"))}))
    assert left(seen) == "", "another one has it on"


def test_the_pool_stays_while_a_node_depends_on_it() -> None:
    workers, mine = pool("worker", "Updated"), pool(machineCount=0)
    back = view(mine, workers, machines=(machine("one"),))
    assert pool_needed(back) == ""
    labelled = view(mine, workers, machines=(machine("one", LABEL, by="kubectl"),))
    assert "stays while one has the label" in pool_needed(labelled)
    moving = view(mine, workers, machines=(machine("one", config="rendered-nodeobservability-7"),))
    assert "stays until one is back in the pool of workers" in pool_needed(moving)
    assert "still counts 1 nodes" in pool_needed(view(pool(), workers, machines=()))


def test_off_and_leaving() -> None:
    off = view(configs=(config(on=False),), machines=(), machine_config=None)
    assert said(off) == (False, "Ready", "CRI-O's profiling is not turned on by this")
    leaving = config(deletionTimestamp="2026-01-01T00:00:00Z")
    degraded = pool("worker", "Degraded")
    seen = view(degraded, pool(machineCount=0), configs=(leaving,), machines=(), machine_config=None)
    assert said(seen) == (False, "Failed", "MachineConfigPool worker is degraded: why: Degraded!")


def test_elsewhere_it_says_why_nothing_is_changed() -> None:
    enabled, reason, message = said(view(openshift=False, served=False))
    assert (enabled, reason) == (False, "Invalid")
    assert "the service's setting openshift is off" in message
    reason, message = said(view(served=False))[1:]
    assert reason == "Failed"
    assert "the API server has no machineconfiguration.openshift.io/v1, though the setting openshift is on" in message
    assert said(view(configs=(config(on=False),), openshift=False, served=False))[1] == "Ready"


def test_the_status_changes_only_with_what_it_says() -> None:
    one = config()
    seen = view(pool("nodeobservability", "Updated"))
    status = status_of(one, verdict(one, seen), now=NOW)
    assert [(item.type, item.status, item.reason) for item in status.conditions] == [
        ("DebugEnabled", "True", "Enabled"),
        ("Ready", "True", "Ready"),
    ]
    assert status.last_reconcile == NOW
    later = NOW + timedelta(hours=1)
    told = replace(one, status=status)
    assert status_of(told, verdict(told, seen), now=later) is status
    changed = status_of(told, verdict(told, view(pool("nodeobservability", "Updating"))), now=later)
    assert [item.reason for item in changed.conditions] == ["Progressing", "Progressing"]
    assert [item.last_transition_time for item in changed.conditions] == [later, later]
    off = config(on=False)
    turned = replace(off, status=status)
    reasons = [item.reason for item in status_of(turned, verdict(off, view(configs=(off,))), now=later).conditions]
    assert reasons == ["Disabled", "Progressing"]


def test_what_is_applied() -> None:
    assert machine_config()["metadata"]["labels"][f"{GROUP}/role"] == "nodeobservability"
    (roles,) = machine_config_pool()["spec"]["machineConfigSelector"]["matchExpressions"]
    assert roles == {"key": f"{GROUP}/role", "operator": "In", "values": ["worker", "nodeobservability"]}
    assert node_with(machine("one"), label=True)["metadata"] == {
        "name": "one",
        "uid": "uid-one",
        "labels": {LABEL: ""},
    }
    assert "labels" not in node_with(machine("one"), label=False)["metadata"]


def test_what_others_wrote_into_it_is_seen_whoever_owns_the_fields() -> None:
    wanted = machine_config()
    assert read_made(json.dumps(wanted).encode()).unchanged(wanted) is not None
    other = wanted | {"spec": {"config": {"ignition": {"version": "3.2.0"}, "systemd": {"units": []}}}}
    assert read_made(json.dumps(other).encode()).unchanged(wanted) is None
    spec = wanted["spec"]["config"]
    added = wanted | {"spec": {"config": spec | {"storage": {}}, "kernelType": ""}}
    assert read_made(json.dumps(added).encode()).unchanged(wanted) is not None, "what others add stays"
    pool_document = machine_config_pool()
    more = pool_document | {"spec": pool_document["spec"] | {"paused": False, "maxUnavailable": 1}}
    assert read_pool(json.dumps(more).encode()).unchanged(pool_document) is not None


def test_what_one_that_cannot_be_read_wants_is_not_turned_off() -> None:
    off = config(on=False)
    seen = view(configs=(off,), unread=("odd",))
    assert seen.to_unlabel == []
    assert said(seen) == (
        False,
        "Failed",
        "nothing is turned off while NodeObservabilityMachineConfig odd cannot be read: mend it",
    )
    on = view(pool("nodeobservability", "Updated"), unread=("odd",))
    assert said(on)[:2] == (True, "Ready")


def test_one_whose_status_cannot_be_read_still_says_what_it_wants() -> None:
    document = {"metadata": {"name": "one"}, "spec": {"debug": {"enableCrioProfiling": True}}}
    odd = read_stored(json.dumps(document | {"status": {"lastReconcile": "0000-01-01T00:00:00Z"}}).encode())
    assert isinstance(odd, Stored)
    assert odd.config.spec.debug.enable_crio_profiling
    assert odd.config.status.last_reconcile is None
    assert read_stored(json.dumps(document | {"spec": {"nodeSelector": 1}}).encode()) == Unread("one")


def test_an_operators_long_story_fits_into_the_status() -> None:
    long = pool("worker", conditions=[{"type": "Degraded", "status": "True", "message": "x" * 40_000}])
    seen = view(long, pool(machineCount=0), configs=(config(on=False),), machines=(), machine_config=None)
    assert len(said(seen)[2]) <= 4096
