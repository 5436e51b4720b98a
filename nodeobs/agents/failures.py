"""From what went wrong on the wire to a reason of the closed set and a message for a person."""

from __future__ import annotations

import os
import re
import socket
import ssl

import httpx

from nodeobs.agents.agent import Agent
from nodeobs.agents.roster import no_agent
from nodeobs.errors import AgentError, AgentUnavailable, InvalidInput
from nodeobs.model import Document, FailureReason, decode_json

_LONGEST = 300

_NOT_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""The other side went away, or is slow: a broken connection and not a wrong certificate."""


def clean(text: str) -> str:
    """Text from an agent, made fit for messages: one line, printable, at most 300 characters."""
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST])).strip()
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def from_transport(agent: Agent, error: httpx.TransportError | ssl.SSLError) -> AgentError:
    """Why there is no answer."""
    causes = _causes(error)
    if (tls := tls_cause(error)) is not None:
        return AgentError(FailureReason.TLS_FAILURE, f"{agent}: {_tls(tls)}")
    if isinstance(error, httpx.ProtocolError):
        said = clean(str(error)).rstrip(".")
        advice = "check that an agent listens there, and whether with TLS (agent_tls)"
        return AgentUnavailable(
            FailureReason.BAD_RESPONSE, f"{agent}: does not answer as an agent does: {said}: {advice}", sent=True
        )
    sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
    return _no_answer(agent, _network(error, causes), sent=sent)


def tls_cause(error: BaseException) -> ssl.SSLError | None:
    """The failure of TLS behind an error; None where a connection just broke."""
    broken = (cause for cause in _causes(error) if isinstance(cause, ssl.SSLError))
    return next((cause for cause in broken if not isinstance(cause, _NOT_TLS)), None)


def silent(agent: Agent, seconds: float) -> AgentUnavailable:
    """The agent did not answer in time, though it may have received the request."""
    return _no_answer(agent, f"no answer within {seconds:.3g} s: check the agent and the load of its node", sent=True)


def absent(agent: Agent) -> AgentUnavailable:
    """The cluster has no endpoint for the node's agent just now."""
    return AgentUnavailable(FailureReason.NO_AGENT, no_agent(agent), sent=False)


class _Problem(Document, frozen=True, kw_only=True):
    """What is read of an agent's RFC 9457 problem."""

    title: str = ""
    detail: str = ""
    reason: str = ""
    holder: str = ""


_ADVICE = {
    401: "the agent does not accept the service's token: check agent_token_file here and what the agent accepts",
    403: "the agent knows the service's token but does not let it collect",
    503: "the agent cannot do it now",
}
_REASONS = {
    401: FailureReason.UNAUTHORIZED,
    403: FailureReason.FORBIDDEN,
    503: FailureReason.NOT_READY,
}


def from_status(agent: Agent, status: int, body: bytes) -> AgentError:
    """Why the agent refused."""
    try:
        problem = decode_json(body, _Problem)
    except InvalidInput:
        problem = _Problem(detail=body[:2000].decode("utf-8", "replace"))
    said = clean(problem.detail or problem.title)
    if status == 409:
        holder = f": collection {clean(problem.holder)} is going" if problem.holder else ""
        return AgentError(
            FailureReason.BUSY, f"{agent}: busy{holder or ': ' + (said or 'another collection is going')}"
        )
    text = f"{agent}: {_ADVICE.get(status, f'answered with HTTP status {status}')}" + (f" ({said})" if said else "")
    named = next((reason for reason in FailureReason if reason == problem.reason), FailureReason.BAD_RESPONSE)
    reason = _REASONS.get(status, named)
    if status == 503:
        return AgentUnavailable(reason, text, sent=False)
    return AgentError(reason, text)


def bad_response(agent: Agent, what: str) -> AgentError:
    """The agent answered something that it may not."""
    return AgentError(FailureReason.BAD_RESPONSE, f"{agent}: {what}")


def _no_answer(agent: Agent, what: str, *, sent: bool) -> AgentUnavailable:
    if agent.ready:
        return AgentUnavailable(FailureReason.UNREACHABLE, f"{agent}: {what}", sent=sent)
    known = f"not ready ({agent.problem})" if agent.problem else "not ready"
    return AgentUnavailable(FailureReason.NOT_READY, f"{agent}: {known}, and {what}", sent=sent)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and everything it came from."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or cause in found:
            continue
        found.append(cause)
        waiting += [cause.__context__, cause.__cause__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
    return found


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {error.verify_message.rstrip('.')}: check the authority "
            "(agent_ca_file), and in the certificate the name (agent_server_name, else the address) and the dates"
        )
    detail = (error.reason or str(error)).replace("_", " ").lower()
    return f"TLS cannot be set up: {detail}: check that the agent serves HTTPS on that port (agent_tls)"


def _network(error: httpx.TransportError | ssl.SSLError, causes: list[BaseException]) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "cannot connect: no answer in time: check the node, the agent and the network between"
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return f"the name does not resolve: {cause.strerror}"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: nothing listens there; check that the agent runs on the node"
    errno = next((cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno), None)
    detail = os.strerror(errno) if errno else clean(str(error)) or type(error).__name__
    what = "cannot connect" if isinstance(error, httpx.ConnectError) else "the connection broke"
    return f"{what}: {detail}: check the agent and its node"
