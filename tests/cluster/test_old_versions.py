"""A service that finds nothing but objects of old versions in etcd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodeobs.errors import NodeobsError
from nodeobs.kube.crds import crds
from nodeobs.model import GROUP
from tests.cluster.world import DEFINITIONS, KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def stored_versions(world: KubeWorld, plural: str) -> list[str]:
    found = json.loads(world.admin.get(DEFINITIONS.item(f"{plural}.{GROUP}")))
    versions: list[str] = found["status"]["storedVersions"]
    return versions


def store_as(world: KubeWorld, version: str) -> None:
    """Have the API server store that version, without conversion, as upstream's operator had it."""
    for definition in crds(webhook=None):
        name = definition["metadata"]["name"]
        spec = definition["spec"]
        versions = [entry | {"storage": entry["name"] == version} for entry in spec["versions"]]
        conversion = spec["conversion"] | {"webhook": None}
        world.patch(DEFINITIONS.item(name), {"spec": {"versions": versions, "conversion": conversion}})


def old(kind: str, name: str, spec: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def test_a_service_that_starts_with_old_objects_alone_becomes_ready_and_rewrites_them(world: KubeWorld) -> None:
    world.admin.request("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/nodeobs")
    store_as(world, "v1alpha1")
    root = f"/apis/{GROUP}/v1alpha1"

    def created(path: str, document: dict[str, Any]) -> bool:
        try:
            world.create(path, document)
        except NodeobsError:
            return False
        return True

    parent = old("NodeObservability", "nodeobservability-sample", {"labels": {"role": "worker"}})
    wait_for("the old version is stored", lambda: created(f"{root}/nodeobservabilities", parent))
    spec = {"nodeObservabilityRef": {"name": "nodeobservability-sample"}, "durationSeconds": 1}
    run = old("NodeObservabilityRun", "old", spec)
    world.create(f"{root}/namespaces/{world.namespace}/nodeobservabilityruns", run)
    world.install()
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
