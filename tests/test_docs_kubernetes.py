"""The pages about Kubernetes: their YAML is what the service, the agent and ``nodeobs manifests`` know."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from nodeobs.cli import main
from nodeobs.kube.crds import Webhook
from nodeobs.kube.manifests import manifests
from nodeobs.kube.rbac import Features
from nodeobs.model import NodeObservability, Run, decode_json, encode_json
from nodeobs.nodeagent.arguments import read_settings
from nodeobs.settings import Settings
from tests.lab.apiserver import ApiServer
from tests.processes import ROOT

TEXT = (ROOT / "docs" / "kubernetes.md").read_text()
BY_HAND = (ROOT / "docs" / "agents-by-hand.md").read_text()
DOCUMENTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for block in re.findall(r"```yaml\n(.*?)```", TEXT + BY_HAND, re.DOTALL)
    for document in yaml.safe_load_all(block)
}
MANIFESTS = manifests(
    namespace="nodeobs",
    agent_namespace="nodeobs-agents",
    webhook=Webhook(),
    features=Features(deploy_agents=False),
)


def container(kind: str) -> dict[str, Any]:
    (only,) = DOCUMENTS[kind]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def named(kind: str, like: dict[str, Any], name: str) -> dict[str, Any]:
    """Of the manifests, the object of that kind and name in the namespace of ``like``."""
    where = like["metadata"]["namespace"]
    return next(
        o
        for o in MANIFESTS
        if (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) == (kind, where, name)
    )


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_the_pods_fit_what_the_manifests_bring(kind: str) -> None:
    document = DOCUMENTS[kind]
    template = document["spec"]["template"]
    named("ServiceAccount", document, template["spec"]["serviceAccountName"])
    service = named("Service", document, document["metadata"]["name"])
    assert service["spec"]["selector"] == template["metadata"]["labels"] == document["spec"]["selector"]["matchLabels"]
    assert container(kind)["ports"] == [{"containerPort": service["spec"]["ports"][0]["targetPort"]}]


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_services_settings_are_accepted(tmp_path: Path, by_hand: bool) -> None:
    files = {"CA": "/etc/agents/ca.crt", "TOKEN": "/var/run/secrets/nodeobs/token"}
    environ = {entry["name"]: entry["value"] for entry in container("Deployment")["env"]}
    if by_hand:
        del environ["NODEOBS_AGENT_IMAGE"]
        environ |= dict(re.findall(r"^(NODEOBS_\w+)=(\S+)", BY_HAND, re.MULTILINE))
    for name in files:
        (tmp_path / name).touch(mode=0o600)
    moved = {path: str(tmp_path / name) for name, path in files.items()}
    settings = Settings.load({name: moved.get(value, value) for name, value in environ.items()})
    assert settings.mode == "kubernetes"
    assert (settings.agent_image is None) == by_hand
    if by_hand:
        assert str(settings.agent_server_name) in BY_HAND.partition("```yaml")[0], "the certificate is made for it"


def test_the_agents_arguments_are_accepted() -> None:
    pod = {"NODE_IP": "10.0.0.1", "KUBERNETES_SERVICE_HOST": "10.0.0.2", "KUBERNETES_SERVICE_PORT": "443"}
    settings = read_settings(container("DaemonSet")["args"], pod)
    assert settings.port == container("DaemonSet")["ports"][0]["containerPort"]


@pytest.mark.cluster
@pytest.mark.parametrize(("kind", "level"), [("Deployment", "restricted"), ("DaemonSet", "privileged")])
def test_the_pods_are_admitted_in_their_namespaces(
    api_server: ApiServer, namespace: str, kind: str, level: str
) -> None:
    (labels,) = (
        o["metadata"]["labels"]
        for o in MANIFESTS
        if o["kind"] == "Namespace" and o["metadata"]["name"] == DOCUMENTS[kind]["metadata"]["namespace"]
    )
    assert labels["pod-security.kubernetes.io/enforce"] == level
    api_server.kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
    api_server.kubectl("create", "serviceaccount", "default", "-n", namespace)
    spec = DOCUMENTS[kind]["spec"]["template"]["spec"] | {"serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "documented", "namespace": namespace}, "spec": spec}
    api_server.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(pod))


def test_the_resources_are_ours() -> None:
    assert decode_json(encode_json(DOCUMENTS["NodeObservability"]), NodeObservability).metadata.name == "cluster"
    assert (
        decode_json(encode_json(DOCUMENTS["NodeObservabilityRun"]), Run).spec.node_observability_ref.name == "cluster"
    )


@pytest.mark.parametrize("line", re.findall(r"^\$ (?:kubectl )?nodeobs ([^|\n]+)", TEXT, re.MULTILINE))
def test_the_commands_are_understood(line: str) -> None:
    """Up to where they would do something."""
    result = CliRunner().invoke(main, [*shlex.split(line), "--help"])
    assert result.exit_code == 0
    for option in re.findall(r"(?<!\S)(--?[a-z-]+)", line):
        assert option in result.output
