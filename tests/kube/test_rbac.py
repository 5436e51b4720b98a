"""What the roles say by themselves; what may be done with them is tested with an API server."""

from __future__ import annotations

from typing import Any

import pytest

from nodeobs.kube.rbac import (
    AGENT,
    AGENT_ROLE,
    DEPLOY,
    MACHINE_CONFIG,
    MACHINE_POOL,
    MACHINES,
    NODE_PROXY,
    SERVICE,
    VIEWER,
    Features,
    rbac,
)


def objects(**features: bool) -> list[dict[str, Any]]:
    return rbac(namespace="nodeobs", agent_namespace="nodeobs-agents", features=Features(**features))


OBJECTS = objects(via_api_server=True, openshift=True)


def by_kind(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = (item for item in OBJECTS if item["kind"] == kind)
    return {(item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in found}


ROLES = by_kind("ClusterRole") | by_kind("Role")


@pytest.mark.parametrize("at", ROLES, ids="/".join)
def test_no_role_has_wildcards_or_grows_into_others(at: tuple[str, str]) -> None:
    role = ROLES[at]
    assert "aggregationRule" not in role
    assert not any(label.startswith("rbac.authorization.k8s.io/") for label in role["metadata"]["labels"])
    for rule in role["rules"]:
        for values in (rule.get("apiGroups", ()), rule.get("resources", ()), rule["verbs"]):
            assert "*" not in values


@pytest.mark.parametrize("kind", ["ClusterRoleBinding", "RoleBinding"])
def test_bindings_lead_to_a_role_and_an_account_that_are_there(kind: str) -> None:
    accounts = by_kind("ServiceAccount")
    for (namespace, _), binding in by_kind(kind).items():
        assert (namespace, binding["roleRef"]["name"]) in ROLES
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts


def test_only_the_programs_own_accounts_and_the_viewers_are_bound() -> None:
    bound = {
        (subject["namespace"], subject["name"])
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for binding in by_kind(kind).values()
        for subject in binding["subjects"]
    }
    assert bound == {("nodeobs", SERVICE), ("nodeobs", VIEWER)}


def test_agents_that_are_installed_by_hand_have_an_account_and_the_service_may_make_none() -> None:
    by_hand = objects(deploy_agents=False)
    assert [one["metadata"]["name"] for one in by_hand if one["kind"] == "ServiceAccount"] == [SERVICE, VIEWER, AGENT]
    assert not [rule for one in by_hand for rule in one.get("rules", ()) if "daemonsets" in rule.get("resources", ())]
    bindings = [one for one in by_hand if one["kind"] == "ClusterRoleBinding" and one["roleRef"]["name"] == AGENT_ROLE]
    assert [one["subjects"][0]["name"] for one in bindings] == [AGENT]


def test_who_makes_agents_may_bind_their_role_and_no_other() -> None:
    may_bind = [rule for one in OBJECTS for rule in one.get("rules", ()) if "bind" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in may_bind] == [[AGENT_ROLE]]


def test_of_machine_configuration_one_object_of_each_kind_may_be_written() -> None:
    rules = ROLES["", MACHINES]["rules"]
    written = [rule for rule in rules if set(rule["verbs"]) - {"get", "list", "watch"} and rule["apiGroups"] != [""]]
    assert [(rule["resources"], rule["resourceNames"]) for rule in written] == [
        (["machineconfigs"], [MACHINE_CONFIG]),
        (["machineconfigpools"], [MACHINE_POOL]),
    ]


@pytest.mark.parametrize(
    ("feature", "roles"),
    [("via_api_server", {NODE_PROXY}), ("openshift", {DEPLOY, MACHINES}), ("deploy_agents", {DEPLOY})],
)
def test_what_not_every_cluster_is_to_have_is_left_out(feature: str, roles: set[str]) -> None:
    def places(**features: bool) -> set[tuple[str, str]]:
        named = [one["metadata"] for one in objects(**features) if one["kind"] in ("Role", "ClusterRole")]
        return {(one.get("namespace", ""), one["name"]) for one in named}

    off = {"deploy_agents": False, "via_api_server": False, "openshift": False}
    more = places(**(off | {feature: True})) - places(**off)
    assert {name for _, name in more} == roles


def test_objects_have_names_of_their_own() -> None:
    names = [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in OBJECTS]
    assert len(set(names)) == len(names)
