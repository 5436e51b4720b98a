"""Trying again while that can help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from nodeobs.errors import AgentUnavailable

T = TypeVar("T")

_LONGEST_PAUSE = 2.0
_SHORTEST_TRY = 0.5


def pauses(first: float, randomness: random.Random) -> Iterator[float]:
    """Seconds to wait before each repetition: growing from ``first``, and jittered so that agents do not march."""
    pause = first
    while True:
        yield pause * randomness.uniform(0.5, 1.0)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def persist(
    attempt: Callable[[float], Awaitable[T]], *, until: float, longest: float, naps: Iterator[float]
) -> T:
    """Result of ``attempt(seconds)``, tried again after each of ``naps`` while it raises AgentUnavailable.

    ``until`` is by the event loop's clock; a try is given at most ``longest`` seconds.

    Raises:
        AgentUnavailable: the last try's, when the time is up.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await attempt(max(min(longest, until - loop.time()), _SHORTEST_TRY))
        except AgentUnavailable:
            nap = next(naps)
            if loop.time() + nap + _SHORTEST_TRY > until:
                raise
        await asyncio.sleep(nap)
