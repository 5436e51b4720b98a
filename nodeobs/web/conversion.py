"""Custom resources from one version to another, for the API server. Needs nothing else to be ready."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, request
from werkzeug.exceptions import BadRequest

from nodeobs.errors import InvalidInput
from nodeobs.model import decode_json, encode_json
from nodeobs.model.versions import convert_review
from nodeobs.web.bodies import read_body
from nodeobs.web.services import services

MAX_BYTES: Final = 64 * 2**20
"""The API server sends a whole list at once, and a Run over 5,000 nodes has up to a megabyte."""

LARGE_BYTES: Final = 2 * 2**20
"""In memory a document takes many times its size: so many of a larger one are converted at a time."""


def convert() -> Response:
    """Answer a ConversionReview."""
    known = services()
    with known.metrics.webhook_duration.labels("convert").time():
        if request.content_length is not None and request.content_length <= LARGE_BYTES:
            return _convert()
        with known.large_conversions.held():
            return _convert()


def _convert() -> Response:
    try:
        answer = convert_review(decode_json(read_body(limit=MAX_BYTES), dict[str, Any]))
        return Response(encode_json(answer), content_type="application/json")
    except (InvalidInput, RecursionError) as error:
        raise BadRequest(f"not a ConversionReview (apiextensions.k8s.io/v1): {error}") from error
