"""The definitions as the API server takes them: what it fills in, shows and explains, and who can move over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
import yaml

from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.model import (
    GROUP,
    AgentRef,
    AnsweredAlert,
    Condition,
    DriverClaim,
    FailedAgent,
    FailureReason,
    Metadata,
    NodeObservability,
    NodeObservabilityRef,
    NodeObservabilitySpec,
    NodeObservabilityStatus,
    Phase,
    ProfileType,
    Run,
    RunSpec,
    RunStatus,
    RunSummary,
    RunTrigger,
    TargetSpec,
    TriggerKind,
    decode_json,
    to_builtins,
)
from nodeobs.model.versions import VERSIONS
from tests.api_webhooks import converted, webhooks
from tests.custom_objects import Objects, path
from tests.custom_resources import clear
from tests.lab.apiserver import ApiServer

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 1, 1, 3, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client, webhooks() as asked, converted(client, asked.webhook):
        yield client


@pytest.fixture(autouse=True)
def emptied(admin: KubeClient) -> Iterator[None]:
    yield
    clear(admin)


REF = {"nodeObservabilityRef": {"name": "cluster"}}

FULL_RUN = Run(
    metadata=Metadata(name="full"),
    spec=RunSpec(
        node_observability_ref=NodeObservabilityRef(name="cluster", type="crio-kubelet"),
        profiles=(ProfileType.CPU, ProfileType.HEAP),
        targets=("kubelet",),
        nodes=("node-1",),
        node_selector={"a": "b"},
        ttl_seconds_after_finished=60,
        trigger=RunTrigger(
            kind=TriggerKind.ALERT, name="slow", alerts=(AnsweredAlert(fingerprint="f", starts_at=NOW),)
        ),
    ),
    status=RunStatus(
        phase=Phase.SUCCEEDED,
        start_timestamp=NOW,
        finished_timestamp=NOW,
        agents=(AgentRef(name="node-1", ip="10.0.0.1", port=8443), AgentRef(name="node-1", ip="fd00::1", port=8443)),
        failed_agents=(FailedAgent(name="node-2", reason=FailureReason.NO_AGENT, message="none"),),
        output="s3://bucket/prefix/uid",
        summary=RunSummary(nodes=2, failed=1, bytes=2**40, start_skew_seconds=0.25),
        driver=DriverClaim(holder="pod-1", term=7),
        conditions=(Condition(type="Finished", status="True", reason="Succeeded", last_transition_time=NOW),),
    ),
)
PENDING_RUN = Run(
    metadata=Metadata(name="pending"), spec=RunSpec(node_observability_ref=NodeObservabilityRef(name="x"))
)
OBSERVABILITY = NodeObservability(
    metadata=Metadata(name="full"),
    spec=NodeObservabilitySpec(targets=(TargetSpec(name="a", url="http://x"), TargetSpec(name="b", socket="/x"))),
    status=NodeObservabilityStatus(count=3, last_updated=NOW, targets=("a", "b"), observed_generation=1),
)


@pytest.mark.parametrize("resource", [FULL_RUN, PENDING_RUN, OBSERVABILITY], ids=lambda found: found.metadata.name)
def test_what_the_service_writes_is_what_it_reads(
    admin: KubeClient, namespace: str, resource: Run | NodeObservability
) -> None:
    at = path(resource.KIND, "v1beta1", namespace)
    written = to_builtins(resource) | {"apiVersion": f"{GROUP}/v1beta1", "kind": resource.KIND}
    written["metadata"] = {"name": resource.metadata.name}
    stored = json.loads(admin.request("POST", at, written))
    body = stored | {"status": written["status"]}
    admin.request("PUT", f"{at}/{resource.metadata.name}/status", body)
    read = decode_json(admin.get(f"{at}/{resource.metadata.name}"), type(resource))
    assert (read.spec, read.status) == (resource.spec, resource.status)
    # Once more changes nothing, defaults and nulls included.
    raw = json.loads(admin.get(f"{at}/{resource.metadata.name}"))
    again = raw | {"spec": written["spec"], "status": written["status"]}
    for subresource in ("", "/status"):
        answer = json.loads(admin.request("PUT", f"{at}/{resource.metadata.name}{subresource}", again))
        assert answer["metadata"]["resourceVersion"] == raw["metadata"]["resourceVersion"]


def test_lists_are_selected_by_phase_and_parent(admin: KubeClient, namespace: str) -> None:
    objects = Objects(admin, Run.KIND, "v1beta1", namespace)
    objects.create(REF, name="a")
    objects.create({"nodeObservabilityRef": {"name": "other"}}, name="b")
    at = path(Run.KIND, "v1beta1", namespace)

    def found(selector: str) -> list[str]:
        items = json.loads(admin.get(at, {"fieldSelector": selector}))["items"]
        return [item["metadata"]["name"] for item in items]

    assert found("status.phase=Pending") == ["a", "b"]
    assert found("status.phase!=Pending") == []
    assert found("spec.nodeObservabilityRef.name=other") == ["b"]


def test_the_definitions_are_sound(admin: KubeClient) -> None:
    for name in CRD_NAMES:
        definition = json.loads(admin.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"))
        conditions = {found["type"]: found["status"] for found in definition["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert "NonStructuralSchema" not in conditions


def test_a_table_of_runs_tells_the_essence(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    at = path(Run.KIND, "v1beta1", namespace)
    known = {"apiVersion": f"{GROUP}/v1beta1", "kind": Run.KIND}
    stored = json.loads(
        admin.request("POST", at, to_builtins(FULL_RUN) | known | {"metadata": {"name": "full"}}),
    )
    admin.request("PUT", f"{at}/full/status", stored | {"status": to_builtins(FULL_RUN.status)})
    for version in VERSIONS:
        rows = api_server.kubectl("get", f"nodeobservabilityruns.{version}.{GROUP}", "-n", namespace, "-o", "wide")
        header, row = (line.split() for line in rows.splitlines())
        assert header == ["NAME", "REF", "PHASE", "NODES", "FAILED", "AGE", "OUTPUT"]
        assert row[:5] == ["full", "cluster", "Succeeded", "2", "1"]
        assert row[6] == FULL_RUN.status.output
    assert "OUTPUT" not in api_server.kubectl("get", "nobr", "-n", namespace)
    assert "full" in api_server.kubectl("get", "nodeobs", "-n", namespace)


def test_a_table_of_nodeobservabilities_tells_whether_they_are_ready(api_server: ApiServer, admin: KubeClient) -> None:
    stored = Objects(admin, NodeObservability.KIND, "v1beta1", "").create({})
    ready = {"type": "Ready", "status": "True"}
    at = f"{path(NodeObservability.KIND, 'v1beta1')}/x/status"
    admin.request("PUT", at, stored | {"status": {"count": 3, "conditions": [ready]}})
    for version in VERSIONS:
        header, row = api_server.kubectl("get", f"nodeobservabilities.{version}.{GROUP}").splitlines()
        assert header.split() == ["NAME", "TYPE", "NODES", "READY", "AGE"]
        assert row.split()[:4] == ["x", "crio-kubelet", "3", "True"]


@pytest.mark.parametrize(
    "place",
    [
        "nob",
        "nob.spec.targets",
        "nob.status.conditions",
        "nobr",
        "nobr.spec.nodeObservabilityRef",
        "nobr.spec.trigger.alerts",
        "nobr.status.failedAgents",
        "nobr.status.summary",
        "nobr.status.driver",
        "nobmc.spec.debug",
        "nobmc.status",
    ],
)
def test_explanations_have_no_gaps(api_server: ApiServer, admin: KubeClient, place: str) -> None:
    text = api_server.kubectl("explain", place)
    assert "<empty>" not in text
    assert "<no description>" not in text
    assert "FIELDS:" in text


def test_explanations_of_single_fields(api_server: ApiServer, admin: KubeClient) -> None:
    assert "How long to profile, in seconds (1 to 3600)." in api_server.kubectl("explain", "nobr.spec.durationSeconds")
    assert "ENUM:" in api_server.kubectl("explain", "nobr.status.phase")
    assert "v1beta1" in api_server.kubectl("explain", "nob")


SEED = """
apiVersion: nodeobservability.olm.openshift.io/v1alpha1
kind: NodeObservabilityRun
metadata:
  name: nodeobservabilityrun-sample
spec:
  nodeObservabilityRef:
    name: nodeobservability-sample
"""
SEED_STATUS = yaml.safe_load(
    """
  startTimestamp: "2022-05-12T15:25:54.192343392+02:00"
  finishedTimestamp: "2022-05-12T15:26:25.192343392+02:00"
  agents:
  - name: ip-172-31-83-20.ec2.internal
    ip: 172.31.83.20
    port: 8443
  output: /run/node-observability/50778b44-d1f8-11ec-9d64-0242ac120002
"""
)
UPSTREAM = """
apiVersion: nodeobservability.olm.openshift.io/v1alpha2
kind: NodeObservability
metadata:
  name: cluster
spec:
  nodeSelector:
    kubernetes.io/hostname: worker-a
  type: crio-kubelet
---
apiVersion: nodeobservability.olm.openshift.io/v1alpha2
kind: NodeObservabilityRun
metadata:
  name: nodeobservabilityrun-sample
spec:
  nodeObservabilityRef:
    name: cluster
    type: crio-kubelet
---
apiVersion: nodeobservability.olm.openshift.io/v1alpha2
kind: NodeObservabilityMachineConfig
metadata:
  name: nodeobservabilitymachineconfig-sample
spec:
  nodeSelector:
    node-role.kubernetes.io/worker: ""
  debug:
    enableCrioProfiling: true
---
apiVersion: nodeobservability.olm.openshift.io/v1alpha1
kind: NodeObservability
metadata:
  name: nodeobservability-sample
spec:
  labels:
    node-role.kubernetes.io/worker: ""
  type: crio-kubelet
---
apiVersion: nodeobservability.olm.openshift.io/v1alpha1
kind: NodeObservabilityMachineConfig
metadata:
  name: oldest
spec:
  debug:
    enableCrioProfiling: true
"""


def test_the_page_it_began_with_works_unchanged(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    api_server.kubectl("create", "-n", namespace, "-f", "-", input=SEED)
    at = f"{path(Run.KIND, 'v1alpha1', namespace)}/nodeobservabilityrun-sample"
    stored = json.loads(admin.get(at))
    admin.request("PUT", f"{at}/status", stored | {"status": SEED_STATUS})
    old = json.loads(admin.get(at))
    assert SEED_STATUS.items() <= old["status"].items()
    run = decode_json(admin.get(at.replace("v1alpha1", "v1beta1")), Run)
    assert run.spec.node_observability_ref.name == "nodeobservability-sample"
    assert run.status.agents == (AgentRef(name="ip-172-31-83-20.ec2.internal", ip="172.31.83.20", port=8443),)


def test_upstreams_samples_work_unchanged(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    said = api_server.kubectl("create", "-n", namespace, "-f", "-", input=UPSTREAM)
    assert said.count("created") == 5
    assert api_server.kubectl("apply", "-n", namespace, "-f", "-", input=UPSTREAM).count("configured") == 5
    selectors = {
        item["metadata"]["name"]: item["spec"]["nodeSelector"]
        for kind in ("nob", "nobmc")
        for item in json.loads(api_server.kubectl("get", kind, "-o", "json"))["items"]
    }
    worker = {"node-role.kubernetes.io/worker": ""}
    assert selectors == {
        "cluster": {"kubernetes.io/hostname": "worker-a"},
        "nodeobservability-sample": worker,
        "nodeobservabilitymachineconfig-sample": worker,
        "oldest": worker,
    }
    api_server.kubectl("delete", "nobmc", "--all")
