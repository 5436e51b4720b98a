"""Telling how a Run goes: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nodeobs.cli.text import clean, plural
from nodeobs.model import FailedAgent, Phase, Run

Show = Callable[[Run], None]

_HINDRANCE = ", trying again: "
"""In the message of a Run that does not go on, before what keeps it."""

_DOING = {
    Phase.PENDING: "waiting for its turn",
    Phase.RUNNING: "profiling",
    Phase.RETRIEVING: "fetching the files",
}


@contextmanager
def shown(console: Console, now: Callable[[], datetime]) -> Iterator[Show]:
    """A function that shows a Run as it stands; ``now`` is the service's clock, ``console`` standard error's."""
    news = News()
    if not console.is_terminal:
        yield lambda run: _print(console, news.of(run))
        return
    line = Line(now)
    with Live(console=console, get_renderable=line.render, refresh_per_second=8, transient=True) as live:

        def show(run: Run) -> None:
            _print(live.console, news.of(run))
            line.run = run

        yield show


class News:
    """What has not been told yet about one Run."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._hindrance = ""
        self._failed: set[str] = set()

    def of(self, run: Run) -> list[str]:
        """Lines about what is new: a phase, agents that failed, why it does not go on."""
        failed = [agent for agent in run.status.failed_agents if agent.name not in self._failed]
        self._failed.update(agent.name for agent in failed)
        lines = [failed_line(agent) for agent in failed]
        if run.status.phase is not self._phase:
            self._phase = run.status.phase
            # What failed explains an end; it follows a beginning.
            lines.insert(len(lines) if run.status.phase.final else 0, _phase_line(run))
            self._hindrance = ""
        if (hindrance := hindrance_of(run)) and hindrance != self._hindrance:
            self._hindrance = hindrance
            lines.append(clean(f"  {hindrance}"))
        return lines


class Line:
    """One line with a spinner, the phase, a bar and the seconds left."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.run: Run | None = None
        self._now = now
        self._spinner = Spinner("dots")

    def render(self) -> RenderableType:
        """The line as it is at this moment."""
        run = self.run
        if run is None or run.status.phase.final:
            return Text("")
        row = Table.grid(padding=(0, 1))
        doing = "waiting" if hindrance_of(run) else _DOING[run.status.phase]
        cells: list[RenderableType] = [self._spinner, Text(doing)]
        if run.status.phase is Phase.RUNNING and run.status.start_timestamp is not None:
            total = run.spec.duration_seconds
            done = min(max((self._now() - run.status.start_timestamp).total_seconds(), 0.0), float(total))
            cells += [ProgressBar(total=total, completed=done, width=30), Text(f"{total - done:.0f} s left")]
        cells.append(Text(_counts(run), style="dim"))
        row.add_row(*cells)
        return row


def hindrance_of(run: Run) -> str:
    """Why a Run that is going does not go on, or empty."""
    said = (c.message for c in run.status.conditions if c.type == "Finished" and not run.status.phase.final)
    return next((message for message in said if _HINDRANCE in message), "")


def failed_line(agent: FailedAgent) -> str:
    """``node-3 failed: Unreachable: …``."""
    return clean(f"  {agent.name} failed: {agent.reason.value}" + (f": {agent.message}" if agent.message else ""))


def _phase_line(run: Run) -> str:
    phase = run.status.phase
    if phase is Phase.RUNNING:
        on = plural(len(run.status.agents) + len(run.status.failed_agents), "node")
        return clean(f"{run.key}: Running: profiling {on} for {run.spec.duration_seconds} s")
    if phase.final:
        return clean(f"{run.key}: {phase.value}")
    return clean(f"{run.key}: {phase.value}: {_DOING[phase]}")


def _counts(run: Run) -> str:
    going, failed = len(run.status.agents), len(run.status.failed_agents)
    return plural(going, "node") + (f", {failed} failed" if failed else "") if going or failed else ""


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
