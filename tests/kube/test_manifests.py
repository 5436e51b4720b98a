from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.kube.manifests import Part
from nodeobs.kube.rbac import AGENT, SERVICE
from nodeobs.settings import Settings


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["manifests", *arguments])


def printed(*arguments: str) -> list[dict[str, Any]]:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in documents if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def test_what_others_need_comes_first() -> None:
    kinds = [document["kind"] for document in printed()]
    order = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "Service", "ValidatingWebhookConfiguration"]
    assert [kind for kind in dict.fromkeys(kinds) if kind in order] == order


@pytest.mark.parametrize("part", list(Part))
def test_a_part_by_itself(part: Part) -> None:
    documents = printed("--only", part.value)
    assert documents
    assert {document["kind"] for document in documents} <= {
        Part.NAMESPACES: {"Namespace"},
        Part.CRDS: {"CustomResourceDefinition"},
        Part.RBAC: {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"},
        Part.SERVICES: {"Service"},
        Part.WEBHOOKS: {"ValidatingWebhookConfiguration"},
    }[part]


def test_several_parts() -> None:
    both = printed("--only", "webhooks", "--only", "crds")
    assert both == [*printed("--only", "crds"), *printed("--only", "webhooks")]


def test_everything_is_in_the_namespaces_that_are_given() -> None:
    documents = printed("--namespace", "profiling", "--agent-namespace", "profiling-nodes")
    used = {document["metadata"].get("namespace", "profiling") for document in documents}
    assert used == {"profiling", "profiling-nodes"}
    webhook = named(documents, "ValidatingWebhookConfiguration", SERVICE)["webhooks"][0]
    service = {"namespace": "profiling", "name": SERVICE, "path": "/webhooks/validate", "port": 443}
    assert webhook["clientConfig"] == {"service": service}
    for name in CRD_NAMES:
        conversion = named(documents, "CustomResourceDefinition", name)["spec"]["conversion"]
        service = {"namespace": "profiling", "name": SERVICE, "path": "/webhooks/convert", "port": 443}
        assert conversion["webhook"]["clientConfig"] == {"service": service}


def test_the_services_own_namespace_is_restricted_and_the_agents_another() -> None:
    documents = printed("--only", "namespaces", "--namespace", "profiling")
    levels = {item["metadata"]["name"]: item["metadata"]["labels"] for item in documents}
    assert levels["profiling"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert levels["profiling-agents"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_names_are_the_settings_defaults() -> None:
    settings = Settings(data_dir=Path("/nowhere"))
    assert SERVICE == settings.service_name == settings.webhook_configuration == settings.namespace
    assert settings.agent_service == AGENT


def test_admission_fails_closed_and_leaves_the_rest_alone() -> None:
    webhook = named(printed(), "ValidatingWebhookConfiguration", SERVICE)["webhooks"][0]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["sideEffects"] == "None"
    assert webhook["matchPolicy"] == "Equivalent"
    (rule,) = webhook["rules"]
    assert rule["operations"] == ["CREATE", "UPDATE"]
    assert rule["resources"] == ["nodeobservabilityruns", "nodeobservabilities"]


def test_agents_by_hand_have_a_service_to_be_found_by() -> None:
    assert [one["metadata"]["name"] for one in printed("--only", "services")] == [SERVICE]
    by_hand = printed("--only", "services", "--agents-by-hand")
    assert [one["metadata"]["name"] for one in by_hand] == [SERVICE, AGENT]
    assert by_hand[1]["spec"]["clusterIP"] == "None"


def test_rights_that_are_asked_for() -> None:
    named(printed("--via-api-server"), "ClusterRole", "nodeobs-node-proxy")
    role = next(one for one in printed("--openshift") if one["metadata"].get("namespace") == "openshift-config-managed")
    assert role["rules"][0]["resourceNames"] == ["kubelet-serving-ca"]


def test_a_service_elsewhere(tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_text("PEM")
    documents = printed("--webhook-url", "https://10.0.0.5:8443", "--ca-file", str(authority))
    webhook = named(documents, "ValidatingWebhookConfiguration", SERVICE)["webhooks"][0]
    assert webhook["clientConfig"] == {"url": "https://10.0.0.5:8443/webhooks/validate", "caBundle": "UEVN"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--namespace", "Big"), "'Big' is no namespace"),
        (("--agent-namespace", "a.b"), "'a.b' is no namespace"),
        (("--namespace", "same", "--agent-namespace", "same"), "must be another than --namespace"),
        (("--webhook-url", "http://10.0.0.5"), "https:// only"),
        (("--webhook-url", "https://10.0.0.5/?a"), "https:// only"),
        (("--only", "deployments"), "'namespaces', 'crds', 'rbac', 'services', 'webhooks'"),
        (("--ca-file", "missing.crt"), "missing.crt"),
    ],
)
def test_wrong_usage_prints_no_manifest(arguments: tuple[str, ...], says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "apiVersion" not in result.output
