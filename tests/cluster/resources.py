"""Custom resources of a test on a real API server, written and read as its admin."""

from __future__ import annotations

import json
from typing import Any

from nodeobs.errors import NodeobsError
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import OBSERVABILITIES, RUNS
from nodeobs.model import API_VERSION
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

MERGE = "application/merge-patch+json"
FINAL = ("Succeeded", "Failed", "Rejected", "Cancelled")

Object = dict[str, Any]


class Resources:
    """NodeObservabilities, and Runs in the service's namespace."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.admin: KubeClient = api.client()

    def said(self) -> str:
        """What the service logged, for a test that fails."""
        return ""

    def observability(self, name: str = "cluster", **spec: Any) -> Object:
        """Create a NodeObservability."""
        return self.create(
            OBSERVABILITIES.collection(),
            {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": name}, "spec": spec},
        )

    def run(self, name: str, *, parent: str = "cluster", **spec: Any) -> Object:
        """Create a Run in the service's namespace, as admin."""
        return self.create(RUNS.collection(self.namespace), self.run_document(name, parent=parent, **spec))

    def run_document(self, name: str, *, parent: str = "cluster", **spec: Any) -> Object:
        """What ``kubectl create`` would send."""
        return {
            "apiVersion": API_VERSION,
            "kind": "NodeObservabilityRun",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"nodeObservabilityRef": {"name": parent}, "durationSeconds": 1, **spec},
        }

    def get_run(self, name: str) -> Object:
        found: Object = json.loads(self.admin.get(RUNS.item(name, self.namespace)))
        return found

    def runs(self) -> list[Object]:
        """All Runs of the service's namespace."""
        items: list[Object] = json.loads(self.admin.get(RUNS.collection(self.namespace)))["items"]
        return items

    def wait_run(self, name: str, *phases: str, seconds: float = 90.0) -> Object:
        """The Run once it is in one of these phases; by default a final one."""

        def probe() -> Object | None:
            try:
                run = self.get_run(name)
            except NodeobsError:
                return None  # the API server may be away
            return run if run.get("status", {}).get("phase") in (phases or FINAL) else None

        try:
            return wait_for(f"Run {name} is {' or '.join(phases or FINAL)}", probe, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def create(self, path: str, document: Object) -> Object:
        """POST as admin."""
        made: Object = json.loads(self.admin.request("POST", path, document))
        return made

    def patch(self, path: str, change: Object) -> Object:
        """Merge patch as admin."""
        made: Object = json.loads(self.admin.request("PATCH", path, change, content_type=MERGE))
        return made
