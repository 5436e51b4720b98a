"""Every request is its caller's to make, and no web page of another site's."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from flask import Flask, g, request

from nodeobs.errors import Forbidden
from nodeobs.web.access import SAFE, Caller, demand_of_endpoint
from nodeobs.web.services import services

_OPEN: Final = frozenset({"ops.healthz", "ops.readyz", "admission.validate", "admission.convert"})
"""Endpoints that need no credentials: probers and the API server have none. They tell little and change nothing."""


def register(app: Flask) -> None:
    """Check every request before anything of its body is read."""
    app.before_request(_guard)


def caller() -> Caller:
    """Who asks, in the current request."""
    found: Caller = g.caller
    return found


def _guard() -> None:
    if request.endpoint in _OPEN:
        return
    found = services().access.authenticate()
    if request.method not in SAFE:
        _refuse_other_sites()
    found.require(demand_of_endpoint())
    g.caller = found


def _refuse_other_sites() -> None:
    """Browsers say where a request comes from; programs say nothing, or the same host."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    if site not in ("none", "same-origin") or (origin is not None and not _is_ours(origin)):
        raise Forbidden("requests that change something are not taken from pages of another site")


def _is_ours(origin: str) -> bool:
    try:
        return urlsplit(origin).netloc == request.environ.get("HTTP_HOST")
    except ValueError:
        return False
