"""Many creations at once: one Run goes, and no agent ever hears of another."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from nodeobs.errors import NodeobsError, RunInProgress
from nodeobs.kube.paths import RUNS
from nodeobs.model import CollectionRequest, decode_json
from tests.cluster.world import HOOKS, KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROUNDS = 20
CREATES = 50


@pytest.mark.parametrize("webhook", [True, False], ids=["with the webhook", "without the webhook"])
def test_of_fifty_creations_at_once_through_two_replicas_one_run_is_driven(world: KubeWorld, webhook: bool) -> None:
    fleet = world.agents(Behaviour(), Behaviour())
    world.start(replicas=2)
    world.observability()
    if not webhook:
        world.admin.request("DELETE", HOOKS.item("nodeobs"))
    token = world.person("nodeobs-runner")
    outcomes: Counter[str] = Counter()
    for turn in range(ROUNDS):
        found = _create_at_once(world, turn, token)
        outcomes += found
        assert found["created"] >= 1
        assert found["created"] + found["denied"] == CREATES, found
        driven = wait_for("all but one are rejected", partial(_driven, world, turn, found["created"]))
        wait_for("the agents are started", lambda: all(len(agent.started_at) > turn for agent in fleet.agents))  # noqa: B023
        world.patch(RUNS.item(driven, world.namespace), {"spec": {"cancel": True}})
        assert world.wait_run(driven)["status"]["phase"] == "Cancelled"
    for agent in fleet.agents:
        starts = {decode_json(request.body, CollectionRequest).id for request in agent.asked("POST")}
        assert len(starts) == ROUNDS
        assert len(agent.started_at) == ROUNDS, "an agent began more often than there were Runs"
    if webhook:
        assert outcomes["denied"] > 0


def _create_at_once(world: KubeWorld, turn: int, token: str) -> Counter[str]:
    """Half of them through the replicas' API in turn, half as kubectl does; what became of them."""
    barrier = threading.Barrier(CREATES)

    def through_api(number: int) -> str:
        document = world.run_document(f"round{turn}-{number}", durationSeconds=600)
        replica = world.replicas[number % len(world.replicas)]
        barrier.wait()
        answer = replica.call("POST", "/api/v1/runs", token, json=document)
        if answer.status_code == 201:
            return "created"
        return "denied" if answer.status_code == 409 else f"{answer.status_code} {answer.text[:200]}"

    def as_kubectl(number: int) -> str:
        barrier.wait()
        try:
            world.run(f"round{turn}-{number}", durationSeconds=600)
        except RunInProgress:
            return "denied"
        except NodeobsError as error:
            return repr(error)
        return "created"

    with ThreadPoolExecutor(CREATES) as pool:
        ways: list[Callable[[int], str]] = [through_api, as_kubectl]
        return Counter(pool.map(lambda number: ways[number % 4 // 2](number), range(CREATES)))


def _driven(world: KubeWorld, turn: int, count: int) -> str | None:
    """Name of the only one of that round's Runs that was not rejected; None while that is not settled."""
    runs = json.loads(world.admin.get(RUNS.collection(world.namespace)))["items"]
    mine = [run for run in runs if run["metadata"]["name"].startswith(f"round{turn}-")]
    assert len(mine) == count
    phases = Counter(run["status"]["phase"] for run in mine)
    assert set(phases) <= {"Pending", "Running", "Rejected"}, phases
    if phases["Rejected"] < count - 1 or phases["Running"] == 0:
        return None
    return str(next(run for run in mine if run["status"]["phase"] == "Running")["metadata"]["name"])
