"""The ways by which nodes' profiles come here. Everything after is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nodeobs.agents import fanout
from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.order import Order


class Way(Protocol):
    """How the nodes of a Run are found and asked."""

    def roster(self, observability: str) -> Sequence[Agent]:
        """The nodes that the NodeObservability of that name can have, as they are now.

        Raises:
            StoreUnavailable: they cannot be found out now.
        """

    async def collect(self, order: Order) -> tuple[AgentOutcome, ...]:
        """Bring what they profile to the spool and give it to the sink, as :func:`fanout.collect` says."""

    async def purge(self, agents: Sequence[Agent], run_uid: str) -> None:
        """Have the nodes forget what they may still hold of a finished Run; best effort, within a few seconds."""


class ByAgents:
    """Agents on the nodes, which keep what they profile until it is fetched."""

    def __init__(self, agents: Callable[[str], Sequence[Agent]], connector: AgentConnector) -> None:
        self._agents = agents
        self._connector = connector

    def roster(self, observability: str) -> Sequence[Agent]:
        """The nodes and the agents that they have."""
        return self._agents(observability)

    async def collect(self, order: Order) -> tuple[AgentOutcome, ...]:
        """Start, wait, fetch."""
        return await fanout.collect(order, connector=self._connector)

    async def purge(self, agents: Sequence[Agent], run_uid: str) -> None:
        """Have them delete their copies."""
        await fanout.purge(agents, run_uid, connector=self._connector)
