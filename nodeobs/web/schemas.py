"""JSON Schemas of the API's documents, from their types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from nodeobs.model import API_VERSION, NodeObservability, Run

PROBLEM: Final = "Problem"

_REQUESTS: Final = ("NewRun", "NewRunMetadata", "NewRunSpec", "NodeObservabilityDocument", "ClusterScopedMetadata")
_ALSO_STRICT: Final = (
    *("NodeObservabilitySpec", "TargetSpec", "Toleration", "ResourceAmounts"),
    *("NodeObservabilityRef", "OwnerReference"),
)


def components(kinds: Iterable[type]) -> dict[str, Any]:
    """Schemas of ``kinds`` and of all they hold, by name."""
    _, schemas = msgspec.json.schema_components(list(kinds), ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        _use_ecma_patterns(schema)
    schemas["NewRunSpec"] = _without(schemas["RunSpec"], "trigger")
    schemas["NewRun"]["properties"]["spec"] = {"$ref": "#/components/schemas/NewRunSpec"}
    for name in ("profiles", "targets", "nodes"):
        schemas["NewRunSpec"]["properties"][name] |= {"uniqueItems": True}
    schemas["TargetSpec"]["properties"]["url"]["anyOf"][0]["pattern"] = (
        r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$"
    )
    schemas["TargetSpec"]["not"] = {
        "required": ["url", "socket"],
        "properties": {"url": {"type": "string"}, "socket": {"type": "string"}},
    }
    for name in (*_REQUESTS, *_ALSO_STRICT):
        schemas[name]["additionalProperties"] = False
    for kind in (Run, NodeObservability):
        schemas[kind.__name__]["properties"] |= {"apiVersion": {"const": API_VERSION}, "kind": {"const": kind.KIND}}
        schemas[f"{kind.__name__}List"] = _list(kind)
    schemas[PROBLEM] = _problem()
    return schemas


def explain(kind: type, pointer: str) -> str:
    """What is allowed at a place of a document, as the end of a message; empty where its schema says no more."""
    root = msgspec.json.schema(kind)
    node = root
    for step in pointer.split("/")[1:]:
        node = _follow(root, node)
        node = node.get("properties", {}).get(step) or node.get("items") or {}
    node = _follow(root, node)
    if "enum" in node:
        return f"; allowed: {', '.join(str(value) for value in node['enum'])}"
    text = node.get("description", "") if node.get("type") in ("string", "integer") else ""
    return f" ({text.rstrip('.')})" if text else ""


def _follow(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where this is a reference to it or a choice between it and null."""
    node = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)
    if "$ref" in node:
        found: dict[str, Any] = root["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node


def _without(schema: dict[str, Any], name: str) -> dict[str, Any]:
    properties = {key: dict(value) for key, value in schema["properties"].items() if key != name}
    return {**schema, "title": "NewRunSpec", "properties": properties}


def _list(kind: type[Run | NodeObservability]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["items", "metadata"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": f"{kind.KIND}List"},
            "metadata": {
                "type": "object",
                "properties": {"resourceVersion": {"type": "string"}, "remainingItemCount": {"type": "integer"}},
            },
            "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{kind.__name__}"}},
        },
    }


def _problem() -> dict[str, Any]:
    fault = {"type": "object", "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}}
    return {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "holder": {"type": "string", "description": "The Run in the way, as namespace/name."},
            "errors": {"type": "array", "items": fault},
        },
    }


def _use_ecma_patterns(schema: Any) -> None:
    r"""JSON Schema's regular expressions have no \A and \Z."""
    if isinstance(schema, dict):
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
        for part in schema.values():
            _use_ecma_patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            _use_ecma_patterns(part)
