"""When to reconcile: after changes, now and then without, and never in quick succession."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

AGAIN_SECONDS: Final = 5.0
"""Where something waits: for a Run, or after a failure."""

_PAUSE_SECONDS: Final = 1.0
"""Between rounds, however much changes."""
_LOOK_SECONDS: Final = 60.0
"""A round without any change: certificates grow old."""
_STOP_SECONDS: Final = 0.5


def keep_up(one_round: Callable[[], bool], *, changed: threading.Event, stop: threading.Event) -> None:
    """Go round until ``stop`` is set; ``one_round`` tells whether something is left to do that has to wait."""
    until = 0.0
    while not stop.is_set():
        if not changed.is_set() and time.monotonic() < until:
            changed.wait(_STOP_SECONDS)
            continue
        changed.clear()
        again = one_round()
        until = time.monotonic() + (AGAIN_SECONDS if again else _LOOK_SECONDS)
        stop.wait(_PAUSE_SECONDS)
