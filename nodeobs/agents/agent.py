"""One agent of the roster, and what came of asking it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as change
from datetime import datetime

from nodeobs.model import FailureReason, PieceResult, PieceState


@dataclass(frozen=True)
class Agent:
    """One row of the roster. A node without an agent has neither ``host`` nor ``port``, and a ``problem``."""

    name: str
    """The node's name."""
    host: str = ""
    """Name or IP address, an IPv6 address without brackets."""
    port: int = 0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    targets: tuple[str, ...] = ()
    """What this node has; empty: whatever the agent offers."""
    other_hosts: tuple[str, ...] = ()
    """Where the agent listens as well, as with dual stack."""
    addresses: tuple[str, ...] = ()
    """The node's own addresses and host names: Runs may name it by them as well."""
    ready: bool = True
    """Whether the cluster takes the agent for ready; one that is not is tried all the same."""
    problem: str = ""
    """Why there is no agent, or why it is not ready, as far as known."""
    service: str = ""
    """The Service that leads to it, in a cluster where each NodeObservability has one."""
    proxied: bool = False
    """There is no agent, and none is needed: the node's kubelet is asked through the API server."""

    @property
    def address(self) -> str:
        """``host:port`` as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.host else self.name


@dataclass(frozen=True)
class AgentOutcome:
    """What came of one agent. It failed if ``reason`` is set: then it delivered nothing."""

    agent: Agent
    reason: FailureReason | None = None
    message: str = ""
    started_at: datetime | None = None
    """When profiling began, by the service's clock."""
    clock_offset_seconds: float | None = None
    """The agent's clock minus the service's."""
    late: bool = False
    """It was asked too late for the common start instant and began at once."""
    upstream: bool = False
    """It speaks upstream's protocol only: its data stays on the node."""
    pieces: tuple[PieceResult, ...] = ()
    """Every target's every profile asked for: Done (delivered) or Failed, with a reason."""

    @property
    def delivered(self) -> bool:
        """Whether at least one piece is here."""
        return any(piece.state is PieceState.DONE for piece in self.pieces)

    def with_pieces(self, pieces: Iterable[PieceResult]) -> AgentOutcome:
        """The same outcome with other pieces; one that has a delivered piece did not fail."""
        changed = change(self, pieces=tuple(pieces))
        return change(changed, reason=None, message="") if changed.delivered else changed


def start_skew(outcomes: Iterable[AgentOutcome]) -> float:
    """Seconds between the first and the last agent's start; 0 when fewer than two have started."""
    instants = [outcome.started_at for outcome in outcomes if outcome.started_at is not None]
    return (max(instants) - min(instants)).total_seconds() if instants else 0.0
