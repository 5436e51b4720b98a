"""A reconciler on a real API server, with the rights that it needs and no others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from prometheus_client import CollectorRegistry

from nodeobs.agents.client import AgentConnector
from nodeobs.deploy.certificates import AgentAuthorities
from nodeobs.deploy.children import PATHS, agent_name, common_name
from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.reconciler import Reconciler
from nodeobs.errors import NodeobsError, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import NODES, OBSERVABILITIES, PODS, RUNS, ResourcePath
from nodeobs.kube.rbac import Features, rbac
from nodeobs.metrics import Metrics
from nodeobs.model import API_VERSION
from nodeobs.store.kube import KubeStore
from tests.custom_resources import clear, install
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

Object = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
BINDINGS: Final = PATHS["ClusterRoleBinding"]
ROLES: Final = ResourcePath("/apis/rbac.authorization.k8s.io/v1", "clusterroles")


class Deploying:
    """Agents' namespace, custom resources, and a service's account; :meth:`start` begins to reconcile."""

    def __init__(self, api: ApiServer, namespace: str, folder: Path) -> None:
        self.api = api
        self.namespace = namespace
        self.folder = folder
        self.admin: KubeClient = api.client()
        self.time = datetime.now(UTC)
        self.randomness = Random(1)
        self._home = f"{namespace}-home"
        self._granted: set[str] = set()
        self.user = f"system:serviceaccount:{self._home}:nodeobs"
        self._nodes: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        install(self.admin)
        clear(self.admin)
        api.add_namespace(self._home)
        self.grant()
        self.client = api.client(api.kubeconfig_for(self._home, "nodeobs", folder))
        self.metrics = Metrics(CollectorRegistry())
        # As the service has it: one file with all agents' authorities, and one name that all of them prove to have.
        authorities = folder / "authorities.pem"
        self.authorities = AgentAuthorities(
            self.client, namespace=namespace, file=authorities, now=lambda: self.time, randomness=self.randomness
        )
        self.authorities.start()
        token = folder / "to-agents"
        token.touch(mode=0o600)
        token.write_text(api.token(self._home, "nodeobs", audience="nodeobs-agent"))
        self.connector = AgentConnector(
            tls=True,
            ca_file=authorities,
            token_file=token,
            server_name=common_name(namespace),
            now=lambda: datetime.now(UTC),
            randomness=self.randomness,
        )

    def start(self, *, kubelet_ca_file: Path | None = None, **config: Any) -> None:
        """Begin to reconcile."""
        settings: Object = {"image": "localhost/nodeobs:1", "url_hosts": ("$(NODE_IP)", "etcd.example")} | config
        reconciler = Reconciler(
            self.client,
            store=KubeStore(self.client, namespace=self.namespace),
            config=DeployConfig(namespace=self.namespace, **settings),
            connector=self.connector,
            kubelet_ca_file=kubelet_ca_file,
            metrics=self.metrics,
            now=lambda: self.time,
            randomness=self.randomness,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=reconciler.run, args=(self._stop,))
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.5)
            assert not self._thread.is_alive(), "another process is to lead soon"

    def close(self) -> None:
        self.stop()
        self.authorities.close()
        for name in self._nodes:
            with suppress(NotFound):
                self.admin.request("DELETE", NODES.item(name))
        clear(self.admin)
        self.api.remove_namespace(self._home)
        for path in (BINDINGS, ROLES):
            for item in json.loads(self.admin.get(path.collection()))["items"]:
                name = item["metadata"]["name"]
                if self.namespace in name or name in self._granted:
                    self.admin.request("DELETE", path.item(name))
        self.client.close()
        self.admin.close()

    def node(self, name: str, *, runtime: str = "containerd://1.7.0", ready: bool = True, **labels: str) -> str:
        """Add a node, and return its name, which no other test's has."""
        unique = f"{name}-{self.namespace}"
        mark = {"kubernetes.io/os": "linux", "test": self.namespace, **labels}
        stored = self.create(NODES.collection(), {"metadata": {"name": unique, "labels": mark}})
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        info = dict.fromkeys(_NODE_INFO, "x") | {"containerRuntimeVersion": runtime}
        self._put_status(NODES.item(unique, subresource="status"), stored, conditions=[condition], nodeInfo=info)
        self._nodes.append(unique)
        return unique

    def observability(self, name: str = "cluster", **spec: Any) -> Object:
        """Create a NodeObservability on this test's nodes."""
        given = {"nodeSelector": {"test": self.namespace}} | spec
        body = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": name}, "spec": given}
        return self.create(OBSERVABILITIES.collection(), body)

    def change(self, name: str = "cluster", **spec: Any) -> None:
        """Change the spec of a NodeObservability."""
        self.patch(OBSERVABILITIES.item(name), {"spec": spec})

    def status(self, name: str = "cluster") -> Object:
        found: Object = json.loads(self.admin.get(OBSERVABILITIES.item(name))).get("status", {})
        return found

    def ready(self, name: str = "cluster") -> Object:
        """Its Ready condition; empty while there is none."""
        return next((one for one in self.status(name).get("conditions", []) if one["type"] == "Ready"), {})

    def wait_ready(self, reason: str, text: str = "", name: str = "cluster") -> Object:
        """Its Ready condition once it has that reason and its message has that text in it."""

        def probe() -> Object | None:
            found = self.ready(name)
            return found if found.get("reason") == reason and text in found["message"] else None

        try:
            return wait_for(f"{name} is {reason}: {text}", probe, seconds=30)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.ready(name)}") from None

    def child(self, kind: str, name: str = "node-observability-agent") -> Object | None:
        """The object, or None."""
        try:
            found: Object = json.loads(self.admin.get(self.at(kind, name)))
        except NotFound:
            return None
        return found

    def wait_child(self, kind: str, name: str = "node-observability-agent") -> Object:
        return wait_for(f"{kind} {name} is there", lambda: self.child(kind, name), seconds=30)

    def at(self, kind: str, name: str) -> str:
        return PATHS[kind].item(name, "" if kind == "ClusterRoleBinding" else self.namespace)

    def roll_out(self, name: str = "cluster") -> None:
        """Have a ready pod of the DaemonSet on each of the nodes, as the DaemonSet controller and kubelets would."""
        agents = agent_name(name)
        made = self.wait_child("DaemonSet", agents)
        for node in self._nodes:
            self.pod(made, node)
        count = len(self._nodes)
        numbers = ("currentNumberScheduled", "desiredNumberScheduled", "numberReady", "updatedNumberScheduled")
        status = dict.fromkeys(numbers, count) | {"numberMisscheduled": 0}
        status["observedGeneration"] = made["metadata"]["generation"]
        self._put_status(f"{self.at('DaemonSet', agents)}/status", made, **status)

    def pod(self, daemon_set: Object, node: str, *, ready: bool = True, **status: Any) -> None:
        """Have the DaemonSet's pod on that node in that state."""
        owner = {key: daemon_set["metadata"][key] for key in ("name", "uid")}
        template = daemon_set["spec"]["template"]
        name = f"{daemon_set['metadata']['name'][-30:].strip('-')}-{node}"
        metadata = {"name": name, "labels": template["metadata"]["labels"]}
        metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "DaemonSet", "controller": True, **owner}]
        with suppress(NotFound):
            self.admin.request("DELETE", PODS.item(name, self.namespace), {"gracePeriodSeconds": 0})
        stored = self.create(
            PODS.collection(self.namespace), {"metadata": metadata, "spec": {**template["spec"], "nodeName": node}}
        )
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        at = PODS.item(name, self.namespace, subresource="status")
        self._put_status(at, stored, phase="Running", conditions=conditions, **status)

    def run(self, name: str, phase: str, parent: str = "cluster") -> str:
        """A Run in that phase; its path."""
        spec = {"nodeObservabilityRef": {"name": parent}}
        body = {"apiVersion": API_VERSION, "kind": "NodeObservabilityRun", "metadata": {"name": name}, "spec": spec}
        stored = self.create(RUNS.collection(self.namespace), body)
        self._put_status(RUNS.item(name, self.namespace, subresource="status"), stored, phase=phase)
        return RUNS.item(name, self.namespace)

    def writes(self) -> list[tuple[str, str]]:
        """Verb and path of all that the reconciler wrote so far."""
        return [
            (one.verb, one.uri.partition("?")[0])
            for one in self.api.requests(self.user)
            if one.verb not in ("get", "list", "watch")
        ]

    def asked(self) -> int:
        """So many requests of the reconciler, watches aside."""
        return sum(one.verb != "watch" for one in self.api.requests(self.user))

    def create(self, path: str, document: Object) -> Object:
        made: Object = json.loads(self.admin.request("POST", path, document))
        return made

    def patch(self, path: str, change: Object) -> None:
        self.admin.request("PATCH", path, change, content_type=MERGE)

    def _put_status(self, path: str, stored: Object, **status: Any) -> None:
        def put() -> bool:
            with suppress(NodeobsError):
                self.admin.request("PATCH", path, {"status": status}, content_type=MERGE)
                return True
            return False

        wait_for(f"the status of {stored['metadata']['name']} is written", put, seconds=10)

    def grant(self, features: Features | None = None) -> None:
        """Give the service's account what its roles say."""
        documents = rbac(namespace=self._home, agent_namespace=self.namespace, features=features)
        self._granted |= {document["metadata"]["name"] for document in documents}
        everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        self.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=everything)
        self.api.wait_allowed(self.user, "create", "secrets", self.namespace)
        self.api.wait_allowed(self.user, "watch", "nodes", "")


_NODE_INFO = (
    *("architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion"),
    *("machineID", "operatingSystem", "osImage", "systemUUID"),
)
Probe = Callable[[], object]
