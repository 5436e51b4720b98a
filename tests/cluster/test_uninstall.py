"""``nodeobs uninstall`` at a real API server, with the rights of its role and no others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from click.testing import Result

from nodeobs.deploy.children import CHILD_LABELS, PATHS
from nodeobs.errors import NodeobsError, NotFound
from nodeobs.kube.crds import CRD_NAMES, Webhook, crds
from nodeobs.kube.manifests import manifests
from nodeobs.kube.paths import OBSERVABILITIES, PODS, RUNS, ResourcePath
from nodeobs.kube.rbac import UNINSTALL
from nodeobs.kube.reviews import AUTHORIZATION_PATH, Identity, ResourceRight, access_review
from nodeobs.model import API_VERSION, GROUP
from tests.api_webhooks import webhooks
from tests.cluster.storing import create_old, stored_versions
from tests.cluster.uninstalling import CLUSTER_ROLES, Uninstall, definition, served, uninstaller, user
from tests.cluster.world import DEFINITIONS, HOOKS, LEASES, KubeWorld
from tests.custom_resources import release
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

DEPLOYMENTS = ResourcePath("/apis/apps/v1", "deployments")
MACHINE_CONFIGS = ResourcePath(f"/apis/{API_VERSION}", "nodeobservabilitymachineconfigs")
DRIVEN = f"{GROUP}/driven"
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {"containers": [{"name": "x", "image": "x"}], "automountServiceAccountToken": False},
}


@pytest.fixture
def nodeobs_uninstall(world: KubeWorld) -> Iterator[Uninstall]:
    with uninstaller(world) as invoke:
        yield invoke


def writes(world: KubeWorld) -> list[tuple[str, str]]:
    """Verb and path of all that the command wrote."""
    asked = world.api.requests(user(world))
    return [(one.verb, one.uri.partition("?")[0]) for one in asked if one.verb not in ("get", "list", "watch")]


def names(world: KubeWorld, path: ResourcePath, namespace: str = "") -> list[str]:
    found = json.loads(world.admin.get(path.collection(namespace)))["items"]
    return [item["metadata"]["name"] for item in found]


def create_run(world: KubeWorld, name: str, phase: str = "", finalizers: tuple[str, ...] = ()) -> None:
    """A Run in that phase, which nobody drives any more."""
    body = world.run_document(name)
    body["metadata"]["finalizers"] = list(finalizers)
    world.create(RUNS.collection(world.namespace), body)
    if phase:
        world.patch(RUNS.item(name, world.namespace, subresource="status"), {"status": {"phase": phase}})


def create_child(world: KubeWorld, kind: str, name: str, labels: dict[str, str]) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "ClusterRoleBinding": {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "nodeobs-agent"}
        },
        "Service": {"spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
        "DaemonSet": {"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}},
    }
    within = "" if kind == "ClusterRoleBinding" else world.agent_namespace
    metadata = {"name": name, "labels": labels}
    world.create(PATHS[kind].collection(within), {"metadata": metadata, **bodies.get(kind, {})})


def create_deployment(world: KubeWorld) -> None:
    labels = {"app.kubernetes.io/name": "nodeobs", "app.kubernetes.io/component": "service"}
    template = {"metadata": {"labels": labels}, "spec": TEMPLATE["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    world.create(DEPLOYMENTS.collection(world.namespace), {"metadata": {"name": "nodeobs"}, "spec": spec})
    secure = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "x",
                "image": "x",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    pod = {"metadata": {"name": "one", "labels": labels}, "spec": TEMPLATE["spec"] | secure}
    world.create(PODS.collection(world.namespace), pod)


@pytest.fixture
def full(world: KubeWorld) -> Iterator[KubeWorld]:
    """A cluster in which the service has been, and has left everything behind; and somebody else's things."""
    world.admin.request("DELETE", HOOKS.item("nodeobs"))
    wait_for("admission is gone", lambda: _accepts(world))
    world.observability()
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "agents are ready on 3 of 3 nodes"}
    status = {"status": {"count": 3, "targets": ["kubelet"], "conditions": [ready]}}
    world.patch(OBSERVABILITIES.item("cluster", subresource="status"), status)
    create_run(world, "done", "Succeeded", finalizers=("example.com/theirs",))
    create_run(world, "going", "Running", finalizers=(DRIVEN,))
    create_run(world, "leaving", "Retrieving", finalizers=(DRIVEN,))
    world.admin.request("DELETE", RUNS.item("leaving", world.namespace))
    create_run(world, "pending")
    config = {"metadata": {"name": "cluster", "finalizers": [f"{GROUP}/machine-configs"]}, "spec": {}}
    known = {"apiVersion": API_VERSION, "kind": "NodeObservabilityMachineConfig"}
    world.create(MACHINE_CONFIGS.collection(), known | config)
    for kind in PATHS:
        create_child(world, kind, f"{world.namespace}-ours", dict(CHILD_LABELS))
        create_child(world, kind, f"{world.namespace}-theirs", {"app.kubernetes.io/part-of": "nodeobs"})
    create_deployment(world)
    world.install()
    yield world
    for name in names(world, RUNS, world.namespace):
        release(world.admin, RUNS, name, world.namespace)
    release(world.admin, MACHINE_CONFIGS, "cluster")
    with suppress(NotFound):
        world.admin.request("DELETE", MACHINE_CONFIGS.item("cluster"))
    world.admin.request("DELETE", PATHS["ClusterRoleBinding"].item(f"{world.namespace}-theirs"))


def _accepts(world: KubeWorld) -> bool:
    body = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": "probe"}}
    try:
        world.admin.request("POST", OBSERVABILITIES.collection(), body, params={"dryRun": "All"})
    except NodeobsError:
        return False
    return True


def test_a_dry_run_tells_everything_and_changes_nothing(full: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    before = len(full.api.requests(user(full)))
    done = nodeobs_uninstall("--dry-run", yes=False)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert f"would stop Deployment {full.namespace}/nodeobs" in lines
    assert "would delete ValidatingWebhookConfiguration nodeobs" in lines
    assert f"would delete DaemonSet {full.agent_namespace}/{full.namespace}-ours" in lines
    assert f"would end NodeObservabilityRun {full.namespace}/going as Cancelled" in lines
    assert "would mark NodeObservability cluster as not Ready" in lines
    assert f"would narrow CustomResourceDefinition {CRD_NAMES[0]} to v1beta1" in lines
    assert "theirs" not in done.output
    asked = full.api.requests(user(full))[before:]
    assert {one.verb for one in asked} == {"get", "list"}


def test_what_is_kept_needs_no_service_and_everything_else_is_gone(
    full: KubeWorld, nodeobs_uninstall: Uninstall
) -> None:
    stuck = nodeobs_uninstall("--timeout", "0")
    assert stuck.exit_code == 124
    assert "pods of the service have not ended within 0 s: one" in stuck.stderr
    assert len(names(full, HOOKS)) == 1, "the service may still be there"
    full.admin.request("DELETE", PODS.item("one", full.namespace), {"gracePeriodSeconds": 0})

    done = nodeobs_uninstall("--output", "json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert {"action": "delete", "object": "ValidatingWebhookConfiguration nodeobs"} in answer["changes"]
    assert json.loads(full.admin.get(DEPLOYMENTS.item("nodeobs", full.namespace)))["spec"]["replicas"] == 0
    assert names(full, HOOKS) == []
    for kind, path in PATHS.items():
        left = names(full, path, "" if kind == "ClusterRoleBinding" else full.agent_namespace)
        assert f"{full.namespace}-ours" not in left
        assert f"{full.namespace}-theirs" in left
    for name in CRD_NAMES:
        assert served(full, name) == ["v1beta1"]
        assert definition(full, name)["spec"]["conversion"] == {"strategy": "None"}

    kept = json.loads(full.api.kubectl("get", "nobr", "-n", full.namespace, "-o", "json"))["items"]
    phases = {run["metadata"]["name"]: run["status"]["phase"] for run in kept}
    assert phases == {"done": "Succeeded", "going": "Cancelled", "pending": "Cancelled"}
    assert {run["apiVersion"] for run in kept} == {API_VERSION}
    (said,) = [
        condition["message"]
        for run in kept
        if run["metadata"]["name"] == "going"
        for condition in run["status"]["conditions"]
        if condition["type"] == "Finished"
    ]
    assert said == "nodeobs was uninstalled before the Run finished"
    theirs = {run["metadata"]["name"]: run["metadata"].get("finalizers") for run in kept}
    assert theirs == {"done": ["example.com/theirs"], "going": None, "pending": None}

    told = json.loads(full.admin.get(OBSERVABILITIES.item("cluster")))["status"]
    assert (told["count"], told["targets"]) == (0, ["kubelet"])
    (ready,) = told["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "Uninstalled")

    written = writes(full)
    again = nodeobs_uninstall()
    assert again.exit_code == 0, again.output
    assert writes(full) == written, "there was nothing left to do"

    full.api.kubectl("delete", "nobr", "going", "pending", "-n", full.namespace, "--timeout=20s")
    full.api.kubectl("delete", "nob,nobmc", "--all", "--timeout=20s")


def test_installing_again_brings_back_versions_and_conversion(full: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    full.admin.request("DELETE", PODS.item("one", full.namespace), {"gracePeriodSeconds": 0})
    before = {name: definition(full, name)["spec"] for name in CRD_NAMES}
    assert nodeobs_uninstall().exit_code == 0
    owners = [entry["manager"] for entry in definition(full, CRD_NAMES[0])["metadata"]["managedFields"]]
    assert "nodeobs-uninstall" not in owners
    webhook = Webhook(namespace=full.namespace, service="nodeobs")
    documents = manifests(namespace=full.namespace, agent_namespace=full.agent_namespace, webhook=webhook)
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    # Neither the one that installed it before, nor another, is told of a conflict.
    full.api.kubectl("apply", "--server-side", "-f", "-", input=everything)
    assert {name: definition(full, name)["spec"] for name in CRD_NAMES} == before
    assert nodeobs_uninstall().exit_code == 0
    full.api.kubectl(
        "apply",
        "--server-side",
        "--field-manager=helm",
        "-f",
        "-",
        input=everything,
    )
    assert {name: definition(full, name)["spec"] for name in CRD_NAMES} == before


def test_old_objects_that_nobody_converts_are_not_given_up(world: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    create_old(world, "sample", "old")
    refused = nodeobs_uninstall()
    assert refused.exit_code == 4, refused.output
    assert "nodeobservabilities that are stored as v1alpha1 cannot be converted to v1beta1" in refused.stderr
    assert "start the service, wait until it is ready" in refused.stderr
    assert not [one for one in writes(world) if one[0] == "delete"]
    # What docs/uninstall.md says for a service that never comes back.
    old = f"nodeobservabilityruns.v1alpha1.{GROUP}"
    assert "old" in world.api.kubectl("get", old, "--all-namespaces")
    world.api.kubectl("delete", old, "old", "-n", world.namespace, "--dry-run=server")
    with webhooks() as service:
        changed = crds(webhook=service.webhook)
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": changed})
        world.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=listed)
        wait_for("they are converted", lambda: _reads(world))
        done = nodeobs_uninstall()
    assert done.exit_code == 0, done.output
    assert "rewrote nodeobservabilities that are stored as v1alpha1" in done.stderr
    for plural in ("nodeobservabilities", "nodeobservabilityruns"):
        assert stored_versions(world, plural) == ["v1beta1"]
    kept = json.loads(world.api.kubectl("get", "nob", "sample", "-o", "json"))
    assert kept["spec"]["nodeSelector"] == {"role": "worker"}
    world.api.kubectl("delete", "nobr", "old", "-n", world.namespace, "--timeout=20s")


def _reads(world: KubeWorld) -> bool:
    try:
        return names(world, OBSERVABILITIES) == ["sample"]
    except NodeobsError:
        return False


def test_old_objects_without_any_conversion_are_not_given_up(world: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    create_old(world, "sample", "old")
    for name in CRD_NAMES:
        world.patch(DEFINITIONS.item(name), {"spec": {"conversion": {"strategy": "None", "webhook": None}}})
    wait_for("they are read as they are", lambda: _reads(world))
    refused = nodeobs_uninstall()
    assert refused.exit_code == 4, refused.output
    assert "their definition has no conversion webhook" in refused.stderr
    assert writes(world) == []


@pytest.mark.slow
def test_a_service_that_runs_ends_its_runs_itself(world: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    world.agents(Behaviour())
    world.start()
    world.observability(nodeSelector={"role": "worker"})
    world.run("long", durationSeconds=600)
    world.wait_run("long", "Running")
    refused = nodeobs_uninstall("--timeout", "3")
    assert refused.exit_code == 4, refused.output
    ended = world.get_run("long")["status"]
    assert ended["phase"] == "Cancelled"
    assert ended["summary"]["nodes"] == 1, "the service did it"
    holder = json.loads(world.admin.get(LEASES.item("nodeobs", world.namespace)))["spec"]["holderIdentity"]
    assert f"{holder} still leads" in refused.stderr
    assert len(names(world, HOOKS)) == 1
    ending = threading.Timer(2.0, world.replicas[0].terminate)
    ending.start()
    done = nodeobs_uninstall("--timeout", "30")
    ending.join()
    assert done.exit_code == 0, done.output
    assert f"waiting for {holder}, which leads, to end" in done.stderr
    assert names(world, HOOKS) == []


def right(verb: str, resource: str, group: str = "", namespace: str = "", name: str = "") -> ResourceRight:
    resource, _, sub = resource.partition("/")
    return ResourceRight(verb=verb, resource=resource, subresource=sub, namespace=namespace, name=name, group=group)


@pytest.mark.usefixtures("nodeobs_uninstall")
def test_it_may_not_do_more(world: KubeWorld) -> None:
    here, beside, other = world.namespace, world.agent_namespace, "kube-system"
    may_not = [
        right("get", "secrets", namespace=here, name="nodeobs-tls"),
        right("list", "secrets", namespace=here),
        right("create", "secrets", namespace=beside),
        right("delete", "secrets", namespace=other),
        right("delete", "pods", namespace=here),
        right("list", "pods", namespace=other),
        right("patch", "deployments", "apps", here, "nodeobs"),
        right("patch", "deployments/scale", "apps", here, "other"),
        right("delete", "deployments", "apps", here, "nodeobs"),
        right("patch", "daemonsets", "apps", beside, "x"),
        right("delete", "daemonsets", "apps", other, "x"),
        right("update", "leases", "coordination.k8s.io", here, "nodeobs"),
        right("delete", "customresourcedefinitions", "apiextensions.k8s.io", name=CRD_NAMES[0]),
        right("patch", "customresourcedefinitions", "apiextensions.k8s.io", name="others.example.com"),
        right("delete", "validatingwebhookconfigurations", "admissionregistration.k8s.io", name="other"),
        right("patch", "validatingwebhookconfigurations", "admissionregistration.k8s.io", name="nodeobs"),
        right("create", "clusterrolebindings", "rbac.authorization.k8s.io"),
        right("delete", "clusterroles", "rbac.authorization.k8s.io", name="nodeobs"),
        right("delete", "nodeobservabilityruns", GROUP, here),
        right("create", "nodeobservabilityruns", GROUP, here),
        right("delete", "nodeobservabilities", GROUP),
        right("delete", "namespaces", name=beside),
    ]
    groups = ("system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{here}")
    who = Identity(user(world), groups=groups)

    def allowed(asked: ResourceRight) -> bool:
        answer = world.admin.request("POST", AUTHORIZATION_PATH, access_review(who, asked))
        return bool(json.loads(answer)["status"]["allowed"])

    assert [str(asked) for asked in may_not if allowed(asked)] == []


def test_a_right_that_is_missing_is_named(world: KubeWorld, nodeobs_uninstall: Uninstall) -> None:
    for path in CLUSTER_ROLES[1:]:
        world.admin.request("DELETE", path.item(UNINSTALL))
    refused: list[Result] = []

    def probe() -> bool:
        refused.append(nodeobs_uninstall())
        return refused[-1].exit_code == 6

    wait_for("the binding is out of force", probe)
    assert f'User "{user(world)}" cannot get resource "customresourcedefinitions"' in refused[-1].stderr
    assert "nodeobs-uninstall" in refused[-1].stderr
