"""The agent's endpoints, as one ASGI application."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from nodeobs.errors import (
    AccessUnknown,
    AgentBusy,
    AgentError,
    Forbidden,
    InvalidInput,
    NodeobsError,
    NotFound,
    ProfilerInUse,
    Unauthenticated,
)
from nodeobs.kube.reviews import PathRight
from nodeobs.model import CollectionRequest, FailureReason, TargetList, decode_json
from nodeobs.nodeagent.agent import NodeAgent, Receipt
from nodeobs.nodeagent.auth import Access, Starters
from nodeobs.nodeagent.downloads import download
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.threads import in_thread
from nodeobs.nodeagent.upstream import upstream_routes
from nodeobs.nodeagent.web import (
    CLOSE,
    Headers,
    HttpError,
    Receive,
    Request,
    Response,
    Route,
    Scope,
    Send,
    json_response,
    problem,
    send_response,
    text_response,
)

logger = logging.getLogger(__name__)

LONGEST_WAIT: Final = 30.0
_SEGMENT: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}"


class Profiler(Protocol):
    """What profiles the agent itself."""

    def profile(self, seconds: float, *, stop: threading.Event | None = None) -> bytes:
        """A gzipped pprof profile of this process over ``seconds``; raises :class:`ProfilerInUse`."""


class AgentServer:
    """The application. Every endpoint but the health checks asks ``access``, where it is given, who may call."""

    def __init__(
        self,
        agent: NodeAgent,
        *,
        access: Access | None,
        metrics: AgentMetrics,
        profiler: Profiler,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        new_id: Callable[[], uuid.UUID],
    ) -> None:
        self._agent = agent
        self._access = access
        self._starters = Starters()
        self._metrics = metrics
        self._profiler = profiler
        self._now = now
        self._monotonic = monotonic
        self._stop_profiling = threading.Event()
        collection = rf"/v1/collections/(?P<id>{_SEGMENT})"
        self._routes = (
            Route(re.compile(r"/v1/collections"), {"POST": self._start}),
            Route(re.compile(collection), {"GET": self._get, "DELETE": self._delete}),
            Route(re.compile(rf"{collection}/files/(?P<name>{_SEGMENT})"), {"GET": self._file}),
            Route(re.compile(r"/v1/targets"), {"GET": self._list_targets}),
            Route(re.compile(r"/metrics"), {"GET": self._expose}),
            Route(re.compile(r"/debug/pprof/profile"), {"GET": self._profile}),
            Route(re.compile(r"/healthz|/livez"), {"GET": self._healthy}, open=True),
            Route(re.compile(r"/readyz"), {"GET": self._ready}, open=True),
            *upstream_routes(agent, new_id),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        receipt = Receipt(instant=self._now(), monotonic=self._monotonic())
        request = Request(scope, receive, receipt)
        response = await self._answer(request)
        try:
            await send_response(response, send)
        except (TimeoutError, OSError) as error:
            # The connection is closed with the body unfinished, which is what tells the caller.
            logger.warning("%s %s: the answer could not be sent whole: %r", request.method, request.path, error)

    async def stop(self) -> None:
        """End what is going, so that every open request can be answered now."""
        self._stop_profiling.set()
        await self._agent.stop()

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._route(request)
        except NodeobsError as error:
            return _problem_for(error)
        except Exception:
            # The edge of a request.
            logger.exception("%s %s failed", request.method, request.path)
            self._metrics.internal_errors.inc()
            return problem(500, "the agent failed; its log has the details", reason=FailureReason.INTERNAL)

    async def _route(self, request: Request) -> Response:
        for route in self._routes:
            found = route.pattern.fullmatch(request.path)
            if found is None:
                continue
            request.parts = found.groupdict()
            if not route.open:
                await self._admit(request, PathRight(verb=_verb(request.method), path=_guarded_path(request.path)))
            return await route.handler(request.method)(request)
        await self._admit(request, None)
        raise HttpError(404, "there is nothing here; collections are under /v1/collections")

    async def _admit(self, request: Request, right: PathRight | None) -> None:
        if self._access is None:
            return
        authorization, collection = request.header("authorization"), request.parts.get("id", "")
        try:
            request.caller = await self._access.check(authorization, right)
            self._starters.renew(collection, request.caller)
        except AccessUnknown:
            if not self._starters.started(collection, authorization):
                raise

    async def _start(self, request: Request) -> Response:
        wanted = decode_json(await request.body(), CollectionRequest)
        collection = await self._agent.start(wanted, request.receipt)
        if request.caller is not None:
            self._starters.remember(collection.id, request.caller)
        return json_response(collection, 202)

    async def _get(self, request: Request) -> Response:
        seconds = request.number("wait", 0.0, least=0, most=3600)
        return json_response(await self._agent.wait(request.parts["id"], min(seconds, LONGEST_WAIT)))

    async def _delete(self, request: Request) -> Response:
        await self._agent.delete(request.parts["id"])
        self._starters.forget(request.parts["id"])
        return Response(status=204)

    async def _file(self, request: Request) -> Response:
        info, path = self._agent.file(request.parts["id"], request.parts["name"])
        return await download(request, info, path)

    async def _list_targets(self, _: Request) -> Response:
        return json_response(TargetList(targets=await self._agent.probe()))

    async def _expose(self, _: Request) -> Response:
        body = generate_latest(self._metrics.registry)
        return Response(headers=[("content-type", CONTENT_TYPE_PLAIN_0_0_4)], body=body)

    async def _profile(self, request: Request) -> Response:
        seconds = request.number("seconds", 30.0, least=1, most=3600)
        try:
            body = await in_thread(self._profiler.profile, seconds, stop=self._stop_profiling)
        except ProfilerInUse as error:
            return text_response(f"{error}\n", 500)
        headers = [
            ("content-type", "application/octet-stream"),
            ("content-disposition", 'attachment; filename="profile"'),
        ]
        return Response(headers=headers, body=body)

    async def _healthy(self, _: Request) -> Response:
        return text_response("ok\n")

    async def _ready(self, _: Request) -> Response:
        return text_response("stopping\n", 503) if self._agent.stopping else text_response("ok\n")


def _verb(method: str) -> str:
    return "get" if method == "HEAD" else method.lower()


def _guarded_path(path: str) -> str:
    """What callers need a right to: one for all collections, and each other path that there is."""
    return "/v1/collections" if path.startswith("/v1/collections/") else path


def _problem_for(error: NodeobsError) -> Response:
    status, reason, holder = 500, "", ""
    headers: Headers = ()
    match error:
        case HttpError():
            status, headers = error.status, error.headers
        case InvalidInput():
            status = 400
        case Unauthenticated():
            status, reason = 401, FailureReason.UNAUTHORIZED
            headers = [("www-authenticate", "Bearer"), CLOSE]
        case Forbidden():
            status, reason = 403, FailureReason.FORBIDDEN
        case AccessUnknown():
            status, headers = 503, [("retry-after", "2"), CLOSE]
        case NotFound():
            status = 404
        case AgentBusy():
            status, reason, holder = 409, error.reason, error.holder
        case AgentError():
            status = {FailureReason.STORAGE_FULL: 507, FailureReason.CANCELLED: 410}.get(error.reason, 500)
            reason = error.reason
    return problem(status, str(error), headers=headers, reason=reason, holder=holder)
