"""Who may call what: roles by bearer token or Basic password, and no web page of another site."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, g, request

from nodeobs.errors import Forbidden, Unauthenticated
from nodeobs.setting_kinds import is_loopback
from nodeobs.web.problems import problem
from nodeobs.web.services import services
from nodeobs.web.tokens import Caller, Role

log = structlog.get_logger(__name__)

_OPEN: Final = frozenset({"ops.healthz", "ops.readyz"})
"""Endpoints that a prober without credentials may call; they tell nothing."""

_NEEDS: Final = {
    "runs.create": Role.RUNNER,
    "runs.delete": Role.RUNNER,
    "runs.cancel": Role.RUNNER,
    "alerts.receive": Role.RUNNER,
    "ops.profile": Role.ADMIN,
}
"""Roles of endpoints that are not as usual: a viewer reads, and only an admin changes."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL: Final = Caller("", Role.ADMIN)


def register(app: Flask) -> None:
    """Check every request before anything of it is read."""
    app.before_request(_guard)


def caller() -> Caller:
    """Who asks, in the current request."""
    found: Caller = g.caller
    return found


def _guard() -> Response | None:
    endpoint = request.endpoint or ""
    if endpoint in _OPEN:
        return None
    tokens = services().tokens
    if tokens is None:
        # A page whose own host name is made to resolve to 127.0.0.1 would reach us from any browser on this machine.
        if not _asked_as_local(request.environ.get("HTTP_HOST")):
            return problem(
                421, "without a token file only requests to localhost, by that name or address, are answered"
            )
        g.caller = _LOCAL
    else:
        token = _token()
        found = tokens.find(token)
        if found is None:
            log.warning("unknown token", remote=request.remote_addr, path=request.path)
            raise Unauthenticated("the token is not known here; it may have been replaced")
        g.caller = found
    if request.method not in _SAFE:
        _refuse_other_sites()
    if caller().role < _needed(endpoint):
        raise Forbidden(
            f"{caller().user} has the role {caller().role.name.lower()}; this needs {_needed(endpoint).name.lower()}"
        )
    return None


def _needed(endpoint: str) -> Role:
    usual = Role.VIEWER if request.method in _SAFE or not endpoint else Role.ADMIN
    return _NEEDS.get(endpoint, usual)


def _token() -> str:
    given = request.authorization
    token = ""
    if given is not None and given.type == "bearer":
        token = given.token or ""
    elif given is not None and given.type == "basic":
        token = given.password or ""
    if not token:
        raise Unauthenticated(
            "no credentials: send 'Authorization: Bearer TOKEN', or HTTP Basic with the token as the password"
        )
    return token


def _asked_as_local(host: str | None) -> bool:
    if host is None:
        return True  # HTTP/1.0; every browser sends it
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name.endswith(".localhost")


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
