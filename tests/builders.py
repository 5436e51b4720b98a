"""Short ways to make the documents that tests are about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nodeobs.model import (
    AgentRef,
    DriverClaim,
    Metadata,
    NodeObservability,
    NodeObservabilityRef,
    NodeObservabilitySpec,
    Phase,
    Run,
    RunSpec,
    RunStatus,
    TargetSpec,
)

START = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)


def make_run(
    name: str = "run-1",
    *,
    parent: str = "cluster",
    phase: Phase = Phase.PENDING,
    age: float = 0.0,
    namespace: str = "nodeobs",
    agents: tuple[AgentRef, ...] = (),
    claimed_in_term: int | None = None,
    **spec: Any,
) -> Run:
    """Run of ``name``, created ``age`` seconds before START."""
    return Run(
        metadata=Metadata(
            name=name,
            namespace=namespace,
            uid=f"uid-{namespace}-{name}",
            creation_timestamp=START - timedelta(seconds=age),
        ),
        spec=RunSpec(node_observability_ref=NodeObservabilityRef(name=parent), **spec),
        status=RunStatus(
            phase=phase,
            agents=agents,
            finished_timestamp=START - timedelta(seconds=age) if phase.final else None,
            driver=DriverClaim(holder="other", term=claimed_in_term) if claimed_in_term else None,
        ),
    )


def make_observability(name: str = "cluster", *targets: str, **spec: Any) -> NodeObservability:
    """NodeObservability with these targets."""
    return NodeObservability(
        metadata=Metadata(name=name),
        spec=NodeObservabilitySpec(targets=tuple(TargetSpec(name=target) for target in targets), **spec),
    )
