"""The demo's processes: started together, watched, and never left behind."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nodeobs.cli.failures import Failure

READY_SECONDS = 30.0
STOP_SECONDS = 8.0
"""How long processes may take to end when they are asked to."""
_PR_SET_PDEATHSIG = 1


class Child:
    """One process, its output in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            Failure: it has ended.
        """
        code = self._process.poll()
        if code is not None:
            raise Failure(f"{self.name} ended with exit code {code}", hint=f"its log is {self._log}")

    def tail(self) -> list[str]:
        """The last lines of its log."""
        return self._log.read_text(errors="replace").splitlines()[-15:]

    def kill(self) -> None:
        """``kill -9``."""
        _signal(self._process, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def reap(self, seconds: float) -> bool:
        """Wait for its end, and end by force what is left of its process group; whether that was not needed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        finally:
            _signal(self._process, signal.SIGKILL)
        return True


class Children:
    """All of the demo's processes; leaving the ``with`` block stops them."""

    def __init__(self, *, stop_seconds: float = STOP_SECONDS) -> None:
        self._stop_seconds = stop_seconds
        self._children: dict[str, Child] = {}
        # In the child: be sent SIGTERM when the demo is gone, however it went.
        self._end_with_parent = functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, int(signal.SIGTERM))

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def start(self, name: str, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> Child:
        """Start a process; to be called before this one has a second thread."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,  # Ctrl-C is for the demo, which stops them in order
                preexec_fn=self._end_with_parent,  # noqa: PLW1509 - there is one thread only
            )
        child = self._children[name] = Child(name, process, log)
        return child

    def wait_ready(self, name: str, is_ready: Callable[[], bool]) -> float:
        """Wait until the process is ready; seconds that took.

        Raises:
            Failure: it has ended, or is not ready within READY_SECONDS.
        """
        child = self._children[name]
        began = time.monotonic()
        while not is_ready():
            child.check()
            if time.monotonic() - began > READY_SECONDS:
                raise Failure(f"{name} was not ready within {READY_SECONDS:g} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> list[str]:
        """End them all; the names of those that did not end when they were asked to."""
        for child in self._children.values():
            child.terminate()
        end = time.monotonic() + self._stop_seconds
        stubborn = [name for name, child in self._children.items() if not child.reap(max(0.0, end - time.monotonic()))]
        self._children.clear()
        return stubborn


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
