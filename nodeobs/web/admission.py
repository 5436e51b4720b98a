"""The webhooks of the API server. It sends no credentials; both are bounded, and change nothing."""

from __future__ import annotations

from typing import Final

import structlog
from flask import Blueprint, Response
from werkzeug.exceptions import BadRequest

from nodeobs.errors import AccessUnknown, InvalidInput, StoreUnavailable
from nodeobs.kube.admission import AdmissionQuestion
from nodeobs.model import decode_json, encode_json
from nodeobs.web.bodies import read_body, room_for_body
from nodeobs.web.conversion import convert
from nodeobs.web.problems import problem
from nodeobs.web.services import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("admission", __name__, url_prefix="/webhooks")

MAX_BYTES: Final = 7 * 2**20
"""The API server takes no larger request than 3 MiB, and sends the stored object along with the new one."""

_RETRY_SECONDS: Final = "1"
"""The API server itself tries again then, until its time for webhooks is over."""


@blueprint.post("/validate")
def validate() -> Response:
    """Answer an AdmissionReview."""
    known = services()
    assert known.admission is not None, "registered only where there is one"
    with known.metrics.webhook_duration.labels("validate").time(), room_for_body(known.large_reviews):
        try:
            question = decode_json(read_body(limit=MAX_BYTES), AdmissionQuestion)
        except InvalidInput as error:
            raise BadRequest(f"not an AdmissionReview (admission.k8s.io/v1): {error}") from error
        try:
            answer = known.admission.review(question)
        except (StoreUnavailable, AccessUnknown) as error:
            log.warning("cannot decide now", resource=question.request.resource.resource, error=str(error))
            return problem(503, str(error), kind="store-unavailable", headers={"Retry-After": _RETRY_SECONDS})
        return Response(encode_json(answer), content_type="application/json")


blueprint.add_url_rule("/convert", "convert", convert, methods=["POST"])
