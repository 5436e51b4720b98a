"""The OpenAPI document says what the service does: schemathesis asks, with all its checks."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from nodeobs.model import NodeObservability
from nodeobs.web.openapi import openapi
from tests.web.support import ADMIN, bearer

DOCUMENT = openapi(8 * 2**20)
# A profile takes at least a second; it has tests of its own.
OPERATIONS = [
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters" and path != "/debug/pprof/profile"
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_service_does_what_its_document_says(
    guarded_app: Flask, observability: NodeObservability, path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", guarded_app, headers=bearer(ADMIN))
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body = heed_what_no_schema_says(case)
        case.call_and_validate(headers=bearer(ADMIN))

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "nothing can be asked"


def heed_what_no_schema_says(case: Case[Any]) -> Any:
    """References exist, URL and body name the same, names of targets differ, there is no cluster, and 30.0 is no whole
    number here."""
    body = with_integers(case.body)
    if case.operation.label == "POST /api/v1/runs":
        body["spec"]["nodeObservabilityRef"] = {"name": "cluster"}
    if case.method == "PUT":
        case.path_parameters["name"] = body["metadata"]["name"]
    if targets := body.get("spec", {}).get("targets"):
        body["spec"]["targets"] = targets[:1]
    if "via" in body.get("spec", {}):
        body["spec"]["via"] = "agents"
    return body


def with_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_integers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_integers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def test_every_path_and_method_is_in_the_document(app: Flask, client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item if method != "parameters"
    }
    served = {
        (rule.rule.replace("<", "{").replace(">", "}"), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == served
