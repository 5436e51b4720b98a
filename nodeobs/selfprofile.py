"""The CPU profile of this very process, as other programs of this field offer it at ``/debug/pprof/profile``."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import Final, NamedTuple

from nodeobs.errors import ProfilerInUse
from nodeobs.pprof.encode import write
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Profile, Sample, ValueType

_PERIOD_NANOS: Final = 10_000_000
_PERIOD_SECONDS: Final = _PERIOD_NANOS / 1e9
_SWITCH_SECONDS: Final = 0.00005
_GLANCE_SECONDS: Final = 0.0001
_RUNNING_NANOS: Final = 30_000
"""A thread that has used so much within a glance is running now, not waiting."""
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

        Its values are how often a thread was found running, and how much CPU it had used since it was found before.
        The calling thread, which does the looking, is left out.

        Raises:
            ProfilerInUse: a profile is being taken.
        """
        if not self._in_use.acquire(blocking=False):
            raise ProfilerInUse("Could not enable CPU profiling: cpu profiling already in use")
        interval = sys.getswitchinterval()
        try:
            # The sampler gets its turn only when the running thread gives the interpreter up: soon, please, or it would
            # be seen where it goes to wait.
            sys.setswitchinterval(min(interval, _SWITCH_SECONDS))
            time_nanos = self._wall_nanos()
            begin = time.monotonic()
            sampler = _Sampler()
            _look_until(sampler, begin + seconds, stop or threading.Event())
            sampler.settle()
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


class _Clock(NamedTuple):
    """What a thread has used."""

    identity: int
    """Python's, by which its frame is found."""
    name: str
    used: int
    """CPU time in nanoseconds."""


class _Sampler:
    """Counts stacks."""

    def __init__(self) -> None:
        self._counts: dict[tuple[tuple[_Place, ...], str], list[int]] = defaultdict(lambda: [0, 0])
        # By the code's identity, as comparing code takes long; the code is kept so that no other can have its id.
        self._functions: dict[int, tuple[Function, CodeType]] = {}
        self._own = threading.get_ident()
        self._charged = {thread: clock.used for thread, clock in self._clocks().items()}
        """CPU time of each thread that is accounted for, in nanoseconds."""
        self._waiting: dict[int, tuple[tuple[_Place, ...], str, int]] = {}
        """Where each thread that had used CPU was seen waiting last."""

    def look(self) -> None:
        """Count the stack of each thread that is running now.

        A thread that used CPU but waits now would be counted where it waits: what it used goes to where it is found
        running next.
        """
        before = self._clocks()
        time.sleep(_GLANCE_SECONDS)
        now = self._clocks()
        frames = sys._current_frames()
        for thread, clock in now.items():
            frame = frames.get(clock.identity)
            if frame is None or clock.used == self._charged.get(thread):
                continue
            if clock.used - before.get(thread, clock).used < _RUNNING_NANOS:
                self._waiting[thread] = self._stack(frame), clock.name, clock.used
                continue
            self._count(thread, self._stack(frame), clock.name, clock.used)

    def settle(self) -> None:
        """Count what is left, of threads that were never found running, where they were seen last."""
        for thread, (stack, name, used) in self._waiting.items():
            if used > self._charged.get(thread, 0):
                self._count(thread, stack, name, used)

    def _count(self, thread: int, stack: tuple[_Place, ...], name: str, used: int) -> None:
        count = self._counts[stack, name]
        count[0] += 1
        count[1] += used - self._charged.get(thread, 0)
        self._charged[thread] = used

    def _clocks(self) -> dict[int, _Clock]:
        """The other threads' clocks, by the system's number of each: Python gives an identity out again at once."""
        clocks = {}
        for thread in threading.enumerate():
            if thread.native_id is None or thread.ident is None or thread.ident == self._own:
                continue
            with suppress(OSError):  # it ended just now
                used = time.clock_gettime_ns(~thread.native_id << 3 | _THREAD_CPU_CLOCK)
                clocks[thread.native_id] = _Clock(thread.ident, thread.name, used)
        return clocks

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
