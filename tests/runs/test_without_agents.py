"""Runs via the API server: the same outputs, statuses and endings as with agents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nodeobs.agents.endpoints import NodeRoster
from nodeobs.agents.nodeproxy import NodeProxy
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.model import DriverClaim, FailureReason, Phase, ProfileType
from nodeobs.pprof import read
from nodeobs.runs.driver import Driver, Ending
from tests.builders import make_observability, make_run
from tests.fakes.agent_simulator import Behaviour
from tests.fakes.api_server import Answer, FakeApiServer, Request
from tests.fakes.kubelets import Kubelets, of, told
from tests.processes import wait_for
from tests.runs.conftest import World, now

pytestmark = pytest.mark.slow


class Nodes:
    """Three nodes behind an API server, and a world that asks it."""

    def __init__(self, world: World, server: FakeApiServer, kubelets: Kubelets, client: KubeClient) -> None:
        self.world = world
        self.server = server
        self.kubelets = kubelets
        world.node_proxy = NodeProxy(
            client.credentials, nodes=NodeRoster(client).agents, now=now, randomness=random.Random(1)
        )
        world.store.create(make_observability("nodes", via="apiServer"))

    def asked(self) -> list[tuple[str, str]]:
        """Node and profile of each request so far."""
        return [of(request) for request in list(self.server.requests) if "/proxy/" in request.path]


@pytest.fixture
def nodes(world: World, tmp_path: Path) -> Iterator[Nodes]:
    kubelets = Kubelets("node-0", "node-1", "node-2")
    with FakeApiServer(kubelets) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
        with closing(KubeClient(credentials)) as client:
            yield Nodes(world, server, kubelets, client)
            world.stack.close()  # whoever still drives


def test_a_run_leaves_what_a_run_over_agents_does(nodes: Nodes) -> None:
    world = nodes.world
    fleet = world.agents(Behaviour())  # of another NodeObservability: not to be asked
    nodes.kubelets.say["node-1"] = told(403, "Forbidden", 'cannot get resource "nodes/proxy"')
    world.lead()
    profiles = (ProfileType.CPU, ProfileType.HEAP)
    run = world.wait(world.store.create(make_run(parent="nodes", duration_seconds=1, profiles=profiles)))

    status = run.status
    assert status.phase is Phase.SUCCEEDED
    assert [(agent.name, agent.ip, agent.port) for agent in status.agents] == [("node-0", "", 0), ("node-2", "", 0)]
    (failed,) = status.failed_agents
    assert (failed.name, failed.reason) == ("node-1", FailureReason.FORBIDDEN)
    assert "nodes/proxy" in failed.message
    for name in ("kubelet-cpu.pb.gz", "kubelet-heap.pb.gz"):
        assert len(read((Path(status.output) / "merged" / name).read_bytes()).samples) == 2
    manifest = world.outputs.read_manifest(run.metadata.uid)
    assert manifest is not None
    assert manifest.summary == status.summary
    assert status.summary is not None
    assert status.summary.start_skew_seconds < 0.2
    wait_for("the spool is empty", lambda: not list(world.spool.iterdir()))
    assert not any(agent.asked("POST") or agent.asked("DELETE") for agent in fleet.agents)


def test_nodes_are_selected_as_with_agents(nodes: Nodes) -> None:
    nodes.kubelets.rows = {
        "node-0": {"status": {"addresses": [{"type": "InternalIP", "address": "198.18.0.10"}]}},
    }
    nodes.world.lead()
    asked = ("198.18.0.10", "node-2", "node-9")
    run = nodes.world.wait(nodes.world.store.create(make_run(parent="nodes", duration_seconds=1, nodes=asked)))
    assert [agent.name for agent in run.status.agents] == ["node-0", "node-2"]
    assert [(agent.name, agent.reason) for agent in run.status.failed_agents] == [("node-9", FailureReason.NO_AGENT)]


def test_the_next_leader_starts_again_what_is_not_stored(nodes: Nodes) -> None:
    world = nodes.world
    hand_over = world.lead()

    def slow(request: Request) -> Answer:
        return Answer(0, then="hang")

    nodes.kubelets.say = {"node-1": slow}
    run = world.store.create(make_run(parent="nodes", duration_seconds=1))
    wait_for("two are stored", lambda: len(list(world.folder.glob("outputs/*/node-*/*.gz"))) == 2)
    wait_for("the third is asked", lambda: ("node-1", "profile") in nodes.asked())
    hand_over()
    nodes.kubelets.say = {}
    before = len(nodes.asked())
    world.change_observability("nodes", via="agents")  # a Run goes on as it began
    world.lead()
    run = world.wait(run)

    assert run.status.phase is Phase.SUCCEEDED
    assert [agent.name for agent in run.status.agents] == ["node-0", "node-1", "node-2"]
    assert nodes.asked()[before:] == [("node-1", "profile")], "what is stored is not asked for again"
    assert len(read((Path(run.status.output) / "merged" / "kubelet-cpu.pb.gz").read_bytes()).samples) == 3
    manifest = world.outputs.read_manifest(run.metadata.uid)
    assert manifest is not None
    assert [node.late for node in manifest.nodes] == [False, True, False]


def test_cancelling_ends_it_promptly(nodes: Nodes) -> None:
    world = nodes.world
    world.lead()
    nodes.kubelets.say = dict.fromkeys(nodes.kubelets.nodes, lambda _: Answer(0, then="hang"))
    run = world.store.create(make_run(parent="nodes", duration_seconds=600))
    wait_for("all are asked", lambda: len(nodes.asked()) == 3)
    world.change(run, cancel=True)
    run = world.wait(run, seconds=10)
    assert run.status.phase is Phase.CANCELLED
    assert {agent.reason for agent in run.status.failed_agents} == {FailureReason.CANCELLED}


def test_a_run_that_was_let_pass_before_fails_where_there_is_no_cluster(world: World) -> None:
    world.store.create(make_observability("nodes", via="apiServer"))
    run = world.store.create(make_run(parent="nodes"))
    driver = Driver(run, around=world.surroundings(), claim=DriverClaim(holder="test", term=1))
    assert driver.drive() is Ending.FINISHED
    (message,) = {condition.message for condition in driver.run.status.conditions}
    assert driver.run.status.phase is Phase.FAILED
    assert "via 'apiServer' needs a cluster" in message
