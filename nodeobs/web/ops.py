"""What operators and their programs ask of the service itself."""

from __future__ import annotations

from contextlib import suppress

from flask import Blueprint, Response, request
from prometheus_client.exposition import choose_encoder

from nodeobs import __version__
from nodeobs.errors import NotFound, ProfilerInUse
from nodeobs.model import NodeObservability, encode_json
from nodeobs.web.bodies import integer_query, refuse_unknown_queries
from nodeobs.web.openapi import openapi
from nodeobs.web.problems import problem
from nodeobs.web.services import services

blueprint = Blueprint("ops", __name__)

MAX_PROFILE_SECONDS = 300


@blueprint.get("/")
def index() -> Response:
    """Say what this is and where to go on."""
    document = {
        "name": "nodeobs",
        "version": __version__,
        "description": "An alert in, merged profiles of every node's kubelet and container runtime out.",
        "links": {
            "runs": "/api/v1/runs",
            "nodeObservabilities": "/api/v1/nodeobservabilities",
            "openapi": "/api/openapi.json",
            "alertmanagerWebhook": "/webhooks/alertmanager",
            "metrics": "/metrics",
            "health": "/healthz",
            "ready": "/readyz",
        },
    }
    return Response(encode_json(document), content_type="application/json")


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Requests can be served: the API server can trust us, and the store can be read (or 503 says why)."""
    admission = services().admission
    if admission is not None and not admission.published:
        return problem(503, "the certificate of the webhooks is not published yet", headers={"Retry-After": "1"})
    with suppress(NotFound):
        services().store.get(NodeObservability, "readyz")
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/metrics")
def metrics() -> Response:
    """Every series, as Prometheus or OpenMetrics text, whichever is asked for."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(services().metrics.registry), content_type=content_type)


@blueprint.get("/debug/pprof/profile")
def profile() -> Response:
    """CPU profile of this process, as programs in Go offer theirs."""
    refuse_unknown_queries("seconds")
    seconds = integer_query("seconds", default=30, low=1, high=MAX_PROFILE_SECONDS)
    try:
        data = services().profiler.profile(seconds, stop=services().stop)
    except ProfilerInUse as error:
        # Status and words are Go's, which whoever profiles such programs knows.
        return Response(f"{error}\n", 500, headers={"X-Go-Pprof": "1"}, content_type="text/plain; charset=utf-8")
    answer = Response(data, content_type="application/octet-stream")
    answer.headers["Content-Disposition"] = 'attachment; filename="profile"'
    return answer


@blueprint.get("/api/openapi.json")
def document() -> Response:
    """The OpenAPI document of this interface."""
    return Response(encode_json(openapi(services().settings.max_body_bytes)), content_type="application/json")
