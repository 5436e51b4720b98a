"""How long to wait before the API server is asked again."""

from __future__ import annotations

from random import Random
from typing import Final

STEADY_SECONDS: Final = 10.0
"""A watch that lasted as long ended for no fault of the server's."""
_MAX_SECONDS: Final = 30.0
_MAX_DOUBLINGS: Final = 9
"""Enough for the longest pause. Without an end they would not fit into a float after six hours."""


class Backoff:
    """Pauses between attempts to follow something: they double up to 30 s, with jitter, and never go away."""

    def __init__(self, randomness: Random) -> None:
        self._randomness = randomness
        self._early = 0

    def after(self, lasted: float) -> float:
        """Seconds to wait after an attempt of so many seconds; one that lasted shows that all is well again.

        It does not matter how it ended: a server that ends every watch at once is not to be asked without a pause.
        """
        self._early = 0 if lasted >= STEADY_SECONDS else min(self._early + 1, _MAX_DOUBLINGS)
        return min(_MAX_SECONDS, 2.0**self._early / 4) * self._randomness.uniform(0.5, 1.0)
