"""What the driver of a Run wants of its nodes, by whichever way they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.plan import Plan
from nodeobs.model import PieceResult

Sink = Callable[[Agent, PieceResult, Path], Awaitable[None]]
"""Checks a fetched file and stores it; raises AgentError where it fails that piece."""


@dataclass(frozen=True)
class Order:
    """From whom, what, where to and until when; and what to tell the driver meanwhile."""

    agents: Sequence[Agent]
    """Their names are unique."""
    plan: Plan
    spool: Path
    """Every file is brought to ``spool/<node>/<name>``."""
    sink: Sink
    deadline_seconds: float
    """From now; what is missing then is ``Timeout``."""
    cancelled: asyncio.Event
    """Set: the agents are told to stop, and what is missing is ``Cancelled``."""
    on_started: Callable[[Sequence[AgentOutcome]], Awaitable[None]]
    """Awaited once, when every agent has started or failed to, with the outcomes so far."""
    on_retrieving: Callable[[], Awaitable[None]]
    """Awaited once after that, when the first file is about to be fetched, or never."""
