"""What a target's refusal means: its status and text, as a failure reason and advice."""

from __future__ import annotations

from nodeobs.errors import AgentError
from nodeobs.model import FailureReason


def refusal(name: str, endpoint: str, status: int, body: str) -> AgentError:
    """The error for an answer of target ``name`` that is not 200.

    Sources: kubelet server.go (405 "profiling endpoint is disabled.", 405 "Debug endpoints are disabled."), CRI-O
    (404 without ``--enable-profile-unix-socket``), net/http/pprof (500 "... cpu profiling already in use").
    """
    said = _first_line(body)
    reason = _reason(name, status, said)
    advice = _advice(name, reason)
    text = f"{endpoint} answered {status}" + (f": {said}" if said else "") + (f"; {advice}" if advice else "")
    return AgentError(reason, text)


def _reason(name: str, status: int, said: str) -> FailureReason:
    if status == 401:
        return FailureReason.UNAUTHORIZED
    if status == 403:
        return FailureReason.FORBIDDEN
    if status == 405 and "disabled" in said:
        return FailureReason.PROFILING_DISABLED
    if status == 404 and name == "crio":
        return FailureReason.PROFILING_DISABLED
    if status == 500 and ("already in use" in said or "already enabled" in said):
        return FailureReason.PROFILER_IN_USE
    return FailureReason.BAD_RESPONSE


def _advice(name: str, reason: FailureReason) -> str:
    advice = {
        ("kubelet", FailureReason.UNAUTHORIZED): "it does not accept the token (--kubelet-token-file)",
        ("kubelet", FailureReason.FORBIDDEN): "the token's owner needs 'get' on nodes/proxy",
        ("kubelet", FailureReason.PROFILING_DISABLED): (
            "set enableProfilingHandler and enableDebuggingHandlers in the kubelet's configuration"
        ),
        ("crio", FailureReason.PROFILING_DISABLED): "start CRI-O with --enable-profile-unix-socket",
    }
    if reason is FailureReason.PROFILER_IN_USE:
        return "someone else is profiling it now: only one CPU profile or trace per process at a time"
    return advice.get((name, reason), "")


def _first_line(body: str) -> str:
    line = body.strip().split("\n", 1)[0][:300]
    return "".join(char if char.isprintable() else " " for char in line).strip()
