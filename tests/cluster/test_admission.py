"""Admission on the real API server: what kubectl is told, and that nothing is reserved or in the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodeobs.errors import InvalidInput, RunInProgress
from nodeobs.kube.paths import OBSERVABILITIES, RUNS
from nodeobs.model import API_VERSION, GROUP
from nodeobs.runs.rules import CREATED_BY
from tests.cluster.world import KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.lab.errors import LabError
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

RUN = "nodeobservabilityrun"


def apply(world: KubeWorld, *documents: dict[str, Any], verb: str = "create", options: tuple[str, ...] = ()) -> str:
    """What kubectl says."""
    everything = "\n---\n".join(json.dumps(document) for document in documents)
    return world.api.kubectl(verb, "-f", "-", *options, input=everything)


def refused(world: KubeWorld, document: dict[str, Any], *words: str) -> None:
    with pytest.raises(LabError) as refusal:
        apply(world, document)
    for word in words:
        assert word in str(refusal.value)


def is_refused(world: KubeWorld, document: dict[str, Any], *, options: tuple[str, ...]) -> bool:
    try:
        apply(world, document, options=options)
    except LabError:
        return True
    return False


def test_one_run_at_a_time_and_dry_runs_reserve_nothing(world: KubeWorld) -> None:
    world.agents(Behaviour())
    world.start()
    world.observability()
    dry = ("--dry-run=server",)
    for name in ("one", "two"):
        assert "server dry run" in apply(world, world.run_document(name), options=dry)
    assert world.runs() == []
    world.run("first", durationSeconds=600)
    held = f"{world.namespace}/first"
    second = world.run_document("second")
    wait_for("the first is in memory", lambda: is_refused(world, second, options=dry))
    refused(world, second, "(Conflict)", held, " since ", "wait for it or cancel it")
    with pytest.raises(RunInProgress) as conflict:
        world.run("second")
    assert conflict.value.holder == held
    world.wait_run("first", "Running")
    refused(world, second, held, "is Running since")
    world.observability("other")
    world.run("beside", parent="other")
    world.patch(RUNS.item("first", world.namespace), {"spec": {"cancel": True}})
    world.wait_run("first", "Cancelled")
    world.run("second", durationSeconds=600)


def test_a_run_is_admitted_right_after_what_it_needs(world: KubeWorld) -> None:
    world.start()
    for number in range(20):
        parent = f"fresh-{number}"
        observability = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": parent}}
        world.create(OBSERVABILITIES.collection(), observability)
        made = world.run(f"run-{number}", parent=parent)
        assert made["status"]["phase"] == "Pending"


def test_what_a_run_may_say(world: KubeWorld) -> None:
    world.start()
    world.observability(targets=[{"name": "kubelet"}])
    document = world.run_document
    refused(world, document("x", parent="nowhere"), "no NodeObservability 'nowhere'", "refer to one that exists")
    refused(world, document("x", targets=["etcd"]), "no target 'etcd'; its targets are kubelet")
    refused(world, document("x", durationSeconds=0), "1 to 3600")
    refused(world, document("x", durationSeconds=3601), "1 to 3600")
    refused(world, document("x", trigger={"kind": "alert"}), "spec.trigger", "leave it out")
    annotated = document("x")
    annotated["metadata"]["annotations"] = {CREATED_BY: "somebody"}
    refused(world, annotated, CREATED_BY)
    assert world.runs() == []

    made = document("", durationSeconds=600, ttlSecondsAfterFinished=0)
    made["metadata"] |= {"generateName": "made-"}
    del made["metadata"]["name"]
    with pytest.raises(InvalidInput, match="Duplicate value"):
        world.create(RUNS.collection(world.namespace), made | {"spec": {**made["spec"], "nodes": ["a", "a"]}})
    name = world.create(RUNS.collection(world.namespace), made)["metadata"]["name"]
    path = RUNS.item(name, world.namespace)
    with pytest.raises(InvalidInput):
        world.patch(path, {"spec": {"durationSeconds": 601}})
    with pytest.raises(InvalidInput):
        world.patch(path, {"spec": {"targets": ["kubelet"]}})
    world.patch(path, {"metadata": {"labels": {"a": "b"}}})
    world.patch(path, {"spec": {"cancel": True, "ttlSecondsAfterFinished": 3600}})


def test_the_old_versions_are_held_to_the_same_rules(world: KubeWorld) -> None:
    world.agents(Behaviour())
    world.start()
    old = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeObservability", "metadata": {"name": "cluster"}}
    apply(world, old | {"spec": {"labels": {"role": "worker"}}})
    run = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeObservabilityRun"}
    spec = {"nodeObservabilityRef": {"name": "cluster"}, "durationSeconds": 600}
    meta = {"namespace": world.namespace}
    apply(world, run | {"metadata": {**meta, "name": "first"}, "spec": spec})
    second = run | {"metadata": {**meta, "name": "second"}, "spec": spec}
    wait_for("the first is in memory", lambda: is_refused(world, second, options=("--dry-run=server",)))
    refused(world, second, "(Conflict)", f"{world.namespace}/first")
    missing = {**spec, "nodeObservabilityRef": {"name": "nowhere"}}
    refused(world, second | {"spec": missing}, "no NodeObservability 'nowhere'")


def test_whoever_creates_a_run_must_be_allowed_to_use_its_nodeobservability(world: KubeWorld) -> None:
    world.start()
    world.observability()
    kubectl, namespace = world.api.kubectl, world.namespace
    kubectl("create", "serviceaccount", "alice", "-n", namespace)
    user = f"system:serviceaccount:{namespace}:alice"
    resource = f"{RUN}s.{GROUP}"
    kubectl("create", "role", "creator", "-n", namespace, "--verb=create,get", f"--resource={resource}")
    kubectl("create", "rolebinding", "creator", "-n", namespace, "--role=creator", f"--user={user}")

    def create() -> str:
        document = json.dumps(world.run_document("hers", durationSeconds=600))
        return world.api.kubectl("create", "-f", "-", f"--as={user}", input=document)

    def is_refused_by_the_webhook() -> bool:
        with pytest.raises(LabError) as refusal:
            create()
        return "denied the request" in str(refusal.value) and f"{user} may not use" in str(refusal.value)

    wait_for("only the webhook is in the way", is_refused_by_the_webhook)
    assert world.runs() == []
    name = f"{namespace}-user"
    rule = {"apiGroups": [GROUP], "resources": ["nodeobservabilities"], "resourceNames": ["cluster"], "verbs": ["use"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    apply(world, role | {"rules": [rule]})
    kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={user}")

    def is_created() -> bool:
        try:
            return "created" in create()
        except LabError:
            return False

    try:
        wait_for("a refusal is not remembered for long", is_created)
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", name)


def test_what_the_webhook_warns_of_reaches_the_user(world: KubeWorld) -> None:
    world.start()
    document = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": "cluster"}}
    plain = document | {"spec": {"targets": [{"name": "etcd", "url": "http://10.0.0.1:2379/debug/pprof"}]}}
    with pytest.raises(LabError, match="target etcd: its profiles are fetched unencrypted"):
        apply(world, plain, options=("--warnings-as-errors",))
    credentials = {"name": "etcd", "url": "https://user:secret@10.0.0.1/"}
    refused(
        world, document | {"metadata": {"name": "other"}, "spec": {"targets": [credentials]}}, "spec.targets[0].url"
    )


def test_a_run_whose_status_might_not_fit_is_refused(world: KubeWorld) -> None:
    """Once stored it could be neither claimed nor ended, and would hold its NodeObservability for ever."""
    world.start()
    world.observability()
    nodes = [f"node-{number:05d}-{'x' * 88}" for number in range(5000)]
    with pytest.raises(InvalidInput, match="may have at most 524288"):
        world.run("huge", nodes=nodes)
    world.run("large", nodes=[name[:42] for name in nodes])
    assert world.wait_run("large")["status"]["phase"] == "Failed"


def test_without_the_service_nothing_is_created_but_everything_can_be_deleted(world: KubeWorld) -> None:
    world.start()
    world.observability()
    world.run("held", durationSeconds=600)
    path = RUNS.item("held", world.namespace)
    world.patch(path, {"metadata": {"finalizers": ["example.com/held"]}})
    for replica in world.replicas:
        replica.program.kill()
    refused(world, world.run_document("late"), "failed calling webhook")
    world.admin.request("DELETE", path)
    world.patch(path, {"metadata": {"finalizers": None}})
    assert world.runs() == []
