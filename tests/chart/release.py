"""A release of the chart on a cluster of real nodes, with two replicas and a real S3 server for what they collect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from charts.generate import CHART
from nodeobs.errors import NodeobsError, NotFound
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.kube.paths import NODES, ResourcePath
from tests.chart.rendering import Refused, helm
from tests.cluster.resources import Resources
from tests.lab.cluster import Cluster
from tests.lab.errors import LabError
from tests.lab.programs import need
from tests.processes import wait_for

NAMESPACE: Final = "profiling"
AGENTS: Final = "profiling-agents"
LEASES: Final = ResourcePath("/apis/coordination.k8s.io/v1", "leases")

_NAMESPACES = ResourcePath("/api/v1", "namespaces")
_BUCKET, _PORT = "outputs", 7070
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}


class Release(Resources):
    """nodeobs in the cluster, as helm has it; and its bucket."""

    def __init__(self, cluster: Cluster, image: str, folder: Path) -> None:
        super().__init__(cluster, NAMESPACE)
        self.cluster = cluster
        self._bucket = folder / _BUCKET
        self._bucket.mkdir()
        endpoint = f"http://{cluster.network.control_plane}:{_PORT}"
        argv: list[str | Path] = [need(["versitygw"])["versitygw"], "--port", endpoint.removeprefix("http://")]
        argv += ["--access", _CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", _CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        self._server = cluster.spawn("versitygw", [*argv, "posix", folder])
        repository, _, tag = image.rpartition(":")
        store = {"url": f"s3://{_BUCKET}/runs", "endpoint": endpoint, "region": "us-east-1"}
        values = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "replicas": 2,
            "outputs": {"objectStore": {**store, "credentials": _CREDENTIALS}},
            "access": {"metrics": [_account("prometheus")]},
        }
        self._values = folder / "values.json"
        self._values.write_text(json.dumps(values))
        cluster.add_namespace(NAMESPACE)
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")

    def helm(self, verb: str, *arguments: str | Path, chart: Path = CHART) -> str:
        """Run helm on the release; ``install`` and ``upgrade`` wait until it is ready."""
        options: list[str | Path] = ["--namespace", NAMESPACE, *arguments]
        if verb in ("install", "upgrade"):
            options = [chart, *options, "--values", self._values, "--wait", "--timeout", "3m"]
        return helm(verb, "nodeobs", *options, kubeconfig=self.cluster.admin_kubeconfig)

    def get(self, *arguments: str) -> Any:
        """What kubectl gets, as JSON."""
        return json.loads(self.cluster.kubectl("get", *arguments, "-o", "json"))

    def manifest(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a Run, from the bucket."""
        found: dict[str, Any] = json.loads((self.output(run) / "manifest.json").read_bytes())
        return found

    def output(self, run: Mapping[str, Any]) -> Path:
        """Where the S3 server keeps what the Run left."""
        return self._bucket / "runs" / str(run["metadata"]["uid"])

    def delivered(self, run: Mapping[str, Any]) -> dict[str, set[str]]:
        """The targets that each node delivered."""
        return {
            node["name"]: {piece["target"] for piece in node["pieces"] if not piece.get("reason")}
            for node in self.manifest(run)["nodes"]
        }

    def leader(self) -> str:
        """Name of the pod that leads."""

        def holder() -> str:
            with suppress(NodeobsError):
                lease = json.loads(self.admin.get(LEASES.item("nodeobs", NAMESPACE)))
                return str(lease["spec"].get("holderIdentity") or "")
            return ""

        found = wait_for("somebody leads", holder)
        names = [pod["metadata"]["name"] for pod in self.pods("service")]
        return next((name for name in names if found.startswith(name)), "")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of the service, or of the agents."""
        namespace = NAMESPACE if component == "service" else AGENTS
        label = f"app.kubernetes.io/component={component}"
        items: list[dict[str, Any]] = self.get("pods", "-n", namespace, "-l", label)["items"]
        return items

    def label(self, node: str, **labels: str | None) -> None:
        """Change a node's labels."""
        self.patch(NODES.item(node), {"metadata": {"labels": labels}})

    def said(self) -> str:
        """The end of the replicas' logs, and the Runs."""
        logs = ["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=service", "--prefix", "--tail=40"]
        with suppress(LabError):
            return self.cluster.kubectl(*logs) + self.cluster.kubectl("describe", "nob,nobr", "-n", NAMESPACE)
        return ""

    def _is_gone(self, namespace: str) -> bool:
        try:
            self.admin.get(_NAMESPACES.item(namespace))
        except NotFound:
            return True
        if not self.get("pods", "-n", namespace)["items"]:
            self.cluster.remove_namespace(namespace)
        return False

    def close(self) -> None:
        """Leave nothing behind."""
        with suppress(Refused):
            self.helm("uninstall", "--no-hooks", "--ignore-not-found")
        remove_definitions(self.cluster)
        for name in (NAMESPACE, AGENTS):
            self.cluster.remove_namespace(name)
            # Its controller stumbles over the definitions that were just deleted, and tries again after minutes.
            wait_for(f"namespace {name} is gone", lambda: self._is_gone(name), seconds=180, every=2.0)  # noqa: B023
        self._server.kill()
        self.admin.close()


def remove_definitions(cluster: Cluster) -> None:
    """Delete the custom resources' definitions, whatever finalizers the objects have."""
    for kind in ("nobr", "nob", "nobmc"):
        with suppress(LabError):
            items = json.loads(cluster.kubectl("get", kind, "-A", "-o", "json"))["items"]
            for item in items:
                where = ["-n", item["metadata"]["namespace"]] if "namespace" in item["metadata"] else []
                patch = '--patch={"metadata":{"finalizers":null}}'
                with suppress(LabError):
                    cluster.kubectl("patch", kind, item["metadata"]["name"], *where, "--type=merge", patch)
    for name in CRD_NAMES:
        with suppress(LabError):
            cluster.kubectl("delete", "crd", name, "--timeout=20s")


def _account(name: str) -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
