"""The CPU profile of this very process, as other programs of this field offer it at ``/debug/pprof/profile``."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Final

from nodeobs.errors import ProfilerInUse
from nodeobs.pprof.encode import write
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Profile, Sample, ValueType

_PERIOD_NANOS: Final = 10_000_000
_PERIOD_SECONDS: Final = _PERIOD_NANOS / 1e9
_SWITCH_SECONDS: Final = 0.0005
# Linux's clock id for the CPU time of one thread (MAKE_THREAD_CPUCLOCK, CPUCLOCK_SCHED in linux/posix-timers.h).
_THREAD_CPU_CLOCK: Final = 6

_Place = tuple[int, int]
"""Id of a function, and a line."""


class SelfProfiler:
    """Looks at all threads 100 times a second; one profile at a time."""

    def __init__(self, *, wall_nanos: Callable[[], int] = time.time_ns) -> None:
        self._in_use = threading.Lock()
        self._wall_nanos = wall_nanos

    def profile(self, seconds: float, *, stop: threading.Event | None = None) -> bytes:
        """The gzipped pprof profile of the next ``seconds``, or of the time until ``stop`` is set.

        Its values are how often a thread was found to have used CPU since the look before, and how much it had used.
        The calling thread, which does the looking, is left out.

        Raises:
            ProfilerInUse: a profile is being taken.
        """
        if not self._in_use.acquire(blocking=False):
            raise ProfilerInUse("Could not enable CPU profiling: cpu profiling already in use")
        interval = sys.getswitchinterval()
        try:
            # A look waits until the running thread gives the interpreter up. At 5 ms, that is mostly where the thread
            # goes to wait for something, and what it had computed would be counted as waiting.
            sys.setswitchinterval(min(interval, _SWITCH_SECONDS))
            time_nanos = self._wall_nanos()
            begin = time.monotonic()
            sampler = _Sampler()
            _look_until(sampler, begin + seconds, stop or threading.Event())
            duration_nanos = int((time.monotonic() - begin) * 1e9)
        finally:
            sys.setswitchinterval(interval)
            self._in_use.release()
        return write(sampler.profile(time_nanos, duration_nanos))


def _look_until(sampler: _Sampler, end: float, stop: threading.Event) -> None:
    due = time.monotonic()
    while True:
        now = time.monotonic()
        # Looks that were missed are not made up for: the CPU time used meanwhile is in the next one.
        due = max(due + _PERIOD_SECONDS, now)
        if due >= end:
            stop.wait(end - now)
            return
        if stop.wait(due - now):
            return
        sampler.look()


class _Sampler:
    """Counts stacks."""

    def __init__(self) -> None:
        self._counts: dict[tuple[tuple[_Place, ...], str], list[int]] = defaultdict(lambda: [0, 0])
        # By the code's identity, as comparing code takes long; the code is kept so that no other can have its id.
        self._functions: dict[int, tuple[Function, CodeType]] = {}
        self._used: dict[int, int] = {}
        self._own = threading.get_ident()
        self._busy_threads()

    def look(self) -> None:
        """Count the stack of each thread that used CPU since the last look."""
        busy = self._busy_threads()
        frames = sys._current_frames()
        for thread, nanos in busy:
            frame = frames.pop(thread.ident or 0, None)
            if frame is not None:
                count = self._counts[self._stack(frame), thread.name]
                count[0] += 1
                count[1] += nanos

    def _busy_threads(self) -> list[tuple[threading.Thread, int]]:
        """Threads that used CPU since this was last asked, and the nanoseconds they used."""
        before, self._used = self._used, {}
        busy = []
        for thread in threading.enumerate():
            if thread.native_id is None or thread.ident == self._own:
                continue
            try:
                used = time.clock_gettime_ns(~thread.native_id << 3 | _THREAD_CPU_CLOCK)
            except OSError:
                continue  # it ended just now
            self._used[thread.native_id] = used
            nanos = used - before.get(thread.native_id, 0)
            if nanos > 0:
                busy.append((thread, nanos))
        return busy

    def _stack(self, frame: FrameType | None) -> tuple[_Place, ...]:
        stack = []
        while frame is not None:
            known = self._functions.get(id(frame.f_code)) or self._learn(frame)
            stack.append((known[0].id, frame.f_lineno or 0))
            frame = frame.f_back
        return tuple(stack)

    def _learn(self, frame: FrameType) -> tuple[Function, CodeType]:
        code = frame.f_code
        name = f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}"
        function = Function(len(self._functions) + 1, name, name, code.co_filename, code.co_firstlineno)
        known = self._functions[id(code)] = (function, code)
        return known

    def profile(self, time_nanos: int, duration_nanos: int) -> Profile:
        """What was counted."""
        locations: dict[_Place, Location] = {}
        samples = []
        for (stack, thread), values in self._counts.items():
            for place in stack:
                if place not in locations:
                    locations[place] = Location(len(locations) + 1, 1, lines=(Line(*place),))
            ids = tuple(locations[place].id for place in stack)
            samples.append(Sample(ids, tuple(values), (Label("thread", thread),)))
        return Profile(
            sample_types=(ValueType("samples", "count"), ValueType("cpu", "nanoseconds")),
            samples=samples,
            mappings=[_interpreter()],
            locations=list(locations.values()),
            functions=[function for function, _ in self._functions.values()],
            time_nanos=time_nanos,
            duration_nanos=duration_nanos,
            period_type=ValueType("cpu", "nanoseconds"),
            period=_PERIOD_NANOS,
        )


def _interpreter() -> Mapping:
    return Mapping(
        1,
        filename=sys.executable,
        has_functions=True,
        has_filenames=True,
        has_line_numbers=True,
        has_inline_frames=True,
    )
