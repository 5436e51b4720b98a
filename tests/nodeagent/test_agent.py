"""The agent without HTTP: what must hold though its own parts fail."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.errors import AgentError
from nodeobs.model import Collection, CollectionRequest, FailureReason
from nodeobs.nodeagent.agent import NodeAgent, Receipt
from nodeobs.nodeagent.kept import Kept
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.storage import Storage


class FaultyStorage(Storage):
    """Writes no state from its ``fails_from``th time on, for a reason that nobody expects."""

    fails_from = 1
    saved = 0

    def save(self, collection: Collection) -> None:
        self.saved += 1
        if self.saved >= self.fails_from:
            raise RuntimeError("can't start new thread")
        super().save(collection)


def now() -> datetime:
    return datetime.now(UTC)


def agent_on(storage: Storage) -> NodeAgent:
    metrics = AgentMetrics(CollectorRegistry(), [])
    kept = Kept(storage, metrics, max_bytes=1000, max_age=timedelta(hours=1), now=now)
    return NodeAgent([], storage=storage, kept=kept, metrics=metrics, now=now, monotonic=time.monotonic)


def start(agent: NodeAgent, identifier: str) -> Collection:
    async def run() -> Collection:
        started = await agent.start(CollectionRequest(id=identifier), Receipt(instant=now(), monotonic=0.0))
        return await agent.wait(started.id, 10)

    return asyncio.run(run())


def test_a_fault_while_a_start_is_recorded_refuses_it_and_blocks_nothing(tmp_path: Path) -> None:
    with FaultyStorage(tmp_path) as storage:
        agent = agent_on(storage)
        for identifier in ("run-1", "run-1", "run-2"):
            with pytest.raises(AgentError) as refused:
                start(agent, identifier)
            assert refused.value.reason is FailureReason.INTERNAL
        assert agent.running is None


def test_a_fault_while_the_end_is_recorded_blocks_nothing(tmp_path: Path) -> None:
    with FaultyStorage(tmp_path) as storage:
        storage.fails_from = 2
        agent = agent_on(storage)
        assert start(agent, "run-1").state.final
        assert agent.running is None
