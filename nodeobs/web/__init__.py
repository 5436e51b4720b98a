"""The HTTP service."""

from __future__ import annotations

import structlog
from flask import Flask, Response, request

from nodeobs.web import admission, alerts, auth, observabilities, ops, outputs, problems, runs
from nodeobs.web.services import Services

log = structlog.get_logger(__name__)

__all__ = ["create_app"]


def create_app(services: Services) -> Flask:
    """The WSGI application. Starts no thread; whoever serves it runs ``services.drive`` beside it."""
    app = Flask(__name__, static_folder=None)
    # One more than the limit: at its own, werkzeug cuts a chunked body short without a word.
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes + 1
    # A redirect's body would be HTML.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions["nodeobs"] = services
    problems.register(app)
    auth.register(app)
    app.after_request(_finish)
    for part in (runs, outputs, observabilities, alerts, ops):
        app.register_blueprint(part.blueprint)
    if services.admission is not None:
        app.register_blueprint(admission.blueprint)
    return app


def _finish(answer: Response) -> Response:
    answer.headers["X-Content-Type-Options"] = "nosniff"
    log.debug("answered", method=request.method, path=request.path, status=answer.status_code)
    return answer
