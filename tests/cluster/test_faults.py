"""Objects that people or their policies have spoilt: each costs itself at most."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from nodeobs.errors import StoreDenied
from nodeobs.kube.paths import ENDPOINT_SLICES, RUNS, ResourcePath
from nodeobs.model import GROUP
from nodeobs.runs.claimed import FINALIZER
from tests.cluster.world import HOOKS, KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICIES = ResourcePath(ADMISSION, "validatingadmissionpolicies")
POLICY_BINDINGS = ResourcePath(ADMISSION, "validatingadmissionpolicybindings")
ROLE_BINDINGS = ResourcePath("/apis/rbac.authorization.k8s.io/v1", "rolebindings")


@contextmanager
def kept_as_it_is(world: KubeWorld, name: str) -> Iterator[None]:
    """A policy of somebody's, in force: nobody but the admin may change the Run of that name, which exists."""
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["nodeobservabilityruns", "nodeobservabilityruns/status"],
    }
    allowed = f"object.metadata.name != '{name}' || request.userInfo.username == 'admin'"
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": allowed, "message": "as the test wants it", "reason": "Forbidden"}],
    }
    metadata = {"name": f"{world.namespace}-keep"}
    binding = {"policyName": metadata["name"], "validationActions": ["Deny"]}
    world.create(POLICIES.collection(), {"metadata": metadata, "spec": policy})
    world.create(POLICY_BINDINGS.collection(), {"metadata": metadata, "spec": binding})
    try:
        with closing(world.api.client(world.kubeconfig)) as service:

            def in_force() -> bool:
                run = world.get_run(name)
                run["metadata"]["labels"] = {"changed": "yes"}
                try:
                    service.request("PUT", RUNS.item(name, world.namespace), run, params={"dryRun": "All"})
                except StoreDenied:
                    return True
                return False

            wait_for("the policy is in force", in_force)
        yield
    finally:
        for path in (POLICY_BINDINGS, POLICIES):
            world.admin.request("DELETE", path.item(metadata["name"]))


def between_two_services(world: KubeWorld) -> None:
    """Nothing runs for now, and Runs can be created all the same."""
    world.start()
    world.observability()
    world.leader()
    world.replicas[0].terminate()
    world.admin.request("DELETE", HOOKS.item("nodeobs"))


def test_a_run_that_nobody_may_change_holds_up_no_other(world: KubeWorld) -> None:
    world.agents(Behaviour())
    between_two_services(world)
    ended = world.run_document("ended", parent="elsewhere")
    ended["metadata"]["finalizers"] = [FINALIZER]
    world.create(RUNS.collection(world.namespace), ended)
    world.patch(RUNS.item("ended", world.namespace, subresource="status"), {"status": {"phase": "Failed"}})
    with kept_as_it_is(world, "ended"):
        world.run("good")
        world.replicas[0].launch()
        assert world.wait_run("good", seconds=40)["status"]["phase"] == "Succeeded"
        assert world.get_run("ended")["metadata"]["finalizers"] == [FINALIZER]
    wait_for("it is let go", lambda: "finalizers" not in world.get_run("ended")["metadata"], seconds=30)


def test_a_run_that_is_being_deleted_before_it_began_is_cancelled(world: KubeWorld) -> None:
    """As by ``kubectl delete --cascade=foreground``: nobody may add a finalizer any more."""
    fleet = world.agents(Behaviour())
    between_two_services(world)
    world.run("r")
    world.admin.request("DELETE", RUNS.item("r", world.namespace), {"propagationPolicy": "Foreground"})
    world.replicas[0].launch()
    status = world.wait_run("r", seconds=40)["status"]
    assert status["phase"] == "Cancelled", status
    assert not fleet[0].asked("POST")


def test_a_run_whose_agents_may_not_be_listed_says_so_and_can_be_cancelled(world: KubeWorld) -> None:
    world.agents(Behaviour())
    world.start()
    world.observability()
    for binding in json.loads(world.admin.get(ROLE_BINDINGS.collection(world.agent_namespace)))["items"]:
        world.admin.request("DELETE", ROLE_BINDINGS.item(binding["metadata"]["name"], world.agent_namespace))

    def may_list() -> bool:
        with closing(world.api.client(world.kubeconfig)) as service:
            try:
                service.get(ENDPOINT_SLICES.collection(world.agent_namespace))
            except StoreDenied:
                return False
        return True

    wait_for("it may not list them", lambda: not may_list())
    world.run("r")

    def told() -> bool:
        said = [condition["message"] for condition in world.get_run("r")["status"].get("conditions", ())]
        return any("cannot find the agents" in message and "endpointslices" in message for message in said)

    wait_for("the Run says so", told)
    world.patch(RUNS.item("r", world.namespace), {"spec": {"cancel": True}})
    assert world.wait_run("r", seconds=40)["status"]["phase"] == "Cancelled"
