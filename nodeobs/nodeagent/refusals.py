"""What a target's refusal means: its status and text, as a failure reason and advice."""

from __future__ import annotations

from nodeobs.debugpprof import IN_USE, KUBELET, KUBELET_DISABLED, first_line, refusal_reason
from nodeobs.errors import AgentError
from nodeobs.model import FailureReason


def refusal(name: str, endpoint: str, status: int, body: str) -> AgentError:
    """The error for an answer of target ``name`` that is not 200."""
    said = first_line(body)
    reason = refusal_reason(name, status, said)
    advice = _advice(name, reason)
    text = f"{endpoint} answered {status}" + (f": {said}" if said else "") + (f"; {advice}" if advice else "")
    return AgentError(reason, text)


def _advice(name: str, reason: FailureReason) -> str:
    advice = {
        (KUBELET, FailureReason.UNAUTHORIZED): "it does not accept the token (--kubelet-token-file)",
        (KUBELET, FailureReason.FORBIDDEN): "the token's owner needs 'get' on nodes/proxy",
        (KUBELET, FailureReason.PROFILING_DISABLED): KUBELET_DISABLED,
        ("crio", FailureReason.PROFILING_DISABLED): "start CRI-O with --enable-profile-unix-socket",
    }
    return IN_USE if reason is FailureReason.PROFILER_IN_USE else advice.get((name, reason), "")
