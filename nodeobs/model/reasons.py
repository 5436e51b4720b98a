"""Why an agent, or one piece of its work, failed. The set is closed: it is a metric's label."""

from __future__ import annotations

import enum


class FailureReason(enum.StrEnum):
    """One word for a failure; the message beside it tells the rest."""

    NO_AGENT = "NoAgent"
    NOT_READY = "NotReady"
    UNREACHABLE = "Unreachable"
    TLS_FAILURE = "TLSFailure"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    BUSY = "Busy"
    TARGET_UNAVAILABLE = "TargetUnavailable"
    PROFILING_DISABLED = "ProfilingDisabled"
    PROFILER_IN_USE = "ProfilerInUse"
    TIMEOUT = "Timeout"
    BAD_RESPONSE = "BadResponse"
    BAD_PROFILE = "BadProfile"
    STORAGE_FULL = "StorageFull"
    AGENT_RESTARTED = "AgentRestarted"
    CANCELLED = "Cancelled"
    INTERNAL = "Internal"
