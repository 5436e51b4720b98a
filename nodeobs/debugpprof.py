"""Go's ``/debug/pprof`` over HTTP: which path has which profile, and what a refusal means.

For whoever asks: an agent on the node, or the service through the API server.
"""

from __future__ import annotations

from typing import Final

from nodeobs.model import FailureReason, ProfileType

KUBELET: Final = "kubelet"

IN_USE: Final = "someone else is profiling it now: only one CPU profile or trace per process at a time"
KUBELET_DISABLED: Final = "set enableProfilingHandler and enableDebuggingHandlers in the kubelet's configuration"

_TIMED: Final = frozenset({ProfileType.CPU, ProfileType.TRACE})
_LONGEST_LINE: Final = 300


def is_timed(profile: ProfileType) -> bool:
    """Whether it takes the Run's duration; the others are snapshots."""
    return profile in _TIMED


def path_of(profile: ProfileType, seconds: int) -> str:
    """What follows ``/debug/pprof/``; ``seconds`` counts for what is timed only."""
    name = "profile" if profile is ProfileType.CPU else profile.value
    return f"{name}?seconds={seconds}" if is_timed(profile) else name


def refusal_reason(target: str, status: int, said: str) -> FailureReason:
    """Why a target answered other than 200; ``said`` is the first line of its answer.

    Sources: kubelet server.go (405 "profiling endpoint is disabled.", 405 "Debug endpoints are disabled."), CRI-O
    (404 without ``--enable-profile-unix-socket``), net/http/pprof (500 "... cpu profiling already in use").
    """
    if status == 401:
        return FailureReason.UNAUTHORIZED
    if status == 403:
        return FailureReason.FORBIDDEN
    if status == 405 and "disabled" in said:
        return FailureReason.PROFILING_DISABLED
    if status == 404 and target == "crio":
        return FailureReason.PROFILING_DISABLED
    if status == 500 and ("already in use" in said or "already enabled" in said):
        return FailureReason.PROFILER_IN_USE
    return FailureReason.BAD_RESPONSE


def first_line(body: str) -> str:
    """Of an answer, fit for a message."""
    line = body.strip().split("\n", 1)[0][:_LONGEST_LINE]
    return "".join(char if char.isprintable() else " " for char in line).strip()
