"""NodeObservabilityMachineConfigs on a real API server, with a machine-config operator that does as it is told."""

from __future__ import annotations

import json
import threading
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from nodeobs.deploy.machineconfig_reconciler import MachineConfigReconciler
from nodeobs.deploy.machines import LABEL, PATHS
from nodeobs.errors import AlreadyExists, NotFound, StoreDenied
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import MACHINE_CONFIGS, NODES, ResourcePath
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_GROUP, MACHINE_POOL, MACHINES, OPENSHIFT_KUBELET_CA, Features
from nodeobs.model import API_VERSION
from tests.cluster.deploying import BINDINGS, Deploying, Object
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

CRDS: Final = ResourcePath("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions")
NAMESPACES: Final = ResourcePath("/api/v1", "namespaces")
WORKER: Final = "node-role.kubernetes.io/worker"

_CONFIGS = tuple(f"{MACHINE_GROUP}/{which}Config" for which in ("current", "desired"))


class Machining(Deploying):
    """A cluster of workers, and the service's account with OpenShift's rights."""

    def __init__(self, api: ApiServer, namespace: str, folder: Path) -> None:
        super().__init__(api, namespace, folder)
        with suppress(AlreadyExists):
            self.create(NAMESPACES.collection(), {"metadata": {"name": OPENSHIFT_KUBELET_CA[0]}})
        self.give()

    def close(self) -> None:
        super().close()
        with closing(self.api.client()) as admin:
            remove_machinery(admin)

    def give(self) -> None:
        """Let the service do what it needs on OpenShift."""
        self.grant(Features(openshift=True))
        self.api.wait_allowed(self.user, "patch", "nodes", "")

    def revoke(self) -> None:
        """Take that away again."""
        self.admin.request("DELETE", BINDINGS.item(MACHINES))
        wait_for("it is taken away", lambda: not self._may_read(), seconds=20)

    def lead(self, *, openshift: bool = True) -> None:
        """Begin to reconcile."""
        reconciler = MachineConfigReconciler(
            self.client,
            openshift=openshift,
            metrics=self.metrics,
            now=lambda: datetime.now(UTC),
            randomness=self.randomness,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=reconciler.run, args=(self._stop,))
        self._thread.start()

    def end(self) -> None:
        """Ask it to end, and do not wait until it has."""
        self._stop.set()

    def worker(self, name: str, role: str = WORKER, **labels: str) -> str:
        """Add a node that has the workers' configuration."""
        unique = self.node(name)
        annotations = dict.fromkeys(_CONFIGS, "rendered-worker-1")
        metadata = {"labels": {WORKER: "", role: "", **labels}, "annotations": annotations}
        self.patch(NODES.item(unique), {"metadata": metadata})
        return unique

    def config(self, name: str = "cluster", *, on: bool = True, **selector: str) -> None:
        """Create a NodeObservabilityMachineConfig for this test's nodes."""
        spec = {"debug": {"enableCrioProfiling": on}, "nodeSelector": {"test": self.namespace, **selector}}
        kind = {"apiVersion": API_VERSION, "kind": "NodeObservabilityMachineConfig"}
        self.create(MACHINE_CONFIGS.collection(), kind | {"metadata": {"name": name}, "spec": spec})

    def turn(self, name: str = "cluster", *, on: bool) -> None:
        self.patch(MACHINE_CONFIGS.item(name), {"spec": {"debug": {"enableCrioProfiling": on}}})

    def delete(self, name: str = "cluster") -> None:
        self.admin.request("DELETE", MACHINE_CONFIGS.item(name))

    def found(self, path: str) -> Object | None:
        try:
            found: Object = json.loads(self.admin.get(path))
        except NotFound:
            return None
        return found

    def stored(self, name: str = "cluster") -> Object | None:
        """The NodeObservabilityMachineConfig, or None."""
        return self.found(MACHINE_CONFIGS.item(name))

    def said(self, name: str = "cluster") -> dict[str, tuple[str, str, str]]:
        """Status, reason and message of each of its conditions."""
        conditions = (self.stored(name) or {}).get("status", {}).get("conditions", [])
        return {one["type"]: (one["status"], one["reason"], one["message"]) for one in conditions}

    def wait_said(self, enabled: str, ready: str, text: str = "", name: str = "cluster") -> str:
        """The message, once the conditions have these reasons and it has that text in it."""

        def probe() -> str | None:
            said = self.said(name)
            reasons = [said[kind][1] for kind in ("DebugEnabled", "Ready")] if said else []
            return said["Ready"][2] if reasons == [enabled, ready] and text in said["Ready"][2] else None

        try:
            return wait_for(f"{name} is {enabled} and {ready}: {text}", probe, seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.said(name)}") from None

    def wait_gone(self, name: str = "cluster") -> None:
        try:
            wait_for(f"{name} is gone", lambda: self.stored(name) is None, seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.stored(name)}") from None

    def labelled(self) -> set[str]:
        """Names of the nodes with the pool's label."""
        items = json.loads(self.admin.get(NODES.collection(), {"labelSelector": LABEL}))["items"]
        return {item["metadata"]["name"] for item in items}

    def _may_read(self) -> bool:
        try:
            self.client.get(PATHS["MachineConfigPool"].collection())
        except StoreDenied:
            return False
        return True

    def machine_config(self) -> Object | None:
        return self.found(PATHS["MachineConfig"].item(MACHINE_CONFIG))

    def pool(self) -> Object | None:
        return self.found(PATHS["MachineConfigPool"].item(MACHINE_POOL))


class Operator:
    """What OpenShift's machine-config operator does to nodes and pools, step by step."""

    def __init__(self, world: Machining) -> None:
        self._world = world
        for kind, path in PATHS.items():
            world.create(CRDS.collection(), _definition(kind, path.plural))
        for path in PATHS.values():
            wait_for(f"{path.plural} are served", partial(world.found, path.collection()), seconds=20)
        pool = {"apiVersion": f"{MACHINE_GROUP}/v1", "kind": "MachineConfigPool", "metadata": {"name": "worker"}}
        world.create(PATHS["MachineConfigPool"].collection(), pool | {"spec": {}})
        self.begin()

    def begin(self) -> None:
        """Notice what has changed: nodes are told their configuration, pools tell that they are updating."""
        for node in self._nodes():
            labelled = node["metadata"]["labels"].get(LABEL) == ""  # as the selector says
            pool = MACHINE_POOL if labelled and self._world.pool() else "worker"
            self._set(node, _CONFIGS[1], self._rendered(pool))
        self._tell()

    def finish(self, *names: str) -> None:
        """Have nodes restarted: these, or all."""
        self.begin()
        for node in self._nodes():
            if not names or node["metadata"]["name"] in names:
                self._set(node, _CONFIGS[0], node["metadata"]["annotations"][_CONFIGS[1]])
        self._tell()

    def degrade(self, pool: str, message: str) -> None:
        """Have a node of the pool fail."""
        self.begin()
        conditions = [
            {"type": "Updated", "status": "False"},
            {"type": "Degraded", "status": "True", "reason": "1 nodes are failing", "message": message},
        ]
        self._put(pool, conditions=conditions)

    def _tell(self) -> None:
        nodes = self._nodes()
        for pool in ("worker", MACHINE_POOL):
            if self._world.found(PATHS["MachineConfigPool"].item(pool)) is None:
                continue
            mine = [node for node in nodes if node["metadata"]["annotations"][_CONFIGS[1]] == self._rendered(pool)]
            done = [node for node in mine if len({node["metadata"]["annotations"][key] for key in _CONFIGS}) == 1]
            updated = len(done) == len(mine)
            conditions = [
                {"type": kind, "status": str(holds)}
                for kind, holds in (("Updated", updated), ("Updating", not updated), ("Degraded", False))
            ]
            counts = {"machineCount": len(mine), "updatedMachineCount": len(done)}
            with_config = updated and pool == MACHINE_POOL and self._world.machine_config() is not None
            source = [{"name": name} for name in ("00-worker", *([MACHINE_CONFIG] if with_config else []))]
            self._put(pool, **counts, conditions=conditions, configuration={"source": source})

    def _put(self, pool: str, **status: Any) -> None:
        path = PATHS["MachineConfigPool"].item(pool)
        generation = (self._world.found(path) or {})["metadata"]["generation"]
        self._world.patch(f"{path}/status", {"status": {"observedGeneration": generation, **status}})

    def _nodes(self) -> list[Object]:
        found: list[Object] = json.loads(self._world.admin.get(NODES.collection(), {"labelSelector": WORKER}))["items"]
        return found

    def _rendered(self, pool: str) -> str:
        return f"rendered-{pool}-{2 if pool == MACHINE_POOL and self._world.machine_config() else 1}"

    def _set(self, node: Object, annotation: str, value: str) -> None:
        if node["metadata"]["annotations"][annotation] != value:
            change = {"metadata": {"annotations": {annotation: value}}}
            self._world.patch(NODES.item(node["metadata"]["name"]), change)


def remove_machinery(admin: KubeClient) -> None:
    """Take the operator's definitions away, with all that there is of them."""
    for path in PATHS.values():
        at = CRDS.item(f"{path.plural}.{MACHINE_GROUP}")
        with suppress(NotFound):
            admin.request("DELETE", at)
        wait_for(f"{path.plural} are gone", partial(_is_missing, admin, at), seconds=20)


def _is_missing(admin: KubeClient, path: str) -> bool:
    try:
        admin.get(path)
    except NotFound:
        return True
    return False


def _definition(kind: str, plural: str) -> Object:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": free, "status": free}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{MACHINE_GROUP}"},
        "spec": {"group": MACHINE_GROUP, "scope": "Cluster", "names": names, "versions": [version]},
    }
