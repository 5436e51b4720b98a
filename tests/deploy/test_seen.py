"""What is read of nodes and pods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodeobs.deploy.seen import Taint, read_agent_pod, read_node
from nodeobs.errors import InvalidInput
from nodeobs.model import Toleration, from_builtins


def node(**status: Any) -> bytes:
    return json.dumps({"metadata": {"name": "a", "labels": {"x": "y"}}, "status": status}).encode()


@pytest.mark.parametrize(
    ("reported", "target"),
    [("containerd://1.7.2", "containerd"), ("cri-o://1.33.0", "crio"), ("docker://20.10", ""), ("", "")],
)
def test_the_runtime_is_the_one_that_the_node_reports(reported: str, target: str) -> None:
    assert read_node(node(nodeInfo={"containerRuntimeVersion": reported})).runtime == target


def test_what_does_not_matter_makes_no_difference() -> None:
    def at(time: str) -> bytes:
        return node(
            conditions=[{"type": "Ready", "status": "True", "lastHeartbeatTime": time}], images=[{"names": time}]
        )

    assert read_node(at("1")) == read_node(at("2"))
    assert read_node(at("1")).ready


def test_of_taints_those_matter_that_keep_pods_off_and_are_not_of_a_nodes_condition() -> None:
    taints = [
        {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
        {"key": "dedicated", "effect": "PreferNoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "leaving", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
    ]
    raw = json.dumps({"metadata": {"name": "a"}, "spec": {"taints": taints}}).encode()
    assert [str(taint) for taint in read_node(raw).taints] == ["dedicated=db:NoSchedule", "leaving:NoExecute"]


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "dedicated", "operator": "Exists"}, True),
        ({"key": "dedicated", "value": "db"}, True),
        ({"key": "dedicated", "value": "db", "effect": "NoSchedule"}, True),
        ({"key": "dedicated", "value": "db", "effect": "NoExecute"}, False),
        ({"key": "dedicated", "value": "web"}, False),
        ({"key": "dedicated"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_a_taint_is_tolerated_as_the_scheduler_says(toleration: dict[str, str], tolerated: bool) -> None:
    taint = Taint("dedicated", "NoSchedule", "db")
    assert taint.is_tolerated([from_builtins(toleration, Toleration)]) == tolerated
    assert not taint.is_tolerated([])


def test_a_new_node_says_nothing_yet() -> None:
    found = read_node(b'{"metadata": {"name": "a", "labels": null}, "status": {"conditions": null, "nodeInfo": null}}')
    assert (found.ready, found.runtime, found.labels) == (False, "", {})
    assert found.is_selected({})
    assert not found.is_selected({"x": "y"})


def test_a_pod_of_no_daemon_set_of_ours_is_left_out() -> None:
    with pytest.raises(InvalidInput, match=r"no label app\.kubernetes\.io/instance"):
        read_agent_pod(b'{"metadata": {"name": "a"}}')
