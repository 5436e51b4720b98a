"""The roster of a cluster, from what its API server has: nodes, slices of endpoints, pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from nodeobs.agents.agent import Agent
from nodeobs.agents.endpoints import ClusterRoster
from nodeobs.agents.roster import select
from nodeobs.errors import NotFound, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import ENDPOINT_SLICES, NODES, PODS, ResourcePath
from nodeobs.model import FailureReason
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

SERVICE = "node-observability-agent"


class Cluster:
    """What a test has in its cluster; node names are made unique, as nodes belong to no namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.nodes: list[str] = []

    def node(self, name: str, *addresses: str, ready: str = "True", **labels: str) -> str:
        unique = f"{name}-{self.namespace}"
        document = {"metadata": {"name": unique, "labels": labels}}
        kinds = [
            {"type": "Hostname" if address.isalpha() else "InternalIP", "address": address} for address in addresses
        ]
        condition = {"type": "Ready", "status": ready, "reason": "KubeletReady", "message": "so it is"}
        self._create(NODES, document, {"addresses": kinds, "conditions": [condition]})
        self.nodes.append(unique)
        return unique

    def slice(self, name: str, *endpoints: dict[str, Any], family: str = "IPv4", service: str = SERVICE) -> None:
        labels = {"kubernetes.io/service-name": service}
        document = {
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "addressType": family,
            "endpoints": list(endpoints),
            "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        }
        self.client.request("POST", ENDPOINT_SLICES.collection(self.namespace), document)

    def pod(self, name: str, node: str, **status: Any) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": SERVICE, "uid": "u"}
        document = {
            "metadata": {"name": name, "namespace": self.namespace, "ownerReferences": [owner]},
            "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "nodeobs"}]},
        }
        self._create(PODS, document, status)

    def _create(self, path: ResourcePath, document: dict[str, Any], status: dict[str, Any]) -> None:
        namespace = document["metadata"].get("namespace", "")
        stored = json.loads(self.client.request("POST", path.collection(namespace), document))
        at = path.item(document["metadata"]["name"], namespace, subresource="status")
        self.client.request("PUT", at, stored | {"status": status})


@pytest.fixture
def cluster(api_server: ApiServer, namespace: str) -> Iterator[Cluster]:
    with closing(api_server.client()) as client:
        cluster = Cluster(client, namespace)
        yield cluster
        for node in cluster.nodes:
            with suppress(NotFound):
                client.request("DELETE", NODES.item(node))


@pytest.fixture
def roster(cluster: Cluster) -> ClusterRoster:
    return ClusterRoster(cluster.client, namespace=cluster.namespace, service=SERVICE)


def endpoint(node: str | None, *addresses: str, uid: str = "", **conditions: bool) -> dict[str, Any]:
    target = {"kind": "Pod", "name": uid, "uid": uid} if uid else None
    return {"nodeName": node, "addresses": list(addresses), "conditions": conditions, "targetRef": target}


def by_name(roster: ClusterRoster, cluster: Cluster) -> dict[str, Agent]:
    return {agent.name: agent for agent in roster.agents() if agent.name in cluster.nodes}


def test_every_node_is_a_row_with_its_agents_endpoint(cluster: Cluster, roster: ClusterRoster) -> None:
    a = cluster.node("a", "192.0.2.1", "2001:db8::1", "hosta", role="worker")
    b = cluster.node("b", "192.0.2.2")
    cluster.slice("one", endpoint(a, "10.0.0.1", uid="p-a", ready=True))
    cluster.slice("two", endpoint(b, "10.0.0.2", uid="p-b"), endpoint(None, "10.0.0.3"))
    cluster.slice("others", endpoint(b, "10.0.0.9", uid="p-z"), service="another")
    rows = by_name(roster, cluster)
    assert rows[a] == Agent(a, "10.0.0.1", 8443, addresses=("192.0.2.1", "2001:db8::1", "hosta"), labels=rows[a].labels)
    assert rows[a].labels["role"] == "worker"
    assert (rows[b].host, rows[b].ready, rows[b].problem) == ("10.0.0.2", True, "")
    for name in ("192.0.2.1", "2001:0db8::1", "hosta", "10.0.0.1", a):
        assert [
            agent.name for agent in select(rows.values(), node_selector={}, run_selector={}, nodes=[name]).agents
        ] == [a]


def test_dual_stack_is_one_agent_with_two_addresses(cluster: Cluster, roster: ClusterRoster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.slice("a6", endpoint(a, "2001:db8::a", uid="p-a"), endpoint(b, "2001:db8::b", uid="p-b"), family="IPv6")
    cluster.slice("z4", endpoint(a, "10.0.0.1", uid="p-a"))
    rows = by_name(roster, cluster)
    assert (rows[a].host, rows[a].other_hosts) == ("10.0.0.1", ("2001:db8::a",))
    assert (rows[b].host, rows[b].other_hosts) == ("2001:db8::b", ())
    assert rows[b].address == "[2001:db8::b]:8443"


def test_of_two_pods_on_a_node_the_ready_one_is_asked(cluster: Cluster, roster: ClusterRoster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    going = {"ready": False, "serving": True, "terminating": True}
    cluster.slice(
        "one",
        endpoint(a, "10.0.0.1", uid="old", **going),
        endpoint(a, "10.0.0.2", uid="new", ready=True),
        endpoint(b, "10.0.0.3", uid="late", ready=False),
        endpoint(b, "10.0.0.4", uid="gone", **going),
    )
    rows = by_name(roster, cluster)
    assert (rows[a].host, rows[a].ready) == ("10.0.0.2", True)
    assert (rows[b].host, rows[b].ready) == ("10.0.0.3", False)


def test_why_an_agent_is_not_there_or_not_ready_is_told(cluster: Cluster, roster: ClusterRoster) -> None:
    none, pulling, hung, lost = (cluster.node(name) for name in ("none", "pulling", "hung", "lost"))
    down = cluster.node("down", ready="Unknown")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    container = {"name": "agent", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    cluster.pod("p-pulling", pulling, phase="Pending", containerStatuses=[container | {"state": waiting}])
    unready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "no answer"}
    cluster.pod("p-hung", hung, phase="Running", conditions=[unready])
    cluster.pod("p-lost", lost, phase="Running", conditions=[unready | {"status": "True"}])
    cluster.pod("p-down", down, phase="Running", conditions=[unready])
    cluster.slice("one", endpoint(hung, "10.0.0.1", uid="p-hung", ready=False))
    rows = by_name(roster, cluster)
    assert [(rows[node].host, rows[node].ready) for node in (none, pulling, lost)] == [("", False)] * 3
    assert (rows[hung].host, rows[hung].ready) == ("10.0.0.1", False)
    assert {node.rsplit("-test-")[0]: rows[node].problem for node in cluster.nodes} == {
        "none": "no pod of the agents' DaemonSet is there: check its node selector and tolerations",
        "pulling": "its pod p-pulling is not running: ImagePullBackOff: no such image",
        "hung": "its pod p-hung is not ready: ContainersNotReady: no answer",
        "lost": "its pod p-lost runs, but is not among the endpoints of the agents' Service",
        "down": "its pod p-down is not ready: ContainersNotReady: no answer; "
        "the node is not Ready (KubeletReady: so it is)",
    }
    chosen = select(rows.values(), node_selector={}, run_selector={}, nodes=())
    assert [agent.name for agent in chosen.agents] == [hung]
    assert {outcome.reason for outcome in chosen.missing} == {FailureReason.NO_AGENT}
    assert {outcome.agent.name for outcome in chosen.missing} == {none, pulling, lost, down}
    assert f"{pulling}: no agent: its pod p-pulling is not running" in str(chosen.missing)


def test_an_agent_that_moved_is_found_and_few_requests_are_made(
    cluster: Cluster, roster: ClusterRoster, api_server: ApiServer
) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.slice("one", endpoint(a, "10.0.0.1", "10.0.0.2", uid="p-1", ready=True))
    cluster.slice("two", endpoint(b, "10.0.0.3", uid="p-2", ready=True))
    rows = by_name(roster, cluster)
    patch = {"endpoints": [endpoint(a, "10.0.0.7", uid="p-3", ready=True)]}
    at = ENDPOINT_SLICES.item("one", cluster.namespace)
    cluster.client.request("PATCH", at, patch, content_type="application/merge-patch+json")
    cluster.client.request("DELETE", ENDPOINT_SLICES.item("two", cluster.namespace))
    clock = [0.0]
    roster = ClusterRoster(cluster.client, namespace=cluster.namespace, service=SERVICE, monotonic=lambda: clock[0])
    assert roster.locate(rows[a]) == rows[a]  # nobody has looked yet
    moved = wait_for("it is found", lambda: agent if (agent := roster.locate(rows[a])) != rows[a] else None)
    assert (moved.host, moved.other_hosts, moved.labels) == ("10.0.0.7", (), rows[a].labels)
    lost = roster.locate(rows[b])
    assert (lost.host, lost.ready, lost.problem) == (
        "10.0.0.3",
        False,
        "its endpoint is gone from the agents' Service",
    )
    for _ in range(1000):
        assert roster.locate(rows[a]) == moved

    def looks() -> int:
        path = ENDPOINT_SLICES.collection(cluster.namespace)
        return sum(
            request.uri.startswith(path + "?") and "service-name" in request.uri
            for request in api_server.requests("admin")
        )

    before = looks()
    clock[0] = 10.0
    roster.locate(rows[a])
    wait_for("it looks again, once", lambda: looks() == before + 1)


def test_an_api_server_that_is_gone(api_server: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(api_server.admin_kubeconfig.read_text().replace(api_server.url, "https://127.0.0.1:1"))
    with closing(api_server.client(kubeconfig)) as client:
        roster = ClusterRoster(client, namespace="nodeobs-agents", service=SERVICE)
        with pytest.raises(StoreUnavailable):
            roster.agents()
        agent = Agent("a", "10.0.0.1", 8443)
        assert roster.locate(agent) == agent


def test_more_nodes_than_fit_a_page(cluster: Cluster, roster: ClusterRoster) -> None:
    for number in range(510):
        cluster.client.request("POST", NODES.collection(), {"metadata": {"name": f"n-{number}-{cluster.namespace}"}})
        cluster.nodes.append(f"n-{number}-{cluster.namespace}")
    assert len(by_name(roster, cluster)) == 510
