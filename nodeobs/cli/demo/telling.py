"""The demo's words: numbered steps in short lines."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nodeobs.cli import outcomes
from nodeobs.cli.demo.children import Child
from nodeobs.cli.demo.profiles import MergedProfile
from nodeobs.cli.demo.stage import DOOMED, NODES, Stage
from nodeobs.cli.demo.story import Answer
from nodeobs.cli.demo.work import Work
from nodeobs.cli.service import RunRef
from nodeobs.cli.text import clean, fields, size, table
from nodeobs.model import Run

_LOG_WIDTH = 400


class Teller:
    """Prints what happens to ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step = 0

    def beginning(self, stage: Stage) -> None:
        """What will be seen, and where it stays."""
        self._line(
            f"nodeobs demo: an alert becomes a merged profile. All of it stays on this machine, in {stage.folder}"
        )
        self._begin("Start the service and three agents")

    def started(self, stage: Stage, ready: Mapping[str, float], runtimes: Sequence[str]) -> None:
        """Who runs where."""
        urls = {"service": stage.url} | {node: stage.agent_url(node) for node in NODES}
        names = {node: [target["name"] for target in stage.targets(node)] for node in NODES}
        names[NODES[0]] = [*runtimes, *names[NODES[0]]]
        rows = [(name, url, ", ".join(names.get(name, ()))) for name, url in urls.items()]
        self._block(table(("NAME", "URL", "PROFILES"), rows))
        if not runtimes:
            self._line("No CRI-O or containerd debug socket here: the agents profile themselves and the service.")
        self._line(f"All ready after {sum(ready.values()):.1f} s.")

    def answered(self, payload: Mapping[str, Any], answer: Answer) -> None:
        """What became of each alert."""
        self._begin("Send what Alertmanager sends, to POST /webhooks/alertmanager")
        alerts = {alert["fingerprint"]: alert for alert in payload["alerts"]}
        rows = []
        for told in answer.document["alerts"]:
            alert = alerts[told["fingerprint"]]
            labels = alert["labels"]
            rows.append((labels["alertname"], labels["node"], alert["status"], told["outcome"], told.get("run") or ""))
        self._block(table(("ALERT", "NODE", "STATUS", "OUTCOME", "RUN"), rows))
        self._line(f"Answered in {answer.seconds * 1000:.0f} ms.")

    def refused(self, conflict: Answer) -> None:
        """The second Run."""
        self._begin("Ask for a second Run meanwhile: one at a time")
        self._line(f"{conflict.status} {conflict.document.get('title', '')}: {conflict.document.get('detail', '')}")

    def watching(self, stage: Stage, ref: RunRef) -> None:
        """The Run begins."""
        self._begin(f"Watch Run {ref}: every agent profiles the same {stage.seconds} s")

    def killing(self) -> None:
        """The doomed agent's end."""
        self._line(f"killing {DOOMED}'s agent now (kill -9)")

    def finished(self, run: Run, work: Work) -> None:
        """How the Run ended."""
        self._begin("The Run")
        status = run.status
        rows = [
            (
                "Phase",
                status.phase.value + (" (Degraded: something is missing)" if outcomes.is_degraded(status) else ""),
            )
        ]
        if status.start_timestamp and status.finished_timestamp:
            rows.append(("Duration", f"{(status.finished_timestamp - status.start_timestamp).total_seconds():.1f} s"))
        rows.append(("Delivered", ", ".join(agent.name for agent in status.agents)))
        rows += [("Failed", f"{a.name}: {a.reason.value}: {a.message}") for a in status.failed_agents]
        if status.summary:
            rows.append(("Start skew", f"{status.summary.start_skew_seconds * 1000:.1f} ms between the agents"))
            rows.append(("Collected", size(status.summary.bytes)))
        self._block(fields(rows))
        sent = ", ".join(f"{count} {kind}" for kind, count in sorted(work.answered.items()))
        self._line(f"To have something to see, requests were sent meanwhile; answered were {sent}.")
        self._line(f"{work.unanswered} got no answer: {DOOMED}'s agent was gone.")

    def profiles(self, merged: Sequence[MergedProfile]) -> None:
        """Where the time went."""
        self._begin("Where the time went: the merged profiles")
        for profile in merged:
            self._line(f"{profile.target} {profile.type}, merged from {', '.join(profile.nodes)}:")
            self._block(profile.text)

    def metrics(self, lines: Sequence[str]) -> None:
        """What Prometheus sees."""
        self._begin("What Prometheus sees at /metrics (an extract)")
        self._block("\n".join(clean(line) for line in lines))

    def files(self, run: Run, merged: Sequence[MergedProfile]) -> None:
        """What stays."""
        self._begin("The files, which stay")
        output = Path(run.status.output)
        paths = sorted(path for path in output.rglob("*") if path.is_file())
        self._line(f"{output}:")
        self._block(
            table(("FILE", "SIZE"), [(str(path.relative_to(output)), size(path.stat().st_size)) for path in paths])
        )
        if merged:
            self._line("Open one:")
            path = shlex.quote(str(merged[0].path))
            self._block(f"{program()} top {path}\ngo tool pprof -http=: {path}")

    def logs(self, children: Iterable[Child]) -> None:
        """The last lines of every log, when something went wrong."""
        for child in children:
            self._line(f"{child.name}'s log ends with:")
            self._block("\n".join(clean(line)[:_LOG_WIDTH] for line in child.tail()))

    def end(self, stubborn: Sequence[str], seconds: float) -> None:
        """Everything has ended."""
        self.console.print()
        if stubborn:
            self._line(f"{', '.join(stubborn)} had to be killed to end.")
        self._line(f"Everything is stopped; done in {seconds:.0f} s.")

    def _begin(self, title: str) -> None:
        self._step += 1
        self.console.print(f"\n{self._step}. {title}", style="bold", markup=False, highlight=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        self.console.print(
            f"   {clean(text)}" if self._step else clean(text), markup=False, highlight=False, soft_wrap=True
        )

    def _block(self, text: str) -> None:
        for line in text.splitlines():
            self.console.print(f"     {line}", markup=False, highlight=False, soft_wrap=True)


def program() -> str:
    """What a person types for this program: its name where the PATH has it, else how it was called."""
    if shutil.which("nodeobs"):
        return "nodeobs"
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "nodeobs" else f"{shlex.quote(sys.executable)} -m nodeobs.cli"
