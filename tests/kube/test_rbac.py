"""What the roles say by themselves; what may be done with them is tested with an API server."""

from __future__ import annotations

from typing import Any

import pytest

from nodeobs.kube.rbac import AGENT, SERVICE, VIEWER, rbac

OBJECTS = rbac(namespace="nodeobs", agent_namespace="nodeobs-agents")


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
    assert bound == {("nodeobs", SERVICE), ("nodeobs", VIEWER), ("nodeobs-agents", AGENT)}


def test_objects_have_names_of_their_own() -> None:
    names = [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in OBJECTS]
    assert len(set(names)) == len(names)
