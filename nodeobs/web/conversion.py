"""Custom resources from one version to another, for the API server. Needs nothing else to be ready."""

from __future__ import annotations

from typing import Any, Final

from flask import Response
from werkzeug.exceptions import BadRequest

from nodeobs.errors import InvalidInput
from nodeobs.model import decode_json, encode_json
from nodeobs.model.versions import convert_review
from nodeobs.web.bodies import read_body, room_for_body
from nodeobs.web.services import services

MAX_BYTES: Final = 64 * 2**20
"""The API server sends a whole list at once, and a Run over 5,000 nodes has up to a megabyte."""


def convert() -> Response:
    """Answer a ConversionReview."""
    known = services()
    with known.metrics.webhook_duration.labels("convert").time(), room_for_body(known.large_conversions):
        try:
            answer = convert_review(decode_json(read_body(limit=MAX_BYTES), dict[str, Any]))
            return Response(encode_json(answer), content_type="application/json")
        except (InvalidInput, RecursionError) as error:
            raise BadRequest(f"not a ConversionReview (apiextensions.k8s.io/v1): {error}") from error
