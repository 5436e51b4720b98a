"""The status of a NodeObservability: what is counted, what is missing, what is only said."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from nodeobs.deploy.drift import Held
from nodeobs.deploy.readiness import Findings, overlaps, status_of
from nodeobs.deploy.seen import AgentPod, Node, Taint
from nodeobs.model import Condition, NodeObservability, encode_json, from_builtins, replace
from tests.deploy.documents import NOW, observability

NOBODY = observability()


def node(name: str, *, ready: bool = True) -> Node:
    return Node(name, {}, ready, "containerd")


def pod(on: str, *, ready: bool = True, **status: Any) -> AgentPod:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    document = {
        "metadata": {"name": f"agent-{on}", "ownerReferences": [{"kind": "DaemonSet"}]},
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": [condition], **status},
    }
    return from_builtins({"instance": "agents", "address": "10.1.0.7", "pod": document}, AgentPod)


def rolled_out(**status: int) -> Held:
    given = {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2} | status
    return from_builtins({"metadata": {"name": "agents", "generation": 1}, "status": given}, Held)


def findings(**given: Any) -> Findings:
    usual: dict[str, Any] = {
        "selected": (node("a"), node("b")),
        "pods": (pod("a"), pod("b")),
        "daemon_set": rolled_out(),
        "targets": ("kubelet",),
    }
    return Findings(**(usual | given))


def ready(found: Findings, before: NodeObservability = NOBODY) -> Condition:
    (condition,) = status_of(before, found, now=NOW).conditions
    return condition


def test_all_is_well() -> None:
    status = status_of(NOBODY, findings(notes=("by the way",)), now=NOW)
    assert (status.count, status.targets, status.observed_generation) == (2, ("kubelet",), 3)
    assert status.last_updated == NOW
    (condition,) = status.conditions
    assert (condition.status, condition.reason) == ("True", "Ready")
    assert condition.message == "agents are ready on 2 of 2 nodes. by the way"


def test_a_pod_that_does_not_serve_is_named_with_why() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    bad = pod("b", ready=False, phase="Pending", containerStatuses=[waiting])
    found = ready(findings(pods=(pod("a"), bad)))
    assert (found.status, found.reason) == ("False", "Progressing")
    assert found.message == (
        "agents are ready on 1 of 2 nodes; b: its pod agent-b is not running: ImagePullBackOff: no such image"
    )


def test_a_node_without_a_pod_is_named() -> None:
    assert "1 of 2 nodes; b: has no pod of the DaemonSet yet" in ready(findings(pods=(pod("a"),))).message


def test_a_node_whose_taint_is_not_tolerated_is_named_with_it() -> None:
    tainted = replace(node("b"), taints=(Taint("dedicated", "NoSchedule", "db"),))
    found = findings(selected=(node("a"), tainted), pods=(pod("a"),))
    assert "b: has no pod of the DaemonSet yet" in ready(found).message, "all are tolerated where nothing is said"
    picky = replace(NOBODY, spec=replace(NOBODY.spec, tolerations=()))
    assert "b: its taint dedicated=db:NoSchedule is not among spec.tolerations" in ready(found, picky).message


def test_pods_that_are_not_the_daemon_sets_do_not_count() -> None:
    stray = replace(pod("b"), pod=replace(pod("b").pod, metadata=replace(pod("b").pod.metadata, owner_references=())))
    assert "agents are ready on 1 of 2 nodes" in ready(findings(pods=(pod("a"), stray))).message


def test_a_node_that_is_not_ready_is_named_and_not_waited_for() -> None:
    found = findings(selected=(node("a"), node("b", ready=False)), pods=(pod("a"), pod("b", ready=False)))
    condition = ready(found)
    assert condition.reason == "Ready"
    assert condition.message == "agents are ready on 1 of 2 nodes. not Ready, and not waited for: b"


def test_many_are_counted_and_a_few_named() -> None:
    nodes = tuple(node(f"n{number}") for number in range(5000))
    found = ready(findings(selected=nodes, pods=()))
    assert found.message.startswith("agents are ready on 0 of 5000 nodes; n0: has no pod")
    assert found.message.endswith("; and 4997 more")


def test_no_node_is_not_ready() -> None:
    found = ready(findings(selected=()))
    assert (found.reason, found.message) == (
        "NoNodes",
        "no node is selected: none has the labels of spec.nodeSelector",
    )


def test_a_roll_out_is_waited_for() -> None:
    assert ready(findings(daemon_set=rolled_out(updatedNumberScheduled=1))).message == (
        "agents are being updated: 1 of 2 nodes have the new one"
    )
    assert ready(findings(daemon_set=rolled_out(observedGeneration=0))).reason == "Progressing"
    assert ready(findings(daemon_set=None)).reason == "Progressing"


def test_a_roll_out_is_not_waited_for_where_the_node_is_not_ready() -> None:
    going = pod("b", ready=False)
    ending = replace(going.pod.metadata, deletion_timestamp=NOW)
    going = replace(going, pod=replace(going.pod, metadata=ending))
    asleep: dict[str, Any] = {"selected": (node("a"), node("b", ready=False)), "pods": (pod("a"), going)}
    assert ready(findings(**asleep, daemon_set=rolled_out(updatedNumberScheduled=1))).reason == "Ready"
    assert ready(findings(**asleep, daemon_set=rolled_out(updatedNumberScheduled=0))).reason == "Progressing"
    elsewhere = rolled_out(desiredNumberScheduled=1, updatedNumberScheduled=0)
    assert ready(findings(**asleep, daemon_set=elsewhere)).reason == "Progressing", "the taints of b are not tolerated"
    old = {**asleep, "pods": (pod("a"), pod("b", ready=False))}
    assert ready(findings(**old, daemon_set=rolled_out(updatedNumberScheduled=1))).reason == "Progressing"


def test_what_does_not_work_comes_first_and_what_waits_is_told() -> None:
    found = ready(findings(problems=("x is wrong",), waiting=("y waits",), pods=(pod("a"),)))
    assert (found.status, found.reason) == ("False", "Failed")
    assert found.message.startswith("x is wrong. agents are ready on 1 of 2 nodes; b: ")
    assert found.message.endswith("yet. y waits")
    assert ready(findings(waiting=("y waits",))).reason == "Progressing"


def test_without_agents_there_is_nothing_to_count() -> None:
    status = status_of(NOBODY, findings(agents=False, pods=(), daemon_set=None), now=NOW)
    assert status.count == 0
    assert status.conditions[0].message == (
        "the kubelets of 2 nodes are profiled through the API server, without agents"
    )


def test_nothing_changes_when_nothing_but_the_time_has() -> None:
    first = replace(NOBODY, status=status_of(NOBODY, findings(), now=NOW))
    later = NOW + timedelta(hours=1)
    assert status_of(first, findings(), now=later) is first.status
    second = status_of(first, findings(pods=(pod("a"),)), now=later)
    assert second.last_updated == later
    assert second.conditions[0].last_transition_time == later
    again = status_of(replace(NOBODY, status=second), findings(pods=()), now=later + timedelta(hours=1))
    assert again.conditions[0].last_transition_time == later, "it was False before"


def test_other_conditions_stay() -> None:
    other = Condition(type="Other", status="True")
    before = replace(NOBODY, status=replace(NOBODY.status, conditions=(other,)))
    assert [one.type for one in status_of(before, findings(), now=NOW).conditions] == ["Other", "Ready"]


def test_the_message_is_bounded() -> None:
    status = status_of(NOBODY, findings(problems=("x" * 3000, "y" * 3000)), now=NOW)
    assert len(status.conditions[0].message) == 4096
    from_builtins({"metadata": {"name": "a"}, "status": {"count": 1}}, NodeObservability)
    assert encode_json(status)


def test_nodes_of_two_are_named() -> None:
    selections = {"one": frozenset({"a", "b"}), "two": frozenset({"b", "c"}), "three": frozenset({"z"})}
    (said,) = overlaps("one", selections)
    assert said.startswith("NodeObservability two selects b as well: a program gives one CPU profile at a time")
    assert overlaps("three", selections) == ()
    everyone = {f"o{number}": frozenset({"a"}) for number in range(9)}
    assert len(overlaps("o0", everyone)) == 3


def test_who_has_said_enough_compares_no_more() -> None:
    class Compared(dict[str, frozenset[str]]):
        times = 0

        def __getitem__(self, key: str) -> frozenset[str]:
            self.times += 1
            return super().__getitem__(key)

    everyone = Compared({f"o{number}": frozenset({"a"}) for number in range(100)})
    overlaps("o0", everyone)
    assert everyone.times == 4
