"""What the definitions say by themselves; what an API server makes of them is tested with one."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from nodeobs.kube.crds import CRD_NAMES, Webhook, crds
from nodeobs.model import (
    GROUP,
    Metadata,
    NodeObservability,
    NodeObservabilityMachineConfig,
    NodeObservabilityRef,
    Resource,
    Run,
    RunSpec,
    to_builtins,
)
from nodeobs.model.versions import STORAGE_VERSION, VERSIONS
from tests.processes import ROOT
from tests.structural import fields, with_defaults

CRDS = {crd["spec"]["names"]["kind"]: crd for crd in crds(webhook=None)}
SCHEMAS = {
    (kind, version["name"]): version["schema"]["openAPIV3Schema"]
    for kind, crd in CRDS.items()
    for version in crd["spec"]["versions"]
}
NOT_STRUCTURAL = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "propertyNames", "title", "uniqueItems"}

each_schema = pytest.mark.parametrize("at", SCHEMAS, ids="/".join)


@each_schema
def test_every_field_is_explained(at: tuple[str, str]) -> None:
    for path, schema in fields(SCHEMAS[at]):
        if not path.endswith((".metadata", "[]", "{}")):
            text = schema.get("description", "")
            assert text.endswith("."), path
            assert "``" not in text, path
            assert "\n" not in text, path


@each_schema
def test_every_field_is_structural_and_bounded(at: tuple[str, str]) -> None:
    for path, schema in fields(SCHEMAS[at]):
        assert not set(schema) & NOT_STRUCTURAL, path
        assert schema.get("default", "") is not None, path
        assert "\\A" not in schema.get("pattern", ""), path
        assert path in (".apiVersion", ".kind", ".metadata") or is_bounded(schema), path


def is_bounded(schema: dict[str, Any]) -> bool:
    match schema["type"]:
        case "string":
            return bool({"maxLength", "enum"} & set(schema)) or schema["format"] == "date-time"
        case "array":
            return "maxItems" in schema and schema["x-kubernetes-list-type"] in ("atomic", "set", "map")
        case "object":
            return "properties" in schema or "maxProperties" in schema
        case _:
            return True


@pytest.mark.parametrize("kind", CRDS)
def test_the_definition_is_complete(kind: str) -> None:
    crd = CRDS[kind]
    names = crd["spec"]["names"]
    assert crd["metadata"]["name"] == f"{names['plural']}.{GROUP}"
    assert crd["metadata"]["name"] in CRD_NAMES
    assert [version["name"] for version in crd["spec"]["versions"]] == list(VERSIONS)
    assert [version["name"] for version in crd["spec"]["versions"] if version["storage"]] == [STORAGE_VERSION]
    assert all(version["served"] and version["subresources"] == {"status": {}} for version in crd["spec"]["versions"])


def test_names_and_scopes_are_upstreams() -> None:
    found = {kind: (crd["spec"]["scope"], crd["spec"]["names"]["shortNames"]) for kind, crd in CRDS.items()}
    assert found == {
        "NodeObservability": ("Cluster", ["nob"]),
        "NodeObservabilityRun": ("Namespaced", ["nobr"]),
        "NodeObservabilityMachineConfig": ("Cluster", ["nobmc"]),
    }


@pytest.mark.parametrize(
    "smallest",
    [
        NodeObservability(metadata=Metadata(name="x")),
        Run(metadata=Metadata(name="x"), spec=RunSpec(node_observability_ref=NodeObservabilityRef(name="x"))),
        NodeObservabilityMachineConfig(metadata=Metadata(name="x")),
    ],
    ids=lambda resource: resource.KIND,
)
def test_defaults_are_the_models(smallest: Resource) -> None:
    """What the API server makes of the least that may be written is what the model makes of it."""
    written: dict[str, Any] = {"spec": {}}
    if isinstance(smallest, Run):
        written = {"spec": {"nodeObservabilityRef": {"name": "x"}}}
    schema = SCHEMAS[smallest.KIND, STORAGE_VERSION]
    filled = with_defaults(written, schema)
    made = _without_nulls({part: to_builtins(getattr(smallest, part)) for part in ("spec", "status")})
    # Some documents leave out what is a default.
    assert {part: filled[part] for part in ("spec", "status")} == with_defaults(made, schema)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_of_a_runs_spec_is_immutable_but_two(version: str) -> None:
    spec = SCHEMAS[Run.KIND, version]["properties"]["spec"]
    rules = {rule["fieldPath"] for rule in spec["x-kubernetes-validations"]}
    assert {f".{name}" for name in spec["properties"]} - rules == {".cancel", ".ttlSecondsAfterFinished"}


@pytest.mark.parametrize("kind", CRDS)
@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_old_versions_have_every_field(kind: str, version: str) -> None:
    """By their own name; nothing that v1beta1 has is lost there."""
    old, new = ({path for path, _ in fields(SCHEMAS[kind, at])} for at in (version, STORAGE_VERSION))
    if kind != "NodeObservabilityMachineConfig":
        old = {path.replace(".status.conditions.conditions", ".status.conditions") for path in old}
    if kind == "NodeObservability":
        old = {path.replace(".spec.labels", ".spec.nodeSelector") for path in old}
    assert old == new


def test_upstreams_requirements() -> None:
    required = {at: schema["properties"]["spec"].get("required", []) for at, schema in SCHEMAS.items()}
    assert required["NodeObservability", "v1alpha2"] == ["nodeSelector", "type"]
    assert required["NodeObservabilityMachineConfig", "v1alpha2"] == ["nodeSelector"]
    assert required["NodeObservability", "v1alpha1"] == []
    for version in VERSIONS:
        assert required[Run.KIND, version] == ["nodeObservabilityRef"]
        ref = SCHEMAS[Run.KIND, version]["properties"]["spec"]["properties"]["nodeObservabilityRef"]
        assert ref["required"] == ["name"]


def test_conversion_is_asked_of_the_service() -> None:
    for crd in crds(webhook=Webhook(namespace="profiling", service="nodeobs", ca_bundle=b"PEM")):
        assert crd["spec"]["conversion"] == {
            "strategy": "Webhook",
            "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {
                    "service": {"namespace": "profiling", "name": "nodeobs", "path": "/webhooks/convert", "port": 443},
                    "caBundle": base64.b64encode(b"PEM").decode(),
                },
            },
        }


def test_conversion_by_url_and_without_authority() -> None:
    for crd in crds(webhook=Webhook(url="https://10.0.0.5:8443/")):
        client_config = crd["spec"]["conversion"]["webhook"]["clientConfig"]
        assert client_config == {"url": "https://10.0.0.5:8443/webhooks/convert"}


def test_every_field_is_documented_in_the_same_words() -> None:
    page = (ROOT / "docs" / "resources.md").read_text()
    for kind in CRDS:
        for path, schema in fields(SCHEMAS[kind, STORAGE_VERSION]):
            shown = path.startswith((".spec.", ".status.")) and not path.endswith(("[]", "{}"))
            if shown and ".conditions[]." not in path:
                assert f"| `{path[1:]}` | {type_of(schema)} | {schema['description']} |" in page, kind


def type_of(schema: dict[str, Any]) -> str:
    if schema.get("format") == "date-time":
        return "time"
    if schema["type"] == "array":
        default = f", {_yaml(schema['default'])}" if schema["default"] else ""
        return f"list of {schema['items']['type']}s{default}"
    if "additionalProperties" in schema:
        return "map of strings" + (f", {_yaml(schema['default'])}" if schema.get("default") else "")
    given = schema["type"]
    return f"{given}, `{schema['default']}`" if schema.get("default") and given in ("string", "integer") else given


def _yaml(value: Any) -> str:
    """In a line."""
    return f"`{yaml.safe_dump(value, default_flow_style=True, sort_keys=False).strip()}`"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(part) for part in value]
    return value
