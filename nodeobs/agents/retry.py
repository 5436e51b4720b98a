"""Trying again while that can help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nodeobs.errors import AgentUnavailable

T = TypeVar("T")

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 2.0
_SHORTEST_TRY = 1.0


async def persist(
    attempt: Callable[[float], Awaitable[T]], *, until: float, longest: float, randomness: random.Random
) -> T:
    """Result of ``attempt(seconds)``, tried again while it raises AgentUnavailable, with growing, jittered pauses.

    ``until`` is by the event loop's clock; a try is given at most ``longest`` seconds.

    Raises:
        AgentUnavailable: the last try's, when the time is up.
    """
    loop = asyncio.get_running_loop()
    pause = _FIRST_PAUSE
    while True:
        try:
            return await attempt(max(min(longest, until - loop.time()), _SHORTEST_TRY))
        except AgentUnavailable:
            nap = pause * randomness.uniform(0.5, 1.0)
            if loop.time() + nap >= until:
                raise
        await asyncio.sleep(nap)
        pause = min(2 * pause, _LONGEST_PAUSE)
