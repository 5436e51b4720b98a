"""nodeobs in mode kubernetes on a real API server: replicas as processes, simulated agents behind their Service."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import httpx

from nodeobs.errors import NodeobsError, NotFound
from nodeobs.kube.crds import Webhook
from nodeobs.kube.manifests import manifests
from nodeobs.kube.paths import ENDPOINT_SLICES, OBSERVABILITIES, ResourcePath
from nodeobs.kube.rbac import Features
from nodeobs.model import API_VERSION
from tests.cluster.address import own_address
from tests.cluster.resources import Object, Resources
from tests.custom_resources import clear, install
from tests.fakes.agent_simulator import Behaviour
from tests.fakes.fleet_thread import FleetThread
from tests.lab.apiserver import ApiServer
from tests.processes import Program, free_port, wait_for

LEASES = ResourcePath("/apis/coordination.k8s.io/v1", "leases")
NODES = ResourcePath("/api/v1", "nodes")
HOOKS = ResourcePath("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")
DEFINITIONS = ResourcePath("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions")
_RBAC = {
    "ClusterRole": ResourcePath("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ResourcePath("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
}
BY_HAND = Features(deploy_agents=False)
"""Agents are simulated ones."""


class Listening(Protocol):
    """What listens at a port of this machine's address."""

    name: str
    port: int


class Replica:
    """One process of the service, in mode kubernetes, with the rights of its role and no others."""

    def __init__(self, world: KubeWorld, number: int, environ: Mapping[str, str]) -> None:
        self.world = world
        self.name = f"replica-{number}"
        self.folder = world.folder / self.name
        self.folder.mkdir()
        self.port = free_port()
        self.environ = {
            "NODEOBS_MODE": "kubernetes",
            "NODEOBS_KUBECONFIG": str(world.kubeconfig),
            "NODEOBS_NAMESPACE": world.namespace,
            "NODEOBS_BIND": f"{world.address}:{self.port}",
            "NODEOBS_DATA_DIR": str(self.folder / "data"),
            "NODEOBS_OUTPUT": str(world.outputs),
            **environ,
        }
        self.program = self.launch()

    @property
    def url(self) -> str:
        return f"https://{self.world.address}:{self.port}"

    def launch(self) -> Program:
        """Start it, without waiting."""
        argv = [sys.executable, "-m", "gunicorn", "app:app"]
        self.program = Program(self.name, argv, log=self.folder / "service.log", environ=self.environ)
        return self.program

    def wait_ready(self) -> None:
        """Return when it says that it is ready, and have the API server call it."""
        self.program.wait_until(f"{self.name} is ready", lambda: self.status("/readyz") == 200)
        self.world.publish(self)

    def status(self, path: str) -> int:
        """Status of a GET without credentials; 0 where nothing answers."""
        try:
            # Its certificate is made for its Service's name; whether it is good is the API server's to see.
            return httpx.get(self.url + path, timeout=2.0, verify=False, trust_env=False).status_code
        except httpx.TransportError:
            return 0

    def call(self, method: str, path: str, token: str, **options: Any) -> httpx.Response:
        """One call of the API with a bearer token."""
        headers = {"authorization": f"Bearer {token}"}
        return httpx.request(
            method, self.url + path, headers=headers, timeout=35.0, verify=False, trust_env=False, **options
        )

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does; the API server stops calling it, as its readiness probe would see to."""
        self.program.kill()
        self.world.withdraw(self)

    def terminate(self) -> float:
        """Ask it to end; seconds that it took."""
        self.world.withdraw(self)
        return self.program.terminate()


class KubeWorld(Resources):
    """What :func:`nodeobs.kube.manifests.manifests` prints, applied; replicas; agents; and the API server's admin."""

    def __init__(
        self, api: ApiServer, folder: Path, *, address: str | None = None, features: Features = BY_HAND
    ) -> None:
        super().__init__(api, f"nodeobs-{secrets.token_hex(3)}")
        self.features = features
        self.folder = folder
        self.outputs = folder / "outputs"
        self.address = address or own_address()
        self.agent_namespace = f"{self.namespace}-agents"
        self.replicas: list[Replica] = []
        self.fleet = FleetThread([])
        self._nodes: list[str] = []
        self.install()
        self.kubeconfig = api.kubeconfig_for(self.namespace, "nodeobs", folder)
        user = f"system:serviceaccount:{self.namespace}:nodeobs"
        api.wait_allowed(user, "create", "configmaps", self.namespace)

    def install(self) -> None:
        """Apply what ``nodeobs manifests`` prints."""
        webhook = Webhook(namespace=self.namespace, service="nodeobs")
        documents = manifests(
            namespace=self.namespace, agent_namespace=self.agent_namespace, webhook=webhook, features=self.features
        )
        self._rbac = {
            kind: [document["metadata"]["name"] for document in documents if document["kind"] == kind] for kind in _RBAC
        }
        everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        self.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=everything)

    def start(self, replicas: int = 1, **environ: str) -> None:
        """Start so many replicas, and return when all are ready."""
        made = [Replica(self, len(self.replicas) + number, environ) for number in range(replicas)]
        self.replicas += made
        for replica in made:
            replica.wait_ready()
        wait_for("the API server calls the webhooks", self._is_called, seconds=15)

    def agents(self, *behaviours: Behaviour) -> FleetThread:
        """Have these agents, each on a node of its own, and no others."""
        self.fleet.close()
        self.fleet = FleetThread(behaviours, host=self.address)
        self.agents_at({agent.name: agent.port for agent in self.fleet.agents})
        return self.fleet

    def agents_at(self, ports: Mapping[str, int]) -> None:
        """Have nodes of these names, whose agents listen at those ports of this machine's address, and no others."""
        for name in self._nodes:
            self._delete(NODES.item(name))
        self._nodes = list(ports)
        for name, port in ports.items():
            self.create(NODES.collection(), {"metadata": {"name": name, "labels": {"role": "worker"}}})
            self.agent_endpoint(name, self.address, port)

    def agent_endpoint(self, node: str, address: str, port: int) -> None:
        """Have the agents' Service lead to the agent of that node there."""
        self._endpoint("node-observability-agent", self.agent_namespace, node, address, port, {"nodeName": node})

    def said(self) -> str:
        """The end of each replica's log."""
        return "\n".join(f"{replica.name}:\n{replica.program.said()[-3000:]}" for replica in self.replicas)

    def person(self, role: str) -> str:
        """Token of somebody who has that ClusterRole."""
        name = f"{role}-{secrets.token_hex(2)}"
        self.api.kubectl("create", "serviceaccount", name, "-n", self.namespace)
        binding = ["clusterrolebinding", f"{self.namespace}-{name}", f"--clusterrole={role}"]
        self.api.kubectl("create", *binding, f"--serviceaccount={self.namespace}:{name}")
        self._rbac["ClusterRoleBinding"].append(f"{self.namespace}-{name}")
        token = self.api.token(self.namespace, name)
        # The API server follows new bindings by a watch.
        probe = self.replicas[0]
        wait_for("the binding is in force", lambda: probe.call("GET", "/api/v1/runs", token).status_code == 200)
        return token

    def leader(self) -> Replica:
        """The replica that leads, once one does."""

        def probe() -> Replica | None:
            for replica in self.replicas:
                if replica.program.process.poll() is None and f"holder='{self.holder()}' " in replica.program.said():
                    return replica
            return None

        return wait_for("somebody leads", probe, seconds=40)

    def holder(self) -> str:
        """Who has the Lease; ``-`` where nobody has."""
        with suppress(NotFound):
            return (
                json.loads(self.admin.get(LEASES.item("nodeobs", self.namespace)))["spec"].get("holderIdentity") or "-"
            )
        return "-"

    def publish(self, replica: Listening) -> None:
        """Have the API server call a replica for its webhooks."""
        self._endpoint("nodeobs", self.namespace, replica.name, self.address, replica.port, {})

    def withdraw(self, replica: Listening) -> None:
        """Have the API server call a replica no more."""
        self._delete(ENDPOINT_SLICES.item(f"nodeobs-{replica.name}", self.namespace))

    def close(self) -> None:
        """End everything, and leave the API server as if nothing had been."""
        for replica in self.replicas:
            replica.program.kill()
        self.fleet.close()
        self._delete(HOOKS.item("nodeobs"))
        with suppress(NodeobsError):
            clear(self.admin)
        with suppress(NodeobsError):
            install(self.admin)  # so that nobody converts any more: whoever comes next says who does
        for kind, path in _RBAC.items():
            for name in self._rbac[kind]:
                self._delete(path.item(name))
        for name in self._nodes:
            self._delete(NODES.item(name))
        for namespace in (self.namespace, self.agent_namespace):
            with suppress(NodeobsError):
                self.api.remove_namespace(namespace)
        self.admin.close()

    def _is_called(self) -> bool:
        """Whether it knows the endpoints by now; there is no resource to ask it that."""
        document = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": "is-called"}}
        try:
            self.admin.request("POST", OBSERVABILITIES.collection(), document, params={"dryRun": "All"})
        except NodeobsError:
            return False
        return True

    def _endpoint(self, service: str, namespace: str, name: str, address: str, port: int, more: Object) -> None:
        slice_name = f"{service}-{name}"
        document = {
            "metadata": {"name": slice_name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}, **more}],
        }
        self._delete(ENDPOINT_SLICES.item(slice_name, namespace))
        self.create(ENDPOINT_SLICES.collection(namespace), document)

    def _delete(self, path: str) -> None:
        with suppress(NotFound):
            self.admin.request("DELETE", path)
