"""Simulated agents in a thread, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from nodeobs.agents.agent import Agent
from tests.fakes.agent_simulator import Behaviour, Fleet, SimulatedAgent


class FleetThread:
    """Simulated agents in an event loop of their own."""

    def __init__(self, behaviours: Sequence[Behaviour], *, host: str = "127.0.0.1") -> None:
        self.host = host
        self._fleet = Fleet(*behaviours, host=host)
        self._loop = asyncio.new_event_loop()
        self._over: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="fleet")
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with self._fleet:
            self._ready.set()
            await self._over.wait()

    def __getitem__(self, number: int) -> SimulatedAgent:
        return self._fleet.agents[number]

    @property
    def agents(self) -> list[SimulatedAgent]:
        return self._fleet.agents

    def roster(self) -> list[Agent]:
        return [Agent(name=agent.name, host=self.host, port=agent.port) for agent in self._fleet.agents]

    def kill(self, number: int) -> None:
        """Take one agent away, its port closed."""
        asyncio.run_coroutine_threadsafe(self[number].close(), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()
