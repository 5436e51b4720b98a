"""Driving an agent that knows only the protocol of openshift/node-observability-agent.

Its profiles cannot be fetched: they stay on the node. It has no ids of ours either, so a start that may have reached
it is never repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodeobs.agents import failures
from nodeobs.agents.client import AgentClient, Answer
from nodeobs.errors import AgentError, AgentUnavailable, InvalidInput
from nodeobs.model import Document, FailureReason, ProfileType, decode_json

FOLDER = "/run/node-observability"
SECONDS = 30
"""Upstream's agent profiles for as long as Go's pprof does by default, whatever a Run asks for."""

DATA_STAYS = f"speaks only upstream's protocol: kubelet and CRI-O CPU profiles stay on the node, in {FOLDER}"


class _Accepted(Document, frozen=True, kw_only=True, rename=None):
    """Answer to a start: ``{"ID": "<uuid>", "ExecutionRuns": null}``."""

    ID: str


def check(client: AgentClient, profiles: Sequence[ProfileType]) -> None:
    """See that upstream's agent can do at least a part of what is asked.

    Raises:
        AgentError: TargetUnavailable, as no CPU profile is asked for.
    """
    if ProfileType.CPU not in profiles:
        asked = ", ".join(profiles)
        message = f"{client.agent}: speaks only upstream's protocol, which has CPU profiles and no {asked}"
        raise AgentError(FailureReason.TARGET_UNAVAILABLE, message)


async def start(client: AgentClient, *, limit: float) -> None:
    """Ask for one collection; an answer that got lost counts as one that began.

    Raises:
        AgentUnavailable: the request did not reach the agent.
        AgentError: it refused.
    """
    try:
        answer = await _get(client, "/node-observability-pprof", limit)
    except AgentUnavailable as error:
        if error.sent:
            return
        raise
    text = answer.body.decode("utf-8", "replace")
    if answer.status == 200:
        try:
            decode_json(answer.body, _Accepted)
        except InvalidInput as error:
            raise failures.bad_response(client.agent, f"answered a start with {failures.clean(text)!r}") from error
    elif answer.status == 409:
        raise AgentError(FailureReason.BUSY, f"{client.agent}: busy: {failures.clean(text)}")
    elif answer.status == 500:
        what = f"an earlier collection failed ({failures.clean(text)}); delete agent.err in {FOLDER} on the node"
        raise AgentError(FailureReason.NOT_READY, f"{client.agent}: {what}")
    elif answer.status == 404:
        raise failures.bad_response(
            client.agent, "knows neither /v1/collections nor /node-observability-pprof: is it an agent?"
        )
    else:
        raise failures.from_status(client.agent, answer.status, answer.body)


async def over(client: AgentClient, *, limit: float) -> bool:
    """Whether the collection is over.

    Raises:
        AgentUnavailable: no answer this time.
        AgentError: the collection failed, or the answer is not one of upstream's.
    """
    answer = await _get(client, "/node-observability-status", limit)
    if answer.status in (200, 409):
        return answer.status == 200
    if answer.status == 500:
        said = failures.clean(answer.body.decode("utf-8", "replace"))
        what = f"the collection failed ({said}): agent.err in {FOLDER} on the node says why, and must be deleted"
        raise AgentError(FailureReason.TARGET_UNAVAILABLE, f"{client.agent}: {what}")
    raise failures.from_status(client.agent, answer.status, answer.body)


async def _get(client: AgentClient, path: str, limit: float) -> Answer:
    # Without the token: upstream's agent would pass it on to the API server for review.
    return await client.exchange("GET", path, limit=limit, authenticated=False)
