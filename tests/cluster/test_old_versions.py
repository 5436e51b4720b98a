"""A service that finds nothing but objects of old versions in etcd."""

from __future__ import annotations

import json

import pytest

from nodeobs.model import GROUP
from tests.cluster.storing import create_old, stored_versions
from tests.cluster.world import KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_service_that_starts_with_old_objects_alone_becomes_ready_and_rewrites_them(world: KubeWorld) -> None:
    create_old(world, "nodeobservability-sample", "old")
    world.agents(Behaviour())
    assert "v1alpha1" in stored_versions(world, "nodeobservabilityruns")
    world.start()
    done = world.wait_run("old")
    assert done["status"]["phase"] == "Succeeded", done["status"]
    for plural in ("nodeobservabilities", "nodeobservabilityruns"):
        wait_for(f"{plural} are rewritten", lambda: stored_versions(world, plural) == ["v1beta1"], seconds=60)  # noqa: B023
    kept = json.loads(
        world.api.kubectl("get", f"nodeobservabilities.v1alpha1.{GROUP}", "nodeobservability-sample", "-o", "json")
    )
    assert kept["spec"]["labels"] == {"role": "worker"}
    world.api.kubectl(
        "delete", f"nodeobservabilityruns.v1alpha1.{GROUP}", "old", "-n", world.namespace, "--timeout=30s"
    )
