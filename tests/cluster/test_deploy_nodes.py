"""Agents on real nodes: where the NodeObservability says, with the least rights, and gone with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodeobs.agents.reload import read_authority
from nodeobs.deploy.children import agent_name, common_name
from nodeobs.kube.paths import NODES, OBSERVABILITIES, PODS
from tests.cluster.deploying import Deploying
from tests.lab.cluster import Cluster
from tests.lab.images import BUSYBOX
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NAME = "node-observability-agent"


@pytest.fixture
def world(cluster: Cluster, cluster_namespace: str, tmp_path: Path) -> Iterator[Deploying]:
    with closing(Deploying(cluster, cluster_namespace, tmp_path)) as made:
        yield made
        for node in cluster.nodes:
            select(made, node.name, None)


def select(world: Deploying, node: str, value: str | None) -> None:
    world.patch(NODES.item(node), {"metadata": {"labels": {"test": value}}})


def pods(world: Deploying, instance: str = NAME) -> dict[str, dict[str, Any]]:
    """By the node's name."""
    found = json.loads(world.admin.get(PODS.collection(world.namespace)))["items"]
    return {
        pod["spec"]["nodeName"]: pod
        for pod in found
        if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == instance and pod["spec"].get("nodeName")
    }


def test_agents_are_where_the_selector_says_and_all_goes_with_the_nodeobservability(
    cluster: Cluster, world: Deploying
) -> None:
    one, two, three = (node.name for node in cluster.nodes)
    select(world, one, world.namespace)
    select(world, two, world.namespace)
    world.observability()
    world.start(image=BUSYBOX, command=("/bin/busybox", "sh", "-c", IDLE))
    wait_for("a pod on each selected node", lambda: pods(world).keys() == {one, two})
    world.wait_ready("Progressing", f"agents are ready on 0 of 2 nodes; {one}: its pod {NAME}-")
    select(world, one, None)
    select(world, three, world.namespace)
    wait_for("the agents have moved", lambda: pods(world).keys() == {two, three})
    binding = f"nodeobs-agent:{world.namespace}:{NAME}"
    assert world.child("ClusterRoleBinding", binding) is not None
    world.admin.request("DELETE", OBSERVABILITIES.item("cluster"))
    for kind in ("DaemonSet", "Service", "ServiceAccount"):
        wait_gone(world, kind, NAME)
    wait_gone(world, "Secret", f"{NAME}-tls")
    wait_gone(world, "ClusterRoleBinding", binding)
    wait_for("no pod is left", lambda: not pods(world))


def test_agents_are_ready_soon_and_profile_their_nodes(cluster: Cluster, world: Deploying, image: str) -> None:
    for node in cluster.nodes:
        select(world, node.name, world.namespace)
    began = time.monotonic()
    world.observability()
    world.observability("kubelets", targets=[{"name": "kubelet"}])
    world.start(image=image)
    for name in ("cluster", "kubelets"):
        found = world.wait_ready("Ready", "agents are ready on 3 of 3 nodes", name=name)
        assert "cannot be profiled" not in found["message"]
    assert time.monotonic() - began < 30
    assert world.status()["count"] == 3
    targets = {pod["status"]["podIP"]: ask(world, pod["status"]["podIP"]) for pod in pods(world).values()}
    assert len(targets) == 3
    for offered in targets.values():
        assert {name: one["available"] for name, one in offered.items()} == {"kubelet": True, "containerd": True}
    (only, *_) = pods(world, agent_name("kubelets")).values()
    assert ask(world, only["status"]["podIP"]).keys() == {"kubelet"}
    status = cluster.kubectl("exec", "-n", world.namespace, only["metadata"]["name"], "--", *PROCESS_STATUS)
    assert "Uid:\t65532" in status
    assert "CapEff:\t0000000000000000" in status


def test_a_crio_that_does_not_show_its_profiles_is_told(cluster: Cluster, world: Deploying, image: str) -> None:
    node = cluster.nodes[1]
    select(world, node.name, world.namespace)
    program = node.run("crio", [sys.executable, "-c", REFUSING])
    try:
        world.observability(targets=[{"name": "kubelet"}, {"name": "crio"}])
        world.start(image=image)
        found = world.wait_ready("Ready", "CRI-O's profiling is off on node-2")
        assert "NodeObservabilityMachineConfig" in found["message"]
        before = world.writes()
        program.kill()
        world.stop()
        world.start(image=image)
        world.wait_ready("Ready", "crio cannot be profiled on node-2: unix:/var/run/crio/crio.sock")
        assert [verb for verb, _ in world.writes()[len(before) :]] == ["update"]
    finally:
        program.kill()


IDLE = "trap exit TERM; while :; do /bin/busybox sleep 1; done"
REFUSING = """
import http.server, os, pathlib, socketserver
class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)
    def address_string(self):
        return "agent"
path = pathlib.Path("/var/run/crio/crio.sock")
path.parent.mkdir(parents=True, exist_ok=True)
path.unlink(missing_ok=True)
socketserver.ThreadingUnixStreamServer(str(path), Refusing).serve_forever()
"""
PROCESS_STATUS = ("python3", "-c", "print(open('/proc/1/status').read())")


def ask(world: Deploying, address: str) -> dict[str, Any]:
    """What the agent there says of its targets, by their names."""
    with httpx.Client(verify=read_authority(world.folder / "authorities.pem"), trust_env=False, timeout=10) as http:
        answer = http.get(
            f"https://{address}:8443/v1/targets",
            headers=world.connector.credentials(),
            extensions={"sni_hostname": common_name(world.namespace)},
        )
    return {one["name"]: one for one in answer.raise_for_status().json()["targets"]}


def wait_gone(world: Deploying, kind: str, name: str) -> None:
    wait_for(f"{kind} {name} is gone", lambda: world.child(kind, name) is None)
