"""The three endpoints of OpenShift's node-observability-agent, with its codes and texts; any method is taken.

Unlike there, a failed collection never blocks the next one: it shows in the status until the next start.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from nodeobs.errors import AgentBusy, AgentError
from nodeobs.model import CollectionRequest
from nodeobs.nodeagent.agent import NodeAgent
from nodeobs.nodeagent.web import JSON, Request, Response, Route, text_response


def upstream_routes(agent: NodeAgent, new_id: Callable[[], uuid.UUID]) -> tuple[Route, ...]:
    """Routes of the three endpoints."""

    async def start(request: Request) -> Response:
        identifier = str(new_id())
        try:
            await agent.start(CollectionRequest(id=identifier), request.receipt)
        except AgentBusy as busy:
            return text_response(f"{busy.holder} still running", 409)
        except AgentError:
            return text_response(f"{identifier} failed.", 500)
        return Response(headers=[JSON], body=f'{{"ID":"{identifier}","ExecutionRuns":null}}'.encode())

    async def scripting(_: Request) -> Response:
        return text_response("this agent profiles only; it runs no scripts", 404)

    async def status(_: Request) -> Response:
        if agent.running is not None:
            return text_response(f"{agent.running} still running", 409)
        if agent.last_failed is not None:
            return text_response(f"{agent.last_failed} failed.", 500)
        return text_response("Service is ready")

    return (
        Route(re.compile(r"/node-observability-pprof"), {"*": start}),
        Route(re.compile(r"/node-observability-scripting"), {"*": scripting}),
        Route(re.compile(r"/node-observability-status"), {"*": status}),
    )
