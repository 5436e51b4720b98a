"""Kubelets of three nodes, profiled through the API server: no agent is anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodeobs.errors import InvalidInput
from nodeobs.kube.paths import PODS
from nodeobs.kube.rbac import NODE_PROXY, Features
from nodeobs.pprof import read
from tests.cluster.world import KubeWorld
from tests.integration.test_alert_to_output import assert_go_reads
from tests.lab.cluster import Cluster
from tests.lab.node import Node
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PARENT = "without-agents"


class Proxied(KubeWorld):
    """The service on this machine, with the right to ask kubelets through the API server."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        features = Features(deploy_agents=False, via_api_server=True)
        super().__init__(cluster, folder, address=cluster.network.machine, features=features)
        self.cluster = cluster
        self.user = f"system:serviceaccount:{self.namespace}:nodeobs"
        cluster.wait_allowed(self.user, "get", "nodes/proxy", "")

    def sample(self, name: str, **spec: Any) -> dict[str, Any]:
        """A short Run, finished."""
        self.run(name, parent=PARENT, **{"durationSeconds": 2, **spec})
        return self.wait_run(name)

    def manifest(self, run: dict[str, Any]) -> dict[str, Any]:
        """The manifest's nodes by name."""
        found = json.loads((Path(run["status"]["output"]) / "manifest.json").read_text())
        return {node["name"]: node for node in found["nodes"]}


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with closing(Proxied(cluster, tmp_path_factory.mktemp("proxied"))) as made:
        made.start(replicas=2, NODEOBS_RUN_GRACE_SECONDS="20")
        made.observability(PARENT, via="apiServer")
        yield made


def names(agents: list[dict[str, Any]]) -> list[str]:
    return [agent["name"] for agent in agents]


def back(node: Node) -> None:
    """Return when the node's kubelet answers."""

    def answers() -> bool:
        try:
            return bool(httpx.get(f"https://{node.ip}:10250/", verify=False, trust_env=False, timeout=2).status_code)
        except httpx.TransportError:
            return False

    wait_for("the kubelet is back", answers)


def test_three_kubelets_profiles_are_delivered_and_merged_while_no_agent_runs(world: Proxied) -> None:
    run = world.sample("all", profiles=["cpu", "heap", "trace"], durationSeconds=3)
    status = run["status"]
    assert status["phase"] == "Succeeded", status
    assert names(status["agents"]) == ["node-1", "node-2", "node-3"]
    assert not status.get("failedAgents")
    assert status["summary"]["startSkewSeconds"] < 0.25
    output = Path(status["output"])
    cpu = read((output / "merged" / "kubelet-cpu.pb.gz").read_bytes())
    assert cpu.duration_nanos >= 3 * 2.9 * 10**9, "three seconds of each of three nodes"
    assert read((output / "merged" / "kubelet-heap.pb.gz").read_bytes()).samples
    for node in world.cluster.nodes:
        folder = output / node.name
        assert {path.name for path in folder.iterdir()} == {
            "kubelet-cpu.pb.gz",
            "kubelet-heap.pb.gz",
            "kubelet-trace.trace",
        }
        assert read((folder / "kubelet-heap.pb.gz").read_bytes()).samples
    assert_go_reads(output)
    assert json.loads(world.admin.get(PODS.collection(world.agent_namespace)))["items"] == []


def test_a_stopped_kubelet_is_among_the_failed_and_the_others_deliver(world: Proxied) -> None:
    stopped = world.cluster.nodes[1]
    stopped.stop_kubelet()
    try:
        run = world.sample("stopped")
    finally:
        stopped.start_kubelet()
    assert run["status"]["phase"] == "Succeeded"
    (failed,) = run["status"]["failedAgents"]
    assert (failed["name"], failed["reason"]) == ("node-2", "TargetUnavailable")
    assert "the API server cannot reach the kubelet" in failed["message"]
    assert names(run["status"]["agents"]) == ["node-1", "node-3"]
    back(stopped)


def test_a_kubelet_that_hangs_costs_its_own_profiles_only(world: Proxied) -> None:
    node = world.cluster.nodes[2]
    node.kubelet.pause()
    try:
        run = world.sample("hangs", profiles=["cpu", "heap"])
    finally:
        node.kubelet.resume()
    (failed,) = run["status"]["failedAgents"]
    assert (failed["name"], failed["reason"]) == ("node-3", "Timeout")
    assert names(run["status"]["agents"]) == ["node-1", "node-2"]
    back(node)


def test_a_kubelet_that_somebody_else_profiles_says_so(world: Proxied) -> None:
    world.observability("others", via="apiServer")
    world.run("other", parent="others", durationSeconds=8, nodes=["node-1"])
    world.wait_run("other", "Running")
    time.sleep(1)  # the common start instant is a little ahead
    run = world.sample("in-use", profiles=["cpu", "heap"])
    assert names(run["status"]["agents"]) == ["node-1", "node-2", "node-3"]
    pieces = {piece["profile"]: piece.get("reason") for piece in world.manifest(run)["node-1"]["pieces"]}
    assert pieces == {"cpu": "ProfilerInUse", "heap": None}
    assert world.wait_run("other")["status"]["phase"] == "Succeeded"


def test_without_the_right_every_node_is_forbidden_and_the_right_is_named(world: Proxied) -> None:
    world.cluster.kubectl("delete", "clusterrolebinding", NODE_PROXY)
    try:
        wait_for("the right is gone", lambda: not allowed(world))
        run = world.sample("forbidden")
    finally:
        world.install()
        world.cluster.wait_allowed(world.user, "get", "nodes/proxy", "")
    assert run["status"]["phase"] == "Failed"
    assert {agent["reason"] for agent in run["status"]["failedAgents"]} == {"Forbidden"}
    message = world.manifest(run)["node-1"]["message"]
    assert "needs 'get' on nodes/proxy, which the ClusterRole nodeobs-node-proxy gives" in message
    assert 'cannot get resource "nodes/proxy"' in message


def allowed(world: Proxied) -> bool:
    attributes = {"verb": "get", "resource": "nodes", "subresource": "proxy"}
    body = {"spec": {"user": world.user, "resourceAttributes": attributes}}
    answer = world.admin.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(json.loads(answer)["status"]["allowed"])


def test_other_targets_are_refused_when_they_are_named(world: Proxied) -> None:
    with pytest.raises(InvalidInput, match="its targets are kubelet: only the kubelet is profiled, via apiServer"):
        world.run("crio", parent=PARENT, targets=["crio"])
    with pytest.raises(InvalidInput, match="target crio is not profiled: only the kubelet is, via apiServer"):
        world.observability("crio", via="apiServer", targets=[{"name": "crio"}])


def test_a_leader_that_is_killed_costs_the_seconds_and_not_the_profiles(world: Proxied) -> None:
    world.run("killed", parent=PARENT, durationSeconds=10)
    world.wait_run("killed", "Running")
    time.sleep(3)
    world.leader().kill()
    run = world.wait_run("killed")
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert names(run["status"]["agents"]) == ["node-1", "node-2", "node-3"]
    assert {node["late"] for node in world.manifest(run).values()} == {True}
    merged = read((Path(run["status"]["output"]) / "merged" / "kubelet-cpu.pb.gz").read_bytes())
    assert merged.duration_nanos >= 3 * 9.9 * 10**9, "all of the time, of every node"
