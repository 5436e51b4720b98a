"""Runs over HTTP: create, list, get and wait, cancel, delete."""

from __future__ import annotations

import time
from contextlib import suppress

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import BadRequest

from nodeobs.errors import AlreadyExists, Conflict, InvalidInput, NotFound, WatchExpired
from nodeobs.model import Metadata, Phase, Run, RunTrigger, TriggerKind, replace
from nodeobs.runs.rules import CREATED_BY
from nodeobs.web.access import demand_of_run
from nodeobs.web.auth import caller
from nodeobs.web.bodies import integer_query, read_document, refuse_unknown_queries
from nodeobs.web.documents import NewRun, list_answer, resource_answer
from nodeobs.web.problems import problem
from nodeobs.web.services import services

blueprint = Blueprint("runs", __name__, url_prefix="/api/v1/runs")

MAX_WAIT_SECONDS = 30
MAX_LIST = 1000
_NAME_ATTEMPTS = 5
_MAX_PREFIX = 55


@blueprint.post("")
def create() -> Response:
    """Create a Run, unless another on the same NodeObservability is going."""
    refuse_unknown_queries()
    document = read_document(NewRun)
    _check(document)
    caller().require(
        demand_of_run(namespace=_namespace_of(document), observability=document.spec.node_observability_ref.name)
    )
    with services().creations.held():
        stored = _create(document)
    answer = resource_answer(stored, 201)
    answer.location = url_for("runs.get", namespace=stored.metadata.namespace, name=stored.metadata.name)
    answer.autocorrect_location_header = False
    return answer


@blueprint.get("")
def list_runs() -> Response:
    """Runs, newest first; filtered by namespace, NodeObservability and phase."""
    refuse_unknown_queries("namespace", "nodeObservability", "phase", "limit")
    limit = integer_query("limit", default=MAX_LIST, low=1, high=MAX_LIST)
    namespace, parent, phase = (request.args.get(name) for name in ("namespace", "nodeObservability", "phase"))
    if phase is not None and phase not in tuple(Phase):
        raise BadRequest(f"there is no phase {phase[:50]!r}; allowed are {', '.join(Phase)}")
    snapshot = services().store.snapshot(Run)
    found = [
        run
        for run in reversed(snapshot.items)
        if namespace in (None, run.metadata.namespace)
        and parent in (None, run.spec.node_observability_ref.name)
        and phase in (None, run.status.phase)
    ]
    return list_answer(Run, found[:limit], revision=snapshot.revision, left=max(0, len(found) - limit))


@blueprint.get("/<namespace>/<name>")
def get(namespace: str, name: str) -> Response:
    """The Run; with ``wait``, as soon as it is another than ``resourceVersion``, or when the wait is over."""
    refuse_unknown_queries("wait", "resourceVersion")
    wait = integer_query("wait", default=0, low=0, high=3600)
    run = services().store.get(Run, name, namespace)
    version = request.args.get("resourceVersion", run.metadata.resource_version)
    if wait == 0 or run.metadata.resource_version != version:
        return resource_answer(run)
    with services().long_polls.held():
        return resource_answer(_next_state(run, seconds=min(wait, MAX_WAIT_SECONDS)))


@blueprint.delete("/<namespace>/<name>")
def delete(namespace: str, name: str) -> Response:
    """Delete the Run; one that is going is cancelled first (202)."""
    refuse_unknown_queries()
    store = services().store
    store.delete(Run, name, namespace)
    with suppress(NotFound):
        return resource_answer(store.get(Run, name, namespace), 202)
    return Response(status=204)


@blueprint.post("/<namespace>/<name>/cancel")
def cancel(namespace: str, name: str) -> Response:
    """Ask for the Run's end; asking twice is the same as once. What was collected until then is kept."""
    refuse_unknown_queries()
    store = services().store
    while True:
        run = store.get(Run, name, namespace)
        if run.status.phase.final and run.status.phase is not Phase.CANCELLED:
            return problem(409, f"Run {run.key} has finished already: it is {run.status.phase.value}", kind="finished")
        if run.spec.cancel or run.status.phase.final:
            return resource_answer(run, 202)
        with suppress(Conflict):
            return resource_answer(store.update(replace(run, spec=replace(run.spec, cancel=True))), 202)


def _create(document: NewRun) -> Run:
    """Store the Run, under another generated name where the first ones are taken."""
    attempts = 1 if document.metadata.name is not None else _NAME_ATTEMPTS
    while True:
        run = _run_of(document)
        attempts -= 1
        try:
            return services().store.create(run, admit=services().admit(run))
        except AlreadyExists:
            if attempts == 0:
                raise


def _check(document: NewRun) -> None:
    spec = document.spec
    if spec.trigger is not None:
        raise InvalidInput("is set by the service, which knows what created a Run", pointer="/spec/trigger")


def _namespace_of(document: NewRun) -> str:
    return document.metadata.namespace or services().settings.namespace


def _run_of(document: NewRun) -> Run:
    asked = document.metadata
    prefix = asked.generate_name or f"{document.spec.node_observability_ref.name[:_MAX_PREFIX].rstrip('-.')}-"
    annotations = {name: text for name, text in asked.annotations.items() if name != CREATED_BY}
    if caller().user:
        annotations[CREATED_BY] = caller().user
    metadata = Metadata(
        name=asked.name or f"{prefix}{services().suffix()}",
        namespace=_namespace_of(document),
        labels=asked.labels,
        annotations=annotations,
    )
    return Run(metadata=metadata, spec=replace(document.spec, trigger=RunTrigger(kind=TriggerKind.API)))


def _next_state(run: Run, *, seconds: float) -> Run:
    """The Run's next state after ``run``, or ``run`` when there is none in time.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    store, stop = services().store, services().stop
    since, end = run.metadata.resource_version, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stop.is_set():
        try:
            for change in store.watch(Run, since, stop=stop, seconds=left):
                if change.object.key == run.key:
                    return store.get(Run, run.metadata.name, run.metadata.namespace)
        except WatchExpired:
            since = store.snapshot(Run).revision
            now = store.get(Run, run.metadata.name, run.metadata.namespace)
            if now.metadata.resource_version != run.metadata.resource_version:
                return now
    return run
