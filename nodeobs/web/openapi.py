"""The OpenAPI 3.1 document: paths by hand, schemas from the types that the service decodes and encodes."""

from __future__ import annotations

from typing import Any, Final

from nodeobs import __version__
from nodeobs.model import NodeObservability, Phase, Run
from nodeobs.outputs.manifest import Manifest
from nodeobs.runs.alerts import Answer
from nodeobs.runs.notification import Notification
from nodeobs.web.documents import NewRun, NodeObservabilityDocument
from nodeobs.web.schemas import PROBLEM, components

Operation = dict[str, Any]

_JSON: Final = "application/json"
_RUN: Final = "/api/v1/runs/{namespace}/{name}"
_REFUSALS: Final = {
    400: "The request cannot be understood.",
    401: "No credentials, or unknown ones.",
    403: "The caller's role or rights do not allow it, or a page of another site asks.",
    421: "Without a token file, only requests to localhost are answered.",
}


def openapi(max_body_bytes: int) -> dict[str, Any]:
    """The document."""
    kinds = [Run, NodeObservability, NewRun, NodeObservabilityDocument, Manifest, Notification, Answer]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nodeobs",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "Runs collect profiles from the agents of a NodeObservability. Errors are problem documents "
                f"(RFC 9457). Bodies are JSON of at most {max_body_bytes} bytes, whatever their Content-Type says."
            ),
        },
        "security": [{"bearer": []}, {"basic": []}],
        "paths": {**_runs(), **_outputs(), **_observabilities(), **_alerts(), **_ops()},
        "components": {
            "schemas": components(kinds),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The token is the password."},
            },
        },
    }


def _runs() -> dict[str, Any]:
    created = _answer("Run", "The Run, as stored.") | _location()
    held = _problem("Another Run on the same NodeObservability is going (`holder` names it), or the name is taken.")
    filters = [
        _query("namespace", {"type": "string"}, "Only Runs of this namespace."),
        _query("nodeObservability", {"type": "string"}, "Only Runs on this NodeObservability."),
        _query("phase", {"enum": list(Phase)}, "Only Runs in this phase."),
        _query("limit", _whole(1, 1000), "So many at most, the newest."),
    ]
    wait = [
        _query("wait", _whole(0, 3600), "Seconds to wait for a change; 30 are waited at most."),
        _query("resourceVersion", {"type": "string"}, "The state that is known; another is answered at once."),
    ]
    return {
        "/api/v1/runs": {
            "get": _operation("listRuns", "List Runs, newest first", {200: _answer("RunList", "Runs.")}, query=filters),
            "post": _operation(
                "createRun",
                "Start a Run",
                {201: created, 409: held, **_invalid()},
                body="NewRun",
            ),
        },
        _RUN: {
            "parameters": _path("namespace", "name"),
            "get": _operation(
                "getRun",
                "Get a Run, at once or when it has changed",
                {200: _answer("Run", "The Run."), **_missing(), **_busy()},
                query=wait,
            ),
            "delete": _operation(
                "deleteRun",
                "Delete a Run; one that is going is cancelled first",
                {202: _answer("Run", "It is being cancelled."), 204: {"description": "It is gone."}, **_missing()},
            ),
        },
        f"{_RUN}/cancel": {
            "parameters": _path("namespace", "name"),
            "post": _operation(
                "cancelRun",
                "Cancel a Run",
                {202: _answer("Run", "It will end."), 409: _problem("It has finished already."), **_missing()},
            ),
        },
    }


def _outputs() -> dict[str, Any]:
    bytes_of = {"description": "The bytes.", "content": {"application/octet-stream": {"schema": {}}}}
    return {
        f"{_RUN}/output": {
            "parameters": _path("namespace", "name"),
            "get": _operation(
                "getManifest", "What a Run left behind", {200: _answer("Manifest", "The manifest."), **_missing()}
            ),
        },
        f"{_RUN}/output.tar.gz": {
            "parameters": _path("namespace", "name"),
            "get": _operation(
                "getArchive",
                "Everything a Run left behind",
                {
                    200: {"description": "The archive.", "content": {"application/gzip": {"schema": {}}}},
                    **_missing(),
                    **_busy(),
                },
            ),
        },
        f"{_RUN}/output/{{node}}/{{file}}": {
            "parameters": _path("namespace", "name", "node", "file"),
            "get": _operation(
                "getFile",
                "One file of a node, or of the node `merged`; may be asked for in parts",
                {
                    200: bytes_of,
                    206: bytes_of,
                    304: {"description": "Not modified."},
                    412: {"description": "Modified."},
                    416: _problem("No such range."),
                    **_missing(),
                    **_busy(),
                },
            ),
        },
    }


def _observabilities() -> dict[str, Any]:
    one = _answer("NodeObservability", "The NodeObservability.")
    if_match = {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": "ETag that was read."}
    return {
        "/api/v1/nodeobservabilities": {
            "get": _operation(
                "listNodeObservabilities",
                "List NodeObservabilities",
                {200: _answer("NodeObservabilityList", "NodeObservabilities.")},
            ),
            "post": _operation(
                "createNodeObservability",
                "Create a NodeObservability",
                {201: one | _location(), 409: _problem("The name is taken."), **_invalid()},
                body="NodeObservabilityDocument",
            ),
        },
        "/api/v1/nodeobservabilities/{name}": {
            "parameters": _path("name"),
            "get": _operation("getNodeObservability", "Get a NodeObservability", {200: one, **_missing()}),
            "put": _operation(
                "replaceNodeObservability",
                "Replace spec, labels and annotations",
                {200: one, 409: _problem("It was changed since it was read."), **_missing(), **_invalid()},
                query=[if_match],
                body="NodeObservabilityDocument",
            ),
            "delete": _operation(
                "deleteNodeObservability",
                "Delete a NodeObservability",
                {204: {"description": "It is gone."}, 409: _problem("A Run on it is going."), **_missing()},
            ),
        },
    }


def _alerts() -> dict[str, Any]:
    return {
        "/webhooks/alertmanager": {
            "post": _operation(
                "receiveAlerts",
                "Alertmanager's notification, version 4",
                {200: _answer("Answer", "What became of each alert."), 408: _problem("Too slow."), 413: _too_large()},
                body="Notification",
            )
        }
    }


def _ops() -> dict[str, Any]:
    ok = _text("It does.")
    return {
        "/": {"get": _operation("index", "What this is", {200: _any("Name, version and links.")})},
        "/healthz": {"get": _open("healthz", "Does the process answer?", {200: ok})},
        "/readyz": {"get": _open("readyz", "Can requests be served?", {200: ok})},
        "/metrics": {
            "get": _operation("metrics", "Prometheus series", {200: _text("Series.", "application/openmetrics-text")})
        },
        "/debug/pprof/profile": {
            "get": _operation(
                "profile",
                "CPU profile of the service itself",
                {
                    200: {"description": "pprof.", "content": {"application/octet-stream": {"schema": {}}}},
                    500: _text("Another profile is being taken.", "application/problem+json"),
                },
                query=[_query("seconds", _whole(1, 300), "For how long; 30 where not given.")],
            )
        },
        "/api/openapi.json": {"get": _operation("openapi", "This document", {200: _any("OpenAPI 3.1.")})},
    }


def _operation(
    name: str,
    summary: str,
    responses: dict[int, Any],
    *,
    query: list[dict[str, Any]] | None = None,
    body: str = "",
) -> Operation:
    refusals = {status: _problem(text) for status, text in _REFUSALS.items()}
    operation: Operation = {
        "operationId": name,
        "summary": summary,
        "responses": {str(status): answer for status, answer in sorted((refusals | _down() | responses).items())},
    }
    if query:
        operation["parameters"] = query
    if body:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _ref(body)}}}
    return operation


def _open(name: str, summary: str, responses: dict[int, Any]) -> Operation:
    operation = _operation(name, summary, responses)
    return operation | {"security": []}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(schema: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {_JSON: {"schema": _ref(schema)}}}


def _any(text: str) -> dict[str, Any]:
    return {"description": text, "content": {_JSON: {"schema": {"type": "object"}}}}


def _text(text: str, *others: str) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": {}} for kind in ("text/plain", *others)}}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/problem+json": {"schema": _ref(PROBLEM)}}}


def _location() -> dict[str, Any]:
    return {"headers": {"Location": {"schema": {"type": "string"}, "required": True}}}


def _invalid() -> dict[int, Any]:
    return {
        408: _problem("The body came too slowly."),
        413: _too_large(),
        422: _problem("JSON, but not such a document; `errors` has a pointer to each fault."),
    }


def _too_large() -> dict[str, Any]:
    return _problem("The body is too large.")


def _missing() -> dict[int, Any]:
    return {404: _problem("There is none; the detail says why.")}


def _down() -> dict[int, Any]:
    return {503: _problem("The store cannot be reached, or callers cannot be checked; try again.")}


def _busy() -> dict[int, Any]:
    return {503: _problem("Too many long requests are open, or the store cannot be reached; try again.")}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _path(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}
