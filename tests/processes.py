"""Real programs as processes of a test: started, waited for, and gone when the test ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, probe: Callable[[], T | None], *, seconds: float = 60.0, every: float = 0.05) -> T:
    """First true answer of ``probe``; fails the test, naming ``what``, when none comes in time."""
    until = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(every)


class Program:
    """A process with a log file; a context manager that ends it."""

    def __init__(
        self, name: str, argv: Sequence[str | Path], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, what: str, probe: Callable[[], T | None], *, seconds: float = 60.0) -> T:
        """As :func:`wait_for`, but fails at once, with the log, when the process ends."""

        def probe_alive() -> T | None:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.said()[-4000:]}")
            return probe()

        try:
            return wait_for(what, probe_alive, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.name} said:\n{self.said()[-4000:]}") from None

    def ready(self, what: str, probe: Callable[[], object]) -> Program:
        """Itself, once ``probe`` answers; ended where it never does."""
        try:
            self.wait_until(what, probe)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """End it and all its children at once, as ``kill -9`` does."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, *, seconds: float = 15.0) -> float:
        """Ask it to end; seconds that it took."""
        began = time.monotonic()
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.said()[-4000:]}") from None
        return time.monotonic() - began

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
