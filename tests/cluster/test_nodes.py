"""Real kubelets and containerds of three nodes, profiled by agents that run in the nodes."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nodeobs.kube.rbac import AGENT
from nodeobs.model import GROUP
from nodeobs.pprof import read
from tests.cluster.world import KubeWorld
from tests.integration.test_alert_to_output import assert_go_reads
from tests.lab.cluster import Cluster
from tests.lab.node import Inside, Node
from tests.lab.pki import Pair
from tests.processes import Program, free_port, wait_for
from tests.world import is_ok

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

GRACE_SECONDS = 8

SEED = """\
apiVersion: nodeobservability.olm.openshift.io/v1alpha1
kind: NodeObservability
metadata:
  name: nodeobservability-sample
spec:
  labels:
    node-role.kubernetes.io/worker: ""
"""

SEED_RUN = """\
apiVersion: nodeobservability.olm.openshift.io/v1alpha1
kind: NodeObservabilityRun
metadata:
  name: nodeobservabilityrun-sample
spec:
  nodeObservabilityRef:
    name: nodeobservability-sample
"""

TRIGGERS = """\
triggers:
  - name: kubelet-slow
    matchers: ['alertname=~"Kubelet.*"']
    nodeObservability: nodeobservability-sample
    nodesFrom: [node, instance]
    durationSeconds: 2
"""


class NodesWorld(KubeWorld):
    """The service on this machine, and an agent in each node, each with its own ServiceAccount's rights."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(cluster, folder, address=cluster.network.machine)
        self.cluster = cluster
        self.running: dict[str, Inside] = {}
        self._pairs: dict[str, Pair] = {}
        self._agent_token = self._secret("agent-token", cluster.token(self.agent_namespace, AGENT))
        to_agents = self._secret("to-agents", cluster.token(self.namespace, "nodeobs", audience="nodeobs-agent"))
        (folder / "triggers.yaml").write_text(TRIGGERS)
        self.name_of_agents = f"{AGENT}.{self.agent_namespace}.svc"
        self.settings = {
            "NODEOBS_AGENT_TLS": "true",
            "NODEOBS_AGENT_CA_FILE": str(cluster.ca_file),
            "NODEOBS_AGENT_SERVER_NAME": self.name_of_agents,
            "NODEOBS_AGENT_TOKEN_FILE": str(to_agents),
            "NODEOBS_TRIGGERS_FILE": str(folder / "triggers.yaml"),
            "NODEOBS_RUN_GRACE_SECONDS": str(GRACE_SECONDS),
        }

    def start_agent(self, node: Node) -> None:
        """Start the agent of a node: node-1's verifies its kubelet by name, the others have no authority for theirs."""
        if node.name not in self._pairs:
            self._pairs[node.name] = self.cluster.authority.issue(
                f"agent-{node.name}-{self.namespace}", self.name_of_agents
            )
        pair = self._pairs[node.name]
        argv: list[str | Path] = [sys.executable, "-m", "nodeobs.nodeagent", "--host", node.ip, "--port", "8443"]
        argv += ["--tls-cert-file", pair.certificate, "--tls-key-file", pair.key]
        argv += ["--auth", "kubernetes", "--api-server", self.cluster.url, "--api-server-ca-file", self.cluster.ca_file]
        argv += ["--api-server-token-file", self._agent_token, "--kubelet-token-file", self._agent_token]
        argv += ["--crio-socket", "", "--storage", self.folder / f"storage-{node.name}"]
        if node.name == "node-1":
            argv += ["--kubelet-ca-file", self.cluster.ca_file, "--kubelet-require-ca"]
        program = node.run(f"agent-{self.namespace}", argv)
        program.wait_until("the agent is ready", lambda: _answers(f"https://{node.ip}:8443/readyz"))
        self.running[node.name] = program
        self.agent_endpoint(node.name, node.ip, 8443)

    def close(self) -> None:
        for program in self.running.values():
            program.kill()
        super().close()

    def manifest(self, run: dict[str, Any]) -> dict[str, Any]:
        """The manifest's nodes by name."""
        found = json.loads((Path(run["status"]["output"]) / "manifest.json").read_text())
        return {node["name"]: node for node in found["nodes"]}

    def sample(self, name: str, **spec: Any) -> dict[str, Any]:
        """A short Run on the sample, finished."""
        self.run(name, parent="nodeobservability-sample", **{"durationSeconds": 2, **spec})
        return self.wait_run(name)

    def _secret(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodesWorld]:
    with closing(NodesWorld(cluster, tmp_path_factory.mktemp("nodes"))) as world:
        for node in cluster.nodes:
            world.start_agent(node)
        world.start(replicas=1, **world.settings)
        cluster.kubectl("create", "-f", "-", input=SEED)
        yield world


def condition(run: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in run["status"]["conditions"] if entry["type"] == kind)
    return found


def pieces(node: dict[str, Any]) -> dict[str, str | None]:
    """Reason of each target's CPU profile, None where it was delivered."""
    return {piece["target"]: piece.get("reason") for piece in node["pieces"]}


def test_the_seeds_yaml_brings_every_nodes_kubelet_and_containerd_profile(nodes: NodesWorld) -> None:
    nodes.cluster.kubectl("create", "-n", nodes.namespace, "-f", "-", input=SEED_RUN)
    name = "nodeobservabilityrun-sample"
    waited = nodes.cluster.kubectl(
        "wait", "--for=condition=Finished", f"nobr/{name}", "-n", nodes.namespace, "--timeout=100s"
    )
    assert "condition met" in waited
    run = nodes.get_run(name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert [agent["name"] for agent in run["status"]["agents"]] == ["node-1", "node-2", "node-3"]
    assert {agent["port"] for agent in run["status"]["agents"]} == {8443}
    assert condition(run, "Degraded")["status"] == "False", run["status"]
    output = Path(run["status"]["output"])
    for target in ("kubelet", "containerd"):
        merged = read((output / "merged" / f"{target}-cpu.pb.gz").read_bytes())
        assert merged.duration_nanos >= 3 * 29 * 10**9, "thirty seconds of each of three nodes"
        for node in ("node-1", "node-2", "node-3"):
            assert read((output / node / f"{target}-cpu.pb.gz").read_bytes()).sample_types
    assert run["status"]["summary"]["startSkewSeconds"] < 0.25
    assert_go_reads(output)
    shown = nodes.cluster.kubectl("describe", "nobr", name, "-n", nodes.namespace)
    for event in ("Started", "Finished"):
        assert event in shown
    old = f"nodeobservabilityruns.v1alpha1.{GROUP}"
    seen = json.loads(nodes.cluster.kubectl("get", old, name, "-n", nodes.namespace, "-o", "json"))
    assert seen["status"]["conditions"]["conditions"], "as upstream's programs read it"
    table = nodes.cluster.kubectl("get", "nobr", "-n", nodes.namespace, "-o", "wide").splitlines()
    assert table[0].split() == ["NAME", "REF", "PHASE", "NODES", "FAILED", "AGE", "OUTPUT"]


def test_a_stopped_kubelet_costs_its_own_piece_only(nodes: NodesWorld) -> None:
    stopped = nodes.cluster.nodes[1]
    stopped.stop_kubelet()
    try:
        run = nodes.sample("stopped-kubelet")
    finally:
        stopped.start_kubelet()
    assert run["status"]["phase"] == "Succeeded"
    assert "failedAgents" not in run["status"] or run["status"]["failedAgents"] == []
    found = nodes.manifest(run)
    assert pieces(found["node-2"]) == {"containerd": None, "kubelet": "TargetUnavailable"}
    assert pieces(found["node-1"]) == pieces(found["node-3"]) == {"containerd": None, "kubelet": None}
    degraded = condition(run, "Degraded")
    assert degraded["status"] == "True"
    assert "node-2: kubelet cpu: TargetUnavailable" in degraded["message"]
    wait_for("the kubelet is back", lambda: _answers(f"https://{stopped.ip}:10250/"))


def test_a_stopped_agent_is_among_the_failed_and_the_others_deliver(nodes: NodesWorld) -> None:
    node = nodes.cluster.nodes[2]
    nodes.running[node.name].kill()
    try:
        run = nodes.sample("stopped-agent")
    finally:
        nodes.start_agent(node)
    assert run["status"]["phase"] == "Succeeded"
    (failed,) = run["status"]["failedAgents"]
    assert (failed["name"], failed["reason"], failed["ip"]) == ("node-3", "Unreachable", node.ip)
    assert [agent["name"] for agent in run["status"]["agents"]] == ["node-1", "node-2"]
    assert all(reason is None for name in ("node-1", "node-2") for reason in pieces(nodes.manifest(run)[name]).values())


@pytest.mark.parametrize(("when", "reason"), [("before", "TargetUnavailable"), ("while", "Timeout")])
def test_a_kubelet_that_hangs_ends_within_the_deadline_and_costs_its_own_piece_only(
    nodes: NodesWorld, when: str, reason: str
) -> None:
    node, name = nodes.cluster.nodes[0], f"hangs-{when}"
    if when == "before":
        node.kubelet.pause()
    try:
        nodes.run(name, parent="nodeobservability-sample", durationSeconds=3)
        if when == "while":
            nodes.wait_run(name, "Running")
            wait_for(
                "the agent profiles",
                lambda: f"{nodes.get_run(name)['metadata']['uid']}: 2 profiles" in nodes.running[node.name].said(),
            )
            time.sleep(1.5)  # the common start instant is a little ahead
            node.kubelet.pause()
        run = nodes.wait_run(name)
    finally:
        node.kubelet.resume()
    assert run["status"]["phase"] == "Succeeded"
    assert pieces(nodes.manifest(run)["node-1"]) == {"containerd": None, "kubelet": reason}
    started, finished = (run["status"][key] for key in ("startTimestamp", "finishedTimestamp"))
    assert _seconds(finished) - _seconds(started) < 3 + GRACE_SECONDS + 5
    wait_for("the kubelet is back", lambda: _answers(f"https://{node.ip}:10250/"))


def test_an_alert_of_a_real_alertmanager_starts_a_run_on_its_node(nodes: NodesWorld, tmp_path: Path) -> None:
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if alertmanager is None:
        pytest.skip("Alertmanager is not installed")
    cluster = nodes.cluster
    cluster.kubectl("create", "serviceaccount", "alertmanager", "-n", nodes.namespace)
    binding = ["--clusterrole=nodeobs-alerts", f"--serviceaccount={nodes.namespace}:alertmanager"]
    cluster.kubectl("create", "clusterrolebinding", f"alerts-{nodes.namespace}", *binding)
    replica = nodes.replicas[0]
    http_config = {
        "authorization": {"credentials": cluster.token(nodes.namespace, "alertmanager")},
        "tls_config": {"insecure_skip_verify": True},
    }
    receiver = {"url": f"{replica.url}/webhooks/alertmanager", "http_config": http_config}
    route = {"receiver": "nodeobs", "group_wait": "0s", "group_interval": "1s"}
    config = {"route": route, "receivers": [{"name": "nodeobs", "webhook_configs": [receiver]}]}
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    argv = [alertmanager, f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/data"]
    argv += [f"--web.listen-address={url.removeprefix('http://')}", "--cluster.listen-address="]
    with Program("alertmanager", argv, log=tmp_path / "alertmanager.log") as program:
        program.wait_until("Alertmanager is ready", lambda: is_ok(f"{url}/-/ready"))
        labels = {"alertname": "KubeletSlow", "instance": f"{cluster.nodes[1].ip}:10250"}
        httpx.post(f"{url}/api/v2/alerts", json=[{"labels": labels}], trust_env=False).raise_for_status()

        def alerted() -> str | None:
            names = [run["metadata"]["name"] for run in nodes.runs() if run["spec"].get("trigger")]
            return next((name for name in names if name.startswith("kubelet-slow")), None)

        name = program.wait_until("a Run is created", alerted)
    run = nodes.wait_run(name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert [agent["name"] for agent in run["status"]["agents"]] == ["node-2"]
    assert run["spec"]["trigger"]["kind"] == "alert"


def _answers(url: str) -> bool:
    """Whether anything at all is answered there."""
    try:
        return bool(httpx.get(url, verify=False, trust_env=False, timeout=2).status_code)
    except httpx.TransportError:
        return False


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
