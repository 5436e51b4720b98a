"""NodeObservabilities over HTTP: list, create, get, replace, delete."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request, url_for

from nodeobs.errors import Conflict, InvalidInput
from nodeobs.model import Metadata, NodeObservability, Run, replace
from nodeobs.runs.rules import check_observability
from nodeobs.web.bodies import read_document, refuse_unknown_queries
from nodeobs.web.documents import NodeObservabilityDocument, list_answer, resource_answer
from nodeobs.web.problems import problem
from nodeobs.web.services import services

blueprint = Blueprint("observabilities", __name__, url_prefix="/api/v1/nodeobservabilities")

_ATTEMPTS: Final = 5


@blueprint.get("")
def list_observabilities() -> Response:
    """All of them, oldest first."""
    refuse_unknown_queries()
    snapshot = services().store.snapshot(NodeObservability)
    return list_answer(NodeObservability, snapshot.items, revision=snapshot.revision, left=0)


@blueprint.post("")
def create() -> Response:
    """Create one."""
    refuse_unknown_queries()
    document = read_document(NodeObservabilityDocument)
    check_observability(document.spec, vias=services().vias)
    stored = services().store.create(_apply(document, None))
    answer = resource_answer(stored, 201)
    answer.location = url_for("observabilities.get", name=stored.metadata.name)
    answer.autocorrect_location_header = False
    return answer


@blueprint.get("/<name>")
def get(name: str) -> Response:
    """One of them."""
    refuse_unknown_queries()
    return resource_answer(services().store.get(NodeObservability, name))


@blueprint.put("/<name>")
def put(name: str) -> Response:
    """Replace the spec, labels and annotations; only if unchanged where the version that was read is sent along."""
    refuse_unknown_queries()
    document = read_document(NodeObservabilityDocument)
    check_observability(document.spec, vias=services().vias)
    if document.metadata.name != name:
        raise InvalidInput(f"must be {name!r}, as in the URL; nothing can be renamed", pointer="/metadata/name")
    store = services().store
    for attempt in range(_ATTEMPTS):
        current = store.get(NodeObservability, name)
        _refuse_stale(document, current)
        try:
            return resource_answer(store.update(_apply(document, current)))
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


@blueprint.delete("/<name>")
def delete(name: str) -> Response:
    """Delete it, unless a Run on it is going."""
    refuse_unknown_queries()
    store = services().store
    store.get(NodeObservability, name)
    for run in store.list(Run, unfinished=True):
        if run.spec.node_observability_ref.name == name:
            detail = f"Run {run.key} on it is {run.status.phase.value}; wait for it or cancel it first"
            return problem(409, detail, kind="in-use", holder=run.key)
    store.delete(NodeObservability, name)
    return Response(status=204)


def _apply(document: NodeObservabilityDocument, current: NodeObservability | None) -> NodeObservability:
    wanted = document.metadata
    if current is None:
        return NodeObservability(
            metadata=Metadata(name=wanted.name, labels=wanted.labels, annotations=wanted.annotations),
            spec=document.spec,
        )
    metadata = replace(current.metadata, labels=wanted.labels, annotations=wanted.annotations)
    return replace(current, metadata=metadata, spec=document.spec)


def _refuse_stale(document: NodeObservabilityDocument, current: NodeObservability) -> None:
    stored = current.metadata.resource_version
    read_at = document.metadata.resource_version
    if (read_at and read_at != stored) or (request.if_match and not request.if_match.contains(stored)):
        raise Conflict(
            f"the NodeObservability {current.metadata.name!r} was changed since it was read; read it again "
            f"(it is at resourceVersion {stored})"
        )
