"""Every failure as a problem document (RFC 9457): what was wrong, and what to do. Never HTML, never internals."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from nodeobs import errors
from nodeobs.model import encode_json
from nodeobs.web.services import services

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="nodeobs", Basic realm="nodeobs", charset="UTF-8"'

_RETRY_SECONDS = "5"
_KINDS: Mapping[type[errors.NodeobsError], tuple[int, str]] = {
    errors.InvalidInput: (422, "invalid"),
    errors.Unauthenticated: (401, "unauthenticated"),
    errors.Forbidden: (403, "forbidden"),
    errors.AccessUnknown: (503, "access-unknown"),
    errors.RunInProgress: (409, "run-in-progress"),
    errors.MissingNodeObservability: (422, "missing-nodeobservability"),
    errors.UnknownTarget: (422, "unknown-target"),
    errors.NotFound: (404, "not-found"),
    errors.AlreadyExists: (409, "already-exists"),
    errors.Conflict: (409, "conflict"),
    errors.StoreUnavailable: (503, "store-unavailable"),
    errors.OutputNotFound: (404, "output-not-found"),
    errors.OutputStoreFull: (503, "output-store-unavailable"),
    errors.OutputStoreUnavailable: (503, "output-store-unavailable"),
}
"""Status and the last part of the problem's type, for errors that an answer may tell."""


def problem(
    status: int, detail: str, *, kind: str = "", headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Problem document; ``kind`` is the last part of its type, ``members`` its extension members."""
    document = {
        "type": f"urn:nodeobs:problem:{kind}" if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(encode_json(document), status, headers=dict(headers or {}), content_type=CONTENT_TYPE)


def register(app: Flask) -> None:
    """Make every error of ``app`` a problem document."""
    app.register_error_handler(errors.NodeobsError, _ours)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _bug)


def _ours(error: errors.NodeobsError) -> Response:
    found = next((_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS), None)
    if found is None:
        return _bug(error)
    status, kind = found
    if isinstance(error, errors.InvalidInput):
        detail = f"{error.detail} (at {error.pointer})" if error.pointer else error.detail
        return problem(status, detail, kind=kind, errors=[{"pointer": error.pointer, "detail": error.detail}])
    if isinstance(error, errors.RunInProgress):
        return problem(status, str(error), kind=kind, holder=error.holder)
    headers = {"WWW-Authenticate": CHALLENGE} if status == 401 else {}
    if status == 503:
        # A probe asks again and again, and what it finds is logged where it happens.
        level = logging.DEBUG if request.endpoint == "ops.readyz" else logging.ERROR
        log.log(level, "cannot answer", path=request.path, error=str(error))
        headers["Retry-After"] = _RETRY_SECONDS
    return problem(status, str(error), kind=kind, headers=headers)


def _http(error: HTTPException) -> Response:
    drop = {"content-type", "content-length"}
    headers = {name: value for name, value in error.get_headers() if name.lower() not in drop}
    detail = error.description or HTTPStatus(error.code or 500).description
    if isinstance(error, RequestEntityTooLarge):
        limit, usual = (request.max_content_length or 1) - 1, services().settings.max_body_bytes
        setting = " (NODEOBS_MAX_BODY_BYTES)" if limit == usual else ""
        detail = f"the body is larger than {limit} bytes, which is the most that is read{setting}"
    return problem(error.code or 500, detail, headers=headers)


def _bug(error: Exception) -> Response:
    log.error("error while answering", method=request.method, path=request.path, exc_info=error)
    services().metrics.internal_errors.labels("http").inc()
    return problem(500, "this is a fault of the service; its log tells more", kind="internal")
