"""Alertmanager's notifications over HTTP. Every alert's outcome is an answer of 200: only 5xx makes it try again."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response
from werkzeug.exceptions import BadRequest

from nodeobs.errors import InvalidInput
from nodeobs.model import encode_json
from nodeobs.runs.alerts import answer
from nodeobs.runs.notification import parse_notification
from nodeobs.web.bodies import read_body
from nodeobs.web.services import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("alerts", __name__, url_prefix="/webhooks")


@blueprint.post("/alertmanager")
def receive() -> Response:
    """Start what the trigger rules say; what is answered 200 is in the store."""
    known = services()
    with known.metrics.webhook_duration.labels("alertmanager").time():
        try:
            notification = parse_notification(read_body())
        except InvalidInput as error:
            raise BadRequest(f"not a notification of Alertmanager (version 4): {error}") from error
        with known.creations.held():
            result = answer(
                notification,
                known.rules.current(),
                store=known.store,
                admit=known.admit,
                now=known.now(),
                default_namespace=known.settings.namespace,
                metrics=known.metrics,
            )
        return Response(encode_json(result), content_type="application/json")
