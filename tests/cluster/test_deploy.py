"""A NodeObservability becomes agents: its children at the real API server, kept with the least rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.deploying import Deploying
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

NAME = "node-observability-agent"
KINDS = ("ServiceAccount", "Secret", "Service", "DaemonSet")


@pytest.fixture
def world(api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Deploying]:
    with closing(Deploying(api_server, namespace, tmp_path)) as made:
        yield made


def container(daemon_set: dict[str, Any]) -> dict[str, Any]:
    (found,) = daemon_set["spec"]["template"]["spec"]["containers"]
    return dict(found)


def settled(world: Deploying) -> list[tuple[str, str]]:
    """What was written, once nothing more is."""
    before: list[tuple[str, str]] = []

    def steady() -> bool:
        nonlocal before
        now = world.writes()
        same, before = now == before, now
        return same

    wait_for("nothing more is written", steady, seconds=40, every=3.0)
    return before


def test_it_becomes_agents_and_nothing_is_written_again(world: Deploying) -> None:
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    found = world.wait_ready("Ready")
    assert found["status"] == "True"
    assert found["message"].startswith("agents are ready on 1 of 1 nodes. the certificates of the kubelets")
    status = world.status()
    assert (status["count"], status["targets"]) == (1, ["kubelet", "containerd"])
    assert status["observedGeneration"] == 1
    for kind in KINDS:
        made = world.child(kind, f"{NAME}-tls" if kind == "Secret" else NAME)
        assert made is not None, kind
        assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == ["cluster"]
    assert world.child("ClusterRoleBinding", f"nodeobs-agent:{world.namespace}:{NAME}") is not None
    written = settled(world)
    assert sorted({verb for verb, _ in written}) == ["patch", "update"]
    assert len([path for verb, path in written if verb == "patch"]) == 5, written
    # Another leader finds all as it should be.
    world.stop()
    world.start()
    assert settled(world) == written
