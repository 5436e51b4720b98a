"""What is legal in a Run or NodeObservability, but hardly meant: sentences of at most 120 characters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from nodeobs.model import NodeObservability, ProfileType, Run
from nodeobs.runs.rules import unsupported

LONG_SECONDS: Final = 300
LONG_TRACE_SECONDS: Final = 60

_LOCAL: Final = ("localhost", "127.0.0.1", "::1", "$(node_ip)")
"""Hosts that are the agent's own node, as ``urlsplit`` writes them."""


def odd_in_run(run: Run, *, observability: NodeObservability | None) -> Iterator[str]:
    """What whoever creates ``run`` should know."""
    spec = run.spec
    if spec.cancel:
        yield "spec.cancel is true: the Run ends as Cancelled and collects nothing"
    if spec.duration_seconds > LONG_SECONDS:
        yield (
            f"spec.durationSeconds is {spec.duration_seconds}: until it is over, no other Run on the NodeObservability "
            "can start"
        )
    if ProfileType.TRACE in spec.profiles and spec.duration_seconds > LONG_TRACE_SECONDS:
        yield f"an execution trace of {spec.duration_seconds} s can have hundreds of megabytes for each target"
    if spec.ttl_seconds_after_finished == 0:
        yield "spec.ttlSecondsAfterFinished is 0: the Run is deleted once it has finished; only its output stays"
    conditions = observability.status.conditions if observability is not None else ()
    if any(condition.type == "Ready" and condition.status == "False" for condition in conditions):
        yield "the NodeObservability is not Ready: the Run waits up to 2 minutes for it, then starts with what there is"


def odd_in_observability(observability: NodeObservability) -> Iterator[str]:
    """What whoever creates or changes ``observability`` should know."""
    for field, value in unsupported(observability.spec):
        yield f"{field} {value!r} is stored, but nothing acts on it in this version of nodeobs: Runs on it are refused"
    for target in observability.spec.targets:
        url = urlsplit(target.url or "")
        if url.scheme == "http" and url.hostname not in _LOCAL:
            yield f"target {target.name}: its profiles are fetched unencrypted; use https"
