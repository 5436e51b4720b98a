"""A Run over simulated agents, and what the driver would see of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.client import AgentConnector, Locate
from nodeobs.agents.fanout import collect
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Patience, Plan
from nodeobs.model import PieceResult, ProfileType
from tests.fakes.agent_simulator import Behaviour, Fleet, SimulatedAgent


def utc_now() -> datetime:
    return datetime.now(UTC)


def connector(
    *,
    tls: bool = False,
    ca_file: Path | None = None,
    token_file: Path | None = None,
    server_name: str | None = None,
    locate: Locate | None = None,
) -> AgentConnector:
    return AgentConnector(
        tls=tls,
        ca_file=ca_file,
        token_file=token_file,
        now=utc_now,
        randomness=random.Random(1),
        server_name=server_name,
        locate=locate,
    )


def rows(*agents: SimulatedAgent) -> list[Agent]:
    return [Agent(agent.name, "127.0.0.1", agent.port) for agent in agents]


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes on until there are no more."""
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


PLAN = Plan(run_uid="run-1", targets=("kubelet",), profiles=(ProfileType.CPU,), duration_seconds=1)
PATIENCE = Patience(connect=2.0, answer=2.0, unreachable_grace=3.0, first_pause=0.05, cancel=1.0, upstream_poll=0.2)


def quick(**changes: Any) -> Behaviour:
    """An agent whose profiles take no time: a Run over such agents only is over at once when it starts at ``PAST``."""
    return Behaviour(profile_seconds=0, **changes)


PAST = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Drive:
    """One Run, with a sink that records."""

    spool: Path
    plan: Plan = PLAN
    patience: Patience = PATIENCE
    connector: AgentConnector = field(default_factory=connector)
    deadline_seconds: float = 30.0
    sunk: list[tuple[str, str, bytes]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    started: Sequence[AgentOutcome] = ()
    sink_error: Callable[[Agent], Exception | None] = lambda agent: None
    on_started_error: Exception | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, agents: Sequence[Agent]) -> tuple[AgentOutcome, ...]:
        order = Order(
            agents=agents,
            plan=self.plan,
            spool=self.spool,
            sink=self._sink,
            deadline_seconds=self.deadline_seconds,
            cancelled=self.cancelled,
            on_started=self._on_started,
            on_retrieving=self._on_retrieving,
        )
        return await collect(order, connector=self.connector, patience=self.patience)

    async def over(self, fleet: Fleet) -> tuple[AgentOutcome, ...]:
        return await self.run(rows(*fleet.agents))

    async def _sink(self, agent: Agent, piece: PieceResult, path: Path) -> None:
        error = self.sink_error(agent)
        if error is not None:
            raise error
        self.sunk.append((agent.name, path.name, path.read_bytes()))

    async def _on_started(self, outcomes: Sequence[AgentOutcome]) -> None:
        self.events.append("started")
        self.started = outcomes
        if self.on_started_error is not None:
            raise self.on_started_error

    async def _on_retrieving(self) -> None:
        self.events.append("retrieving")
