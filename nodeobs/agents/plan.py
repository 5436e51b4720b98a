"""What is asked of every agent, and how long to wait for what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from nodeobs.model import ProfileType


@dataclass(frozen=True)
class Plan:
    """One Run, as the agents are asked for it."""

    run_uid: str
    """Also the collections' id on the agents."""
    targets: tuple[str, ...]
    """What to profile; a node with a list of its own is asked for those in both. Empty: whatever a node has."""
    profiles: tuple[ProfileType, ...]
    duration_seconds: int
    start_at: datetime | None = None
    """The common start instant; None: as soon as all agents can be told."""
    recovering: bool = False
    """Another driver began this Run: agents that know it are gone on with, never started again."""
    stored: frozenset[tuple[str, str]] = frozenset()
    """What that driver has stored: node and file name of each."""


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for what."""

    connect: float = 5.0
    """Opening a connection; also how long a start is retried after the start instant."""
    answer: float = 10.0
    """One answer, or the next bytes of a file."""
    unreachable_grace: float = 10.0
    """How long an agent that was started may be out of reach after its profiles should be there."""
    first_pause: float = 0.2
    """Before the first repetition of what failed; the next ones are longer."""
    cancel: float = 5.0
    """Telling the agents to drop a collection."""
    profile: float = 15.0
    """The next bytes of a profile that comes straight from its target, beyond the seconds that it takes."""
    transfer: float = 45.0
    """All of such a profile, beyond the seconds that it takes."""
    upstream_poll: float = 5.0
    """Longest pause between two looks at an upstream agent."""


_TELLING = 0.15
_TELLING_PER_AGENT = 0.005
_LONGEST_LEAD = 6.0


def telling_seconds(agents: int) -> float:
    """How long it may take to reach that many agents at once: opening a TLS connection costs CPU."""
    return _TELLING + _TELLING_PER_AGENT * agents


def lead_seconds(agents: int) -> float:
    """How far ahead the start instant lies, so that all of them know it before it comes."""
    return min(telling_seconds(agents), _LONGEST_LEAD)
