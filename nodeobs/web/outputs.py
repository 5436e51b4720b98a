"""What a Run left behind over HTTP: the manifest, single files, and all of it as an archive."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from nodeobs.errors import InvalidInput, OutputNotFound
from nodeobs.model import Phase, Run, encode_json
from nodeobs.outputs.archive import tar_gz
from nodeobs.outputs.manifest import Manifest
from nodeobs.web.bodies import refuse_unknown_queries
from nodeobs.web.services import services
from nodeobs.web.streams import stream

blueprint = Blueprint("outputs", __name__, url_prefix="/api/v1/runs/<namespace>/<name>")


@blueprint.get("/output")
def manifest(namespace: str, name: str) -> Response:
    """The manifest: every node's result, and every file."""
    refuse_unknown_queries()
    run = _finished(namespace, name)
    return Response(encode_json(_manifest(run)), content_type="application/json")


@blueprint.get("/output.tar.gz")
def archive(namespace: str, name: str) -> Response:
    """Everything, as one archive that is made while it is sent."""
    refuse_unknown_queries()
    run = _finished(namespace, name)
    _manifest(run)
    answer = _stream(tar_gz(services().outputs, run.metadata.uid), "application/gzip")
    return _named(answer, f"{namespace}-{name}.tar.gz")


@blueprint.get("/output/<node>/<file>")
def download(namespace: str, name: str, node: str, file: str) -> Response:
    """One file of a node, or of the merged ones (node ``merged``); may be asked for in parts."""
    refuse_unknown_queries()
    run = _finished(namespace, name)
    outputs, uid = services().outputs, run.metadata.uid
    try:
        entry = outputs.stat(uid, f"{node}/{file}")
    except InvalidInput:
        entry = None  # not even a name that a file could have
    if entry is None:
        raise OutputNotFound(f"the output of Run {run.key} has no such file; its manifest lists those it has")
    answer = _stream(outputs.read(uid, entry.name)[1], "application/octet-stream")
    answer.content_length = entry.size
    answer.set_etag(f"{entry.size:x}-{entry.modified.timestamp():.6f}")
    try:
        _named(answer, f"{node}-{file}").make_conditional(request, accept_ranges=True, complete_length=entry.size)
    except RequestedRangeNotSatisfiable:
        answer.close()
        raise
    return answer


def _finished(namespace: str, name: str) -> Run:
    """The Run, which must have finished.

    Raises:
        NotFound: there is none.
        OutputNotFound: it is still going.
    """
    run = services().store.get(Run, name, namespace)
    if not run.status.phase.final:
        raise OutputNotFound(
            f"Run {run.key} is {run.status.phase.value}; its output is there once it has finished "
            f"(GET {request.script_root}/api/v1/runs/{run.key}?wait=30)"
        )
    return run


def _manifest(run: Run) -> Manifest:
    found = services().outputs.read_manifest(run.metadata.uid)
    if found is None and run.status.phase is Phase.REJECTED:
        raise OutputNotFound(f"Run {run.key} was rejected and collected nothing")
    if found is None and not run.status.output:
        raise OutputNotFound(f"Run {run.key} is {run.status.phase.value} and left no output")
    if found is None:
        raise OutputNotFound(f"the output of Run {run.key} has expired: retention or somebody removed it")
    return found


def _stream(chunks: Iterable[bytes], content_type: str) -> Response:
    return stream(chunks, slots=services().downloads, stop=services().stop, content_type=content_type)


def _named(answer: Response, name: str) -> Response:
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
