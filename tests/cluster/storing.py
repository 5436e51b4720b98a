"""Objects as older versions stored them."""

from __future__ import annotations

import json
from typing import Any

from nodeobs.errors import NodeobsError
from nodeobs.kube.crds import crds
from nodeobs.model import GROUP
from tests.cluster.world import DEFINITIONS, KubeWorld
from tests.processes import wait_for


def stored_versions(world: KubeWorld, plural: str) -> list[str]:
    """The versions that objects may be stored in."""
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


def create_old(world: KubeWorld, parent: str, run: str) -> None:
    """Have a NodeObservability on workers, and a Run on it, stored as ``v1alpha1``; then install what is now."""
    world.admin.request("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/nodeobs")
    store_as(world, "v1alpha1")
    root = f"/apis/{GROUP}/v1alpha1"

    def created(path: str, document: dict[str, Any]) -> bool:
        try:
            world.create(path, document)
        except NodeobsError:
            return False
        return True

    above = _old("NodeObservability", parent, {"labels": {"role": "worker"}})
    wait_for("the old version is stored", lambda: created(f"{root}/nodeobservabilities", above))
    below = _old("NodeObservabilityRun", run, {"nodeObservabilityRef": {"name": parent}, "durationSeconds": 1})
    world.create(f"{root}/namespaces/{world.namespace}/nodeobservabilityruns", below)
    world.install()


def _old(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
