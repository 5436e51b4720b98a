"""What each endpoint asks of its caller, and the ways to find out who that is.

Standalone, callers have roles by a token file (:mod:`nodeobs.web.tokens`), or are on this machine; in a cluster the API
server says who they are and what they may do. Both are asked for the same demands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import MisdirectedRequest

from nodeobs.errors import Forbidden, Unauthenticated
from nodeobs.kube.reviewer import Reviewer
from nodeobs.kube.reviews import Identity, PathRight, ResourceRight, Right
from nodeobs.setting_kinds import is_loopback

RUNS: Final = "nodeobservabilityruns"
OBSERVABILITIES: Final = "nodeobservabilities"

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(enum.IntEnum):
    """What a caller may do; each includes those below it."""

    VIEWER = 1
    """Read Runs, outputs and metrics."""
    RUNNER = 2
    """Start and cancel Runs, also by alerts."""
    ADMIN = 3
    """Change NodeObservabilities, profile the service itself."""


@dataclass(frozen=True)
class Demand:
    """What a caller needs: the role, where callers have roles; all of the rights, where the API server knows them."""

    role: Role
    rights: tuple[Right, ...] = ()


class Caller(Protocol):
    """Who asks."""

    @property
    def user(self) -> str:
        """Their name; empty where callers have none."""

    def require(self, demand: Demand) -> None:
        """Go on only if they may.

        Raises:
            Forbidden: they may not.
            AccessUnknown: that cannot be found out now.
        """


class Access(Protocol):
    """A way to find out who asks."""

    def authenticate(self) -> Caller:
        """Who makes the current request.

        Raises:
            Unauthenticated: no credentials, or wrong ones.
            AccessUnknown: that cannot be found out now.
        """


@dataclass(frozen=True)
class RoleCaller:
    """A caller with a role."""

    user: str
    role: Role

    def require(self, demand: Demand) -> None:
        """Compare roles; see :class:`Caller`."""
        if self.role < demand.role:
            has, needs = self.role.name.lower(), demand.role.name.lower()
            raise Forbidden(f"{self.user} has the role {has}; this needs {needs}")


class LocalAccess:
    """Whoever reaches the (loopback) port may do everything."""

    def authenticate(self) -> RoleCaller:
        """Anyone, but by a local name; see :class:`Access`.

        Raises:
            MisdirectedRequest: by another name.
        """
        # A page whose own host name is made to resolve to 127.0.0.1 would reach us from any browser on this machine.
        if not _asked_as_local(request.environ.get("HTTP_HOST")):
            raise MisdirectedRequest(
                "without a token file only requests to localhost, by that name or address, are answered"
            )
        return RoleCaller("", Role.ADMIN)


@dataclass(frozen=True)
class ClusterCaller:
    """A caller whom the API server knows."""

    identity: Identity
    reviewer: Reviewer

    @property
    def user(self) -> str:
        """Their name in the cluster."""
        return self.identity.user

    def require(self, demand: Demand) -> None:
        """Ask the API server for each right; see :class:`Caller`."""
        for right in demand.rights:
            self.reviewer.require(self.identity, right)


@dataclass(frozen=True)
class ClusterAccess:
    """Callers are authenticated by TokenReview and authorized by SubjectAccessReview."""

    reviewer: Reviewer

    def authenticate(self) -> ClusterCaller:
        """Whose token came along; see :class:`Access`."""
        return ClusterCaller(self.reviewer.authenticate(presented_token()), self.reviewer)


def presented_token() -> str:
    """The token of the current request.

    Raises:
        Unauthenticated: there is none.
    """
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


_ROLES: Final = {
    "runs.create": Role.RUNNER,
    "runs.delete": Role.RUNNER,
    "runs.cancel": Role.RUNNER,
    "alerts.receive": Role.RUNNER,
    "ops.profile": Role.ADMIN,
}
"""Roles of endpoints that are not as usual: a viewer reads, and only an admin changes."""

_RESOURCES: Final = {
    "runs.list_runs": ("list", RUNS, ""),
    "runs.get": ("get", RUNS, ""),
    "runs.delete": ("delete", RUNS, ""),
    "runs.cancel": ("update", RUNS, ""),
    "outputs.manifest": ("get", RUNS, "output"),
    "outputs.archive": ("get", RUNS, "output"),
    "outputs.download": ("get", RUNS, "output"),
    "observabilities.list_observabilities": ("list", OBSERVABILITIES, ""),
    "observabilities.create": ("create", OBSERVABILITIES, ""),
    "observabilities.get": ("get", OBSERVABILITIES, ""),
    "observabilities.put": ("update", OBSERVABILITIES, ""),
    "observabilities.delete": ("delete", OBSERVABILITIES, ""),
}
"""Endpoints that are about resources: verb, resource and subresource. The others are paths, with their method."""


def demand_of_endpoint() -> Demand:
    """What the current request needs before its body is read; see :func:`demand_of_run` for what creates a Run."""
    endpoint, rule = request.endpoint or "", request.url_rule
    safe = request.method in SAFE
    role = _ROLES.get(endpoint, Role.VIEWER if safe or rule is None else Role.ADMIN)
    if rule is None or endpoint == "runs.create":
        return Demand(role)
    if endpoint not in _RESOURCES:
        return Demand(role, (PathRight(verb="get" if safe else request.method.lower(), path=rule.rule),))
    verb, resource, subresource = _RESOURCES[endpoint]
    named = request.view_args or {}
    namespace = named.get("namespace", "")
    if endpoint == "runs.list_runs":
        namespace = request.args.get("namespace", "")
    right = ResourceRight(
        verb=verb, resource=resource, subresource=subresource, namespace=namespace, name=named.get("name", "")
    )
    return Demand(role, (right,))


def demand_of_run(*, namespace: str, observability: str) -> Demand:
    """What creating a Run there, on that NodeObservability, needs."""
    create = ResourceRight(verb="create", resource=RUNS, namespace=namespace)
    return Demand(Role.RUNNER, (create, ResourceRight(verb="use", resource=OBSERVABILITIES, name=observability)))


def _asked_as_local(host: str | None) -> bool:
    if host is None:
        return True  # HTTP/1.0; every browser sends it
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name.endswith(".localhost")
