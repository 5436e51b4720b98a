"""Why a kubelet's profile did not come through the API server: the API server's own words, or the kubelet's."""

from __future__ import annotations

import ssl
from typing import Final

import httpx
import msgspec

from nodeobs.agents import failures
from nodeobs.agents.agent import Agent
from nodeobs.debugpprof import IN_USE, KUBELET, KUBELET_DISABLED, first_line, refusal_reason
from nodeobs.errors import AgentError, AgentUnavailable
from nodeobs.kube.client import Status
from nodeobs.kube.rbac import NODE_PROXY
from nodeobs.model import FailureReason
from nodeobs.typed import decode

NEEDED: Final = (
    f"the service's ServiceAccount needs 'get' on nodes/proxy, which the ClusterRole {NODE_PROXY} gives "
    "(nodeobs manifests --via-api-server; in the chart apiServerProxy.enabled)"
)

_ADVICE: Final = {
    FailureReason.UNAUTHORIZED: "the API server's own credentials for it (--kubelet-client-certificate) are at fault",
    FailureReason.FORBIDDEN: "the API server's own user needs the ClusterRole system:kubelet-api-admin",
    FailureReason.PROFILING_DISABLED: KUBELET_DISABLED,
    FailureReason.PROFILER_IN_USE: IN_USE,
}
"""On what a kubelet says to the API server."""

_REFUSALS: Final = {
    401: (FailureReason.UNAUTHORIZED, "the API server does not accept the service's credentials"),
    403: (FailureReason.FORBIDDEN, NEEDED),
    404: (FailureReason.NO_AGENT, "the node is gone from the cluster"),
}
"""The API server's own."""


def from_transport(agent: Agent, server: str, error: httpx.TransportError | ssl.SSLError) -> AgentError:
    """Why the API server did not answer."""
    said = failures.clean(str(error)) or type(error).__name__
    if failures.tls_cause(error) is not None:
        return AgentError(FailureReason.TLS_FAILURE, f"{agent}: TLS with the API server at {server}: {said}")
    sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError))
    what = "the connection to the API server broke" if sent else "the API server cannot be reached"
    return AgentUnavailable(FailureReason.UNREACHABLE, f"{agent}: {what} ({server}): {said}", sent=sent)


def silent(agent: Agent, seconds: float) -> AgentError:
    """Neither the kubelet nor the API server said anything."""
    what = f"nothing came through the API server for {seconds:.3g} s: check the kubelet, and the way to it"
    return AgentError(FailureReason.TIMEOUT, f"{agent}: {what}{_known(agent)}")


def cut_off(agent: Agent, name: str, received: int) -> AgentError:
    """The profile ended before its end."""
    what = f"{name} broke off after {received} bytes: the kubelet, or the API server's way to it, went away"
    return AgentError(FailureReason.BAD_PROFILE, f"{agent}: {what}")


def from_status(agent: Agent, status: int, body: bytes) -> AgentError:
    """Why there is no profile in an answer that is not 200."""
    try:
        told = decode(body, Status)
    except msgspec.DecodeError:
        return _kubelets(agent, status, first_line(body.decode("utf-8", "replace")))
    return _api_servers(agent, status, failures.clean(told.message))


def _api_servers(agent: Agent, status: int, said: str) -> AgentError:
    if status in _REFUSALS:
        reason, what = _REFUSALS[status]
        return AgentError(reason, f"{agent}: {what}: {said}")
    if status == 429:
        return _overloaded(agent, said)
    if status < 500:
        return failures.bad_response(agent, f"the API server answered {status}: {said}")
    if "x509: " in said or "tls: " in said:
        what = f"the API server does not accept the kubelet's certificate, or the kubelet its: {said}"
        return AgentError(FailureReason.TLS_FAILURE, f"{agent}: {what}")
    what = f"the API server cannot reach the kubelet: {said or status}"
    return AgentUnavailable(FailureReason.TARGET_UNAVAILABLE, f"{agent}: {what}{_known(agent)}", sent=False)


def _overloaded(agent: Agent, said: str) -> AgentUnavailable:
    return AgentUnavailable(FailureReason.UNREACHABLE, f"{agent}: the API server is overloaded: {said}", sent=False)


def _kubelets(agent: Agent, status: int, said: str) -> AgentError:
    if status == 429:
        # Not from a kubelet: the API server says this, and that it is shutting down, without a Status.
        return _overloaded(agent, said)
    what = f"the kubelet answered {status}" + (f": {said}" if said else "")
    if status in (502, 503, 504):
        # Not from a kubelet, which has none of these: from something between, such as a load balancer.
        what = f"the kubelet cannot be reached through the API server ({status}{': ' + said if said else ''})"
        return AgentUnavailable(FailureReason.TARGET_UNAVAILABLE, f"{agent}: {what}{_known(agent)}", sent=False)
    reason = refusal_reason(KUBELET, status, said)
    advice = _ADVICE.get(reason)
    return AgentError(reason, f"{agent}: {what}" + (f"; {advice}" if advice else ""))


def _known(agent: Agent) -> str:
    """What the cluster says of the node."""
    return f"; {agent.problem}" if agent.problem else ""
