"""A leader that dies or is told to go, and an API server that is away: Runs finish with all that was collected."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nodeobs.errors import NodeobsError
from tests.cluster.world import KubeWorld, Replica
from tests.fakes.agent_simulator import Behaviour
from tests.fakes.fleet_thread import FleetThread
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AWAY_SECONDS = 60
LEASE_SECONDS = 15


def begin(world: KubeWorld, *, seconds: int, replicas: int = 2) -> FleetThread:
    """A Run that is being profiled."""
    fleet = world.agents(Behaviour(), Behaviour(), Behaviour())
    world.start(replicas=replicas)
    world.leader()
    world.observability()
    world.run("r", durationSeconds=seconds)
    wait_for("every agent profiles", lambda: all(agent.started_at for agent in fleet.agents))
    world.wait_run("r", "Running", "Retrieving", "Succeeded")
    return fleet


def all_is_there(world: KubeWorld, fleet: FleetThread) -> dict[str, Any]:
    """The Run, once it has finished with everybody's data, after a single start of each agent."""
    run = world.wait_run("r")
    status: dict[str, Any] = run["status"]
    assert status["phase"] == "Succeeded", status
    assert [agent["name"] for agent in status["agents"]] == ["node-0", "node-1", "node-2"]
    output = Path(status["output"])
    assert len(list(output.glob("node-*/kubelet-cpu.pb.gz"))) == 3
    assert (output / "merged" / "kubelet-cpu.pb.gz").exists()
    assert [len(agent.started_at) for agent in fleet.agents] == [1, 1, 1]
    wait_for("it is let go", lambda: "finalizers" not in world.get_run("r")["metadata"])
    return status


def other(world: KubeWorld, leader: Replica) -> Replica:
    return next(replica for replica in world.replicas if replica is not leader)


def test_a_leader_that_is_killed_is_followed_by_the_other_replica(world: KubeWorld) -> None:
    fleet = begin(world, seconds=4)
    first = world.leader()
    before = world.holder()
    killed = time.monotonic()
    first.kill()
    wait_for("the other one leads", lambda: world.holder() not in (before, "-"), seconds=LEASE_SECONDS + 5)
    assert time.monotonic() - killed < LEASE_SECONDS + 3
    status = all_is_there(world, fleet)
    assert status["driver"]["holder"] == world.holder()


def test_a_leader_that_is_told_to_end_hands_over_within_two_seconds(world: KubeWorld) -> None:
    fleet = begin(world, seconds=4)
    first = world.leader()
    before = world.holder()
    told = time.monotonic()
    first.program.process.terminate()
    wait_for("the other one leads", lambda: world.holder() not in (before, "-"), seconds=15, every=0.02)
    took = time.monotonic() - told
    first.program.process.wait(15)
    all_is_there(world, fleet)
    assert took < 2.0


def test_a_run_finishes_although_the_api_server_was_away_for_a_minute(world: KubeWorld) -> None:
    fleet = begin(world, seconds=3)
    world.api.stop_api(kill=True)
    wait_for("agents have delivered", lambda: all(agent.asked("GET", ".pb.gz") for agent in fleet.agents))
    busy = {replica.name: _cpu_seconds(replica) for replica in world.replicas}
    began = time.monotonic()
    time.sleep(AWAY_SECONDS)  # the outage itself is what is tested
    elapsed = time.monotonic() - began
    for replica in world.replicas:
        share = (_cpu_seconds(replica) - busy[replica.name]) / elapsed
        assert share < 0.05, f"{replica.name} used {share:.1%} of a CPU while the API server was away"
        assert replica.status("/healthz") == 200
    world.api.start_api()
    status = all_is_there(world, fleet)
    assert status["driver"]["term"] >= 1


def test_no_change_is_missed_when_revisions_are_compacted_away(world: KubeWorld) -> None:
    fleet = begin(world, seconds=2, replicas=1)
    world.api.etcd_compact()
    all_is_there(world, fleet)
    wait_for("another Run can be created", lambda: _created(world, "second"), seconds=30)
    assert world.wait_run("second")["status"]["phase"] == "Succeeded"


def test_cancelling_and_deleting_end_a_run_on_the_agents(world: KubeWorld) -> None:
    fleet = begin(world, seconds=60, replicas=1)
    world.api.kubectl("patch", "nobr", "r", "-n", world.namespace, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    assert world.wait_run("r")["status"]["phase"] == "Cancelled"
    wait_for("the agents are told", lambda: all(agent.asked("DELETE") for agent in fleet.agents))
    world.run("gone", durationSeconds=60)
    world.wait_run("gone", "Running")
    world.api.kubectl("delete", "nobr", "gone", "-n", world.namespace, "--timeout=30s")
    assert "gone" not in [run["metadata"]["name"] for run in world.runs()]
    wait_for("the agents are told", lambda: all(len(agent.asked("DELETE")) >= 2 for agent in fleet.agents))


def _created(world: KubeWorld, name: str) -> bool:
    try:
        world.run(name)
    except NodeobsError:
        return False
    return True


def _cpu_seconds(replica: Replica) -> float:
    """CPU time of the replica's processes so far."""
    total = 0.0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == replica.program.pid:  # its session
            total += (int(fields[11]) + int(fields[12])) / 100
    return total


def manifest(status: dict[str, Any]) -> Any:
    return json.loads((Path(status["output"]) / "manifest.json").read_text())
