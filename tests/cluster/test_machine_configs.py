"""A NodeObservabilityMachineConfig turns CRI-O's profiling on and off again, with the least rights."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from nodeobs.deploy.machineconfigs import FINALIZER, View
from nodeobs.deploy.machineobserved import MachinesObserved
from nodeobs.deploy.machines import LABEL, PATHS
from nodeobs.errors import StoreUnavailable
from nodeobs.kube.paths import MACHINE_CONFIGS, NODES
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_POOL
from nodeobs.model import API_VERSION
from tests.cluster.machining import Machining, Operator
from tests.cluster.world import KubeWorld
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

DROP_IN = '[Service]\nEnvironment="ENABLE_PROFILE_UNIX_SOCKET=true"'


@pytest.fixture
def world(api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Machining]:
    with closing(Machining(api_server, namespace, tmp_path)) as made:
        yield made


@pytest.fixture
def operator(world: Machining) -> Operator:
    return Operator(world)


def settled(world: Machining) -> list[tuple[str, str]]:
    """What was written, once nothing more is."""
    before: list[tuple[str, str]] = []

    def steady() -> bool:
        nonlocal before
        now = world.writes()
        same, before = now == before, now
        return same

    wait_for("nothing more is written", steady, seconds=40, every=7.0)
    return before


def enabled(world: Machining, operator: Operator, *nodes: str) -> None:
    """Have it on for these nodes."""
    wait_for("the nodes are labelled", lambda: world.labelled() == set(nodes), seconds=20)
    operator.finish()
    world.wait_said("Enabled", "Ready", f"CRI-O's profiling is on for {len(nodes)} nodes")


def test_it_is_turned_on_and_off_and_at_rest_nothing_is_written(world: Machining, operator: Operator) -> None:
    one, two = world.worker("a"), world.worker("b")
    world.worker("c", test="another")
    world.config()
    world.lead()
    world.wait_said("Progressing", "Progressing")
    wait_for("the nodes are labelled", lambda: world.labelled() == {one, two}, seconds=20)
    made, pool = world.machine_config(), world.pool()
    assert made is not None
    assert pool is not None
    assert made["metadata"]["labels"]["machineconfiguration.openshift.io/role"] == MACHINE_POOL
    assert made["spec"]["config"]["ignition"] == {"version": "3.2.0"}
    (unit,) = made["spec"]["config"]["systemd"]["units"]
    assert unit == {
        "name": "crio.service",
        "dropins": [{"name": "10-mco-profile-unix-socket.conf", "contents": DROP_IN}],
    }
    (roles,) = pool["spec"]["machineConfigSelector"]["matchExpressions"]
    assert (roles["operator"], roles["values"]) == ("In", ["worker", MACHINE_POOL])
    assert pool["spec"]["nodeSelector"] == {"matchLabels": {LABEL: ""}}
    operator.begin()
    world.wait_said("Progressing", "Progressing", "for which nodes restart: 0 of 2 nodes are done")
    operator.finish()
    world.wait_said("Enabled", "Ready", "CRI-O's profiling is on for 2 nodes")
    stored = world.stored()
    assert stored is not None
    assert stored["metadata"]["finalizers"] == [FINALIZER]
    assert stored["status"]["lastReconcile"]
    written = settled(world)
    asked = world.asked()
    # Another leader finds all as it should be.
    world.stop()
    world.lead()
    assert settled(world) == written
    assert world.asked() <= asked + 6, "it lists each kind once, and asks once whether there is machine configuration"

    world.turn(on=False)
    world.wait_said("Disabled", "Progressing")
    wait_for("the labels are off", lambda: world.labelled() == set(), seconds=20)
    wait_for("it is deleted", lambda: world.machine_config() is None, seconds=20)
    operator.begin()
    world.wait_said("Disabled", "Progressing", "MachineConfigPool worker is being rolled out")
    assert world.pool() is not None, "nodes still have its configuration"
    operator.finish()
    world.wait_said("Disabled", "Ready", "not turned on by this")
    wait_for("the pool is deleted", lambda: world.pool() is None, seconds=20)
    wait_for("it is let go", lambda: "finalizers" not in (world.stored() or {})["metadata"], seconds=20)
    assert settled(world) == world.writes()


def test_a_degraded_pool_is_told_and_mends(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.lead()
    wait_for("the node is labelled", lambda: world.labelled() == {one}, seconds=20)
    operator.degrade(MACHINE_POOL, "Node a is reporting: disk full")
    found = world.wait_said("Failed", "Failed", "MachineConfigPool nodeobservability is degraded: 1 nodes are failing")
    assert "Node a is reporting: disk full" in found
    enabled(world, operator, one)
    world.delete()
    wait_for("the label is off", lambda: world.labelled() == set(), seconds=20)
    operator.degrade("worker", "no way back")
    world.wait_said("Disabled", "Failed", "MachineConfigPool worker is degraded: 1 nodes are failing: no way back")
    wait_for("it is deleted", lambda: world.machine_config() is None, seconds=20)
    operator.finish()
    world.wait_gone()
    assert world.pool() is None


def test_deleted_in_mid_roll_out_and_by_another_leader(world: Machining, operator: Operator) -> None:
    one, two = world.worker("a"), world.worker("b")
    world.config()
    world.lead()
    wait_for("the nodes are labelled", lambda: world.labelled() == {one, two}, seconds=20)
    operator.finish(one)
    world.wait_said("Progressing", "Progressing", "1 of 2 nodes are done")
    world.stop()
    world.delete()
    world.lead()
    wait_for("the labels are off", lambda: world.labelled() == set(), seconds=20)
    wait_for("it is deleted", lambda: world.machine_config() is None, seconds=20)
    world.stop()
    operator.begin()
    world.lead()
    world.wait_said("Disabled", "Progressing", "MachineConfigPool worker is being rolled out")
    assert world.pool() is not None
    operator.finish()
    world.wait_gone()
    assert world.pool() is None


def test_of_several_the_nodes_are_the_union(world: Machining, operator: Operator) -> None:
    one, two, both = world.worker("a", which="one"), world.worker("b", which="two"), world.worker("c", which="two")
    world.config("first", which="one")
    world.config("second", which="two")
    world.config("off", on=False)
    world.lead()
    wait_for("the nodes are labelled", lambda: world.labelled() == {one, two, both}, seconds=20)
    operator.finish()
    world.wait_said("Enabled", "Ready", "is on for 1 nodes", name="first")
    world.wait_said("Enabled", "Ready", "is on for 2 nodes", name="second")
    world.wait_said("Disabled", "Ready", name="off")
    assert "finalizers" not in (world.stored("off") or {})["metadata"]
    world.delete("second")
    world.wait_gone("second")
    assert world.labelled() == {one}
    assert world.machine_config() is not None
    operator.finish()
    world.wait_said("Enabled", "Ready", name="first")


def test_somebody_elses_label_and_the_control_plane_are_left_alone(world: Machining, operator: Operator) -> None:
    mine, theirs = world.worker("a"), world.worker("b", LABEL)
    apart = world.worker("c", "node-role.kubernetes.io/master")
    world.config()
    world.lead()
    wait_for("the node is labelled", lambda: world.labelled() == {mine, theirs}, seconds=20)
    operator.finish()
    found = world.wait_said("Enabled", "Ready", "is on for 2 nodes")
    assert found.endswith(f"of the control plane, and left alone: {apart}")
    assert [path for verb, path in world.writes() if path.endswith((theirs, apart))] == []
    world.delete()
    wait_for("ours is off", lambda: world.labelled() == {theirs}, seconds=20)
    world.wait_said("Disabled", "Progressing", f"stays while {theirs} has the label {LABEL}, which somebody else set")
    assert world.pool() is not None
    world.patch(NODES.item(theirs), {"metadata": {"labels": {LABEL: None}}})
    operator.finish()
    world.wait_gone()


def test_no_worker_no_change(world: Machining, operator: Operator) -> None:
    apart = world.worker("a", "node-role.kubernetes.io/control-plane")
    world.config("masters")
    world.config("nowhere", no="such")
    world.lead()
    world.wait_said("Invalid", "Invalid", f"of the control plane, and left alone: {apart}. no other", name="masters")
    world.wait_said("Progressing", "Progressing", "no node is selected", name="nowhere")
    assert world.labelled() == set()
    assert world.machine_config() is None
    assert world.pool() is None


def test_somebody_elses_machine_config_is_left_alone(world: Machining, operator: Operator) -> None:
    world.worker("a")
    kind = {"apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfig"}
    theirs = kind | {"metadata": {"name": MACHINE_CONFIG}, "spec": {"config": {}}}
    world.create(PATHS["MachineConfig"].collection(), theirs)
    world.config()
    world.lead()
    world.wait_said("Failed", "Failed", f"MachineConfig {MACHINE_CONFIG} cannot be written: somebody else's object")
    assert world.labelled() == set(), "nothing restarts for half of it"
    world.delete()
    world.wait_gone()
    assert (world.machine_config() or {})["spec"] == {"config": {}}


def test_what_others_change_is_put_right(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.lead()
    enabled(world, operator, one)
    world.patch(PATHS["MachineConfig"].item(MACHINE_CONFIG), {"spec": {"config": {"systemd": {"units": []}}}})
    world.patch(NODES.item(one), {"metadata": {"labels": {LABEL: None}}})
    wait_for("the label is back", lambda: world.labelled() == {one}, seconds=20)
    wait_for(
        "the unit is back",
        lambda: (world.machine_config() or {})["spec"]["config"]["systemd"]["units"],
        seconds=20,
    )


def test_nothing_is_taken_for_gone_because_memory_is_behind(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.lead()
    enabled(world, operator, one)
    world.stop()
    observed = MachinesObserved(world.client, openshift=True, randomness=world.randomness, changed=lambda: None)
    behind = View(openshift=True, served=True)
    assert not observed.is_clean(behind)
    world.patch(NODES.item(one), {"metadata": {"labels": {LABEL: None}}})
    assert not observed.is_clean(behind), "the MachineConfig is there"
    world.admin.request("DELETE", PATHS["MachineConfig"].item(MACHINE_CONFIG))
    assert not observed.is_clean(behind), "the pool is there"
    world.admin.request("DELETE", PATHS["MachineConfigPool"].item(MACHINE_POOL))
    assert observed.is_clean(behind)


def test_elsewhere_nothing_is_touched_and_the_condition_says_why(world: Machining, operator: Operator) -> None:
    world.worker("a")
    world.config()
    world.lead(openshift=False)
    world.wait_said("Invalid", "Invalid", "machine configuration is OpenShift's, and the service's setting openshift")
    assert "finalizers" not in (world.stored() or {})["metadata"]
    written = settled(world)
    assert [path.rpartition("/")[2] for _, path in written] == ["status"]
    asked = [one.uri for one in world.api.requests(world.user) if "nodes" in one.uri or "machineconfigs?" in one.uri]
    assert all("nodeobservabilitymachineconfigs" in uri for uri in asked), asked
    world.delete()
    world.wait_gone()
    assert world.labelled() == set()


def test_a_cluster_without_machine_configuration_is_told(world: Machining) -> None:
    world.worker("a")
    world.config()
    world.lead()
    world.wait_said("Failed", "Failed", "the API server has no machineconfiguration.openshift.io/v1")
    assert "finalizers" not in (world.stored() or {})["metadata"]
    assert len(settled(world)) == 1
    world.delete()
    world.wait_gone()


@pytest.mark.parametrize("openshift", ["false", "true"])
def test_the_service_that_leads_sees_to_them(api_server: ApiServer, tmp_path: Path, openshift: str) -> None:
    with closing(KubeWorld(api_server, tmp_path)) as service:
        service.start(NODEOBS_OPENSHIFT=openshift)
        spec = {"debug": {"enableCrioProfiling": True}}
        body = {"apiVersion": API_VERSION, "kind": "NodeObservabilityMachineConfig", "metadata": {"name": "cluster"}}
        service.create(MACHINE_CONFIGS.collection(), body | {"spec": spec})
        reason = "Failed" if openshift == "true" else "Invalid"

        def told() -> bool:
            found = json.loads(service.admin.get(MACHINE_CONFIGS.item("cluster")))
            conditions = found.get("status", {}).get("conditions", [])
            return [(one["type"], one["reason"]) for one in conditions] == [("DebugEnabled", reason), ("Ready", reason)]

        wait_for(f"it says {reason}", told, seconds=40)


def test_without_its_rights_it_says_so_and_changes_nothing(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.revoke()
    world.lead()
    found = world.wait_said("Failed", "Failed", "nodes, MachineConfigs or MachineConfigPools cannot be read")
    assert "nodeobs manifests --openshift" in found
    assert "finalizers" not in (world.stored() or {})["metadata"]
    world.give()
    enabled(world, operator, one)


def test_a_label_with_a_value_is_not_the_pools_and_is_told(world: Machining, operator: Operator) -> None:
    mine, theirs = world.worker("a"), world.worker("b", **{LABEL: "yes"})
    world.config()
    world.lead()
    wait_for("the node is labelled", lambda: world.labelled() == {mine, theirs}, seconds=20)
    operator.finish()
    found = world.wait_said("Failed", "Failed", f"the label {LABEL} of {theirs} has a value")
    assert "the pool does not select it" in found
    written = settled(world)
    assert [path for _, path in written if path.endswith(theirs)] == []
    world.patch(NODES.item(theirs), {"metadata": {"labels": {LABEL: ""}}})
    operator.finish()
    world.wait_said("Enabled", "Ready", "is on for 2 nodes")
    world.patch(NODES.item(theirs), {"metadata": {"labels": {LABEL: "yes"}}})
    world.delete()
    wait_for("ours is off", lambda: world.labelled() == {theirs}, seconds=20)
    operator.finish()
    world.wait_gone()
    assert world.pool() is None, "no node is in it"


def test_one_that_cannot_be_read_is_not_taken_for_turned_off(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.config("off", on=False)
    world.lead()
    enabled(world, operator, one)
    # A year that the API server knows, and Python does not.
    odd = {"status": {"lastReconcile": "0000-01-01T00:00:00Z"}}
    world.patch(MACHINE_CONFIGS.item("cluster", subresource="status"), odd)
    wait_for(
        "the status is written anew",
        lambda: (world.stored() or {})["status"]["lastReconcile"] != odd["status"]["lastReconcile"],
        seconds=20,
    )
    assert world.labelled() == {one}
    assert world.machine_config() is not None
    world.wait_said("Enabled", "Ready")


def test_ended_while_it_takes_labels_off_it_leaves_the_rest_to_the_next(
    world: Machining, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.worker("a"), world.worker("b")
    world.config()
    world.lead()
    enabled(world, operator, one, two)
    request, seen = world.client.request, threading.Event()

    def ended(method: str, path: str, body: object = None, **options: Any) -> bytes:
        done = request(method, path, body, **options)
        if path.startswith("/api/v1/nodes/"):
            world.end()
            seen.set()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(world.client, "request", ended)
        world.turn(on=False)
        assert seen.wait(20)
        world.stop()
    assert len(world.labelled()) == 1
    assert world.machine_config() is not None, "a node that is in the pool would restart for it, and once more later"
    world.lead()
    wait_for("it is deleted", lambda: world.machine_config() is None, seconds=20)
    assert world.labelled() == set()


def test_turned_off_while_nodes_are_labelled_the_rest_of_them_are_spared(
    world: Machining, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [world.worker(name) for name in "abcde"]
    request, labelled = world.client.request, []

    def turned_off(method: str, path: str, body: object = None, **options: Any) -> bytes:
        done = request(method, path, body, **options)
        if path.startswith("/api/v1/nodes/") and "labels" in cast("dict[str, Any]", body)["metadata"]:
            labelled.append(path)
            if len(labelled) == 1:
                world.turn(on=False)
            time.sleep(0.5)  # as where the API server has much to do
        return done

    monkeypatch.setattr(world.client, "request", turned_off)
    world.config()
    world.lead()
    wait_for("one is labelled", lambda: labelled, seconds=20)
    wait_for("it is let go", lambda: "finalizers" not in (world.stored() or {})["metadata"], seconds=40)
    assert len(labelled) < len(nodes)


def test_nothing_goes_from_under_nodes_that_memory_does_not_know_to_be_labelled(
    world: Machining, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.worker("a")
    stream, behind = world.client.stream, threading.Event()

    def broken(path: str, *arguments: Any, **options: Any) -> Any:
        if path == NODES.collection() and behind.is_set():
            raise StoreUnavailable("no watch can be had now")
        return stream(path, *arguments, **options)

    behind.set()
    monkeypatch.setattr(world.client, "stream", broken)
    world.config()
    world.lead()
    wait_for("the node is labelled", lambda: world.labelled() == {one}, seconds=20)
    world.turn(on=False)
    settled(world)
    assert world.machine_config() is not None
    assert world.pool() is not None
    behind.clear()
    wait_for("the label is off", lambda: world.labelled() == set(), seconds=60)
    operator.finish()
    wait_for("the pool is deleted", lambda: world.pool() is None, seconds=20)
    wait_for("it is let go", lambda: "finalizers" not in (world.stored() or {})["metadata"], seconds=20)


def test_what_is_on_is_not_said_to_be_off_because_the_setting_is(world: Machining, operator: Operator) -> None:
    one = world.worker("a")
    world.config()
    world.lead()
    enabled(world, operator, one)
    world.stop()
    world.turn(on=False)
    world.lead(openshift=False)
    found = world.wait_said("Disabled", "Failed", "the service's setting openshift is off")
    assert "stays on" in found
    world.delete()
    settled(world)
    assert (world.stored() or {})["metadata"]["finalizers"] == [FINALIZER]
    assert world.labelled() == {one}
    world.stop()
    world.lead()
    wait_for("it is deleted", lambda: world.machine_config() is None, seconds=20)
    operator.finish()
    world.wait_gone()
