"""The profile of this process."""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodeobs.errors import ProfilerInUse
from nodeobs.pprof import Profile, read, top
from nodeobs.pprof.profile import Label, ValueType
from nodeobs.selfprofile import SelfProfiler


def burn_cycles(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(2000))


def compute() -> int:
    total = 0
    for number in range(30_000):
        total += number * number
    return total


def compute_and_wait(stop: threading.Event) -> None:
    with select.epoll() as poll:
        while not stop.is_set():
            compute()
            poll.poll(0.002)


def sleep_through(stop: threading.Event) -> None:
    stop.wait()


@pytest.fixture
def threads() -> Iterator[None]:
    """One thread that uses CPU and one that does not."""
    stop = threading.Event()
    running = [
        threading.Thread(target=target, args=(stop,), name=name)
        for target, name in ((burn_cycles, "burner"), (sleep_through, "sleeper"))
    ]
    for thread in running:
        thread.start()
    yield
    stop.set()
    for thread in running:
        thread.join()


@pytest.fixture
def profile(threads: None) -> Profile:
    return read(SelfProfiler().profile(1.0))


def test_it_says_what_uses_the_cpu(profile: Profile) -> None:
    table = top(profile)
    assert table.sample_type == ValueType("cpu", "nanoseconds")
    burning = next(row for row in table.rows if row.name == f"{__name__}.burn_cycles")
    assert burning.cum_percent > 80


def test_threads_are_told_apart_and_waiting_ones_not_counted(profile: Profile) -> None:
    def times_seen(thread: str) -> int:
        return sum(sample.values[0] for sample in profile.samples if Label("thread", thread) in sample.labels)

    # The one that waits uses some CPU before it does.
    assert times_seen("burner") > 5 * times_seen("sleeper")
    assert top(profile, tags={"thread": "burner"}).total > 0.8 * top(profile).total


def test_the_values_are_cpu_time_that_was_used(profile: Profile) -> None:
    counted = sum(sample.values[0] for sample in profile.samples)
    nanos = sum(sample.values[1] for sample in profile.samples)
    assert 0 < nanos <= profile.duration_nanos * 1.5
    assert 0 < counted <= 2 * 101


def test_what_was_computed_is_not_counted_where_the_thread_waits() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=compute_and_wait, args=(stop,))
    thread.start()
    table = top(read(SelfProfiler().profile(1.5)))
    stop.set()
    thread.join()
    shares = {row.name.rpartition(".")[2]: row.flat_percent for row in table.rows}
    assert shares.get("compute", 0) > 25, shares


def wake_now_and_then(stop: threading.Event) -> None:
    while not stop.wait(0.02):
        pass


def test_a_thread_that_uses_little_is_counted_too() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=wake_now_and_then, args=(stop,), name="drowsy")
    thread.start()
    found = read(SelfProfiler().profile(0.5))
    stop.set()
    thread.join()
    values = [sample.values for sample in found.samples if Label("thread", "drowsy") in sample.labels]
    assert sum(nanos for _, nanos in values) > 0, found


def burn_a_little(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(2000))


def burn_in_threads_one_after_another(stop: threading.Event) -> None:
    while not stop.is_set():
        # A thread gets the identity of the one that ended before it, which used more.
        for seconds in (0.2, 0.05):
            thread = threading.Thread(target=burn_a_little, args=(seconds,))
            thread.start()
            thread.join()


def test_a_thread_is_not_taken_for_one_that_ended() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=burn_in_threads_one_after_another, args=(stop,))
    thread.start()
    before = time.process_time_ns()
    profile = read(SelfProfiler().profile(1.5))
    used = time.process_time_ns() - before
    stop.set()
    thread.join()
    values = [sample.values[1] for sample in profile.samples]
    assert min(values) > 0
    assert used * 0.3 < sum(values) <= used


def test_it_is_a_cpu_profile_like_gos(profile: Profile) -> None:
    assert profile.sample_types == (ValueType("samples", "count"), ValueType("cpu", "nanoseconds"))
    assert (profile.period_type, profile.period) == (ValueType("cpu", "nanoseconds"), 10_000_000)
    assert profile.duration_nanos >= 1_000_000_000
    assert profile.mappings[0].filename == sys.executable


def test_it_begins_when_it_began() -> None:
    assert read(SelfProfiler(wall_nanos=lambda: 1234).profile(0)).time_nanos == 1234


def test_lines_and_files_are_those_of_the_source(profile: Profile) -> None:
    function = next(function for function in profile.functions if function.name.endswith("burn_cycles"))
    assert function.filename == burn_cycles.__code__.co_filename
    assert function.start_line == burn_cycles.__code__.co_firstlineno
    lines = {line.line for place in profile.locations for line in place.lines if line.function_id == function.id}
    assert lines <= {function.start_line + 1, function.start_line + 2}


def test_one_at_a_time_and_it_can_be_stopped() -> None:
    began, stop = threading.Event(), threading.Event()

    def begin() -> int:
        began.set()
        return 0

    profiler = SelfProfiler(wall_nanos=begin)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(profiler.profile, 600, stop=stop)
        assert began.wait(60)
        with pytest.raises(ProfilerInUse) as refusal:
            profiler.profile(0)
        assert str(refusal.value) == "Could not enable CPU profiling: cpu profiling already in use"
        stop.set()
        stopped = read(first.result(60))
    assert stopped.duration_nanos < 600e9
    assert read(profiler.profile(0)).samples == []


def test_go_reads_it(threads: None, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    path = tmp_path / "self.pb.gz"
    path.write_bytes(SelfProfiler().profile(0.5))
    printed = subprocess.run([go, "tool", "pprof", "-top", path], capture_output=True, text=True, check=True).stdout
    assert "burn_cycles" in printed


def test_it_needs_little_beside_the_standard_library() -> None:
    script = (
        "import sys, nodeobs.selfprofile; print(*sorted(name for name in sys.modules if name.startswith('nodeobs')))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    ours = [name for name in printed.split() if not name.startswith("nodeobs.pprof")]
    assert ours == ["nodeobs", "nodeobs.errors", "nodeobs.selfprofile"]
