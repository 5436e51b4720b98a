"""Progress while a Run goes, and Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from rich.console import Console

from nodeobs.cli.failures import Failure
from nodeobs.cli.following import follow
from nodeobs.cli.outcomes import description
from nodeobs.cli.progress import Line, shown
from nodeobs.cli.service import RunRef, Service
from nodeobs.model import AgentRef, Condition, FailedAgent, FailureReason, Phase, Run, replace
from tests.builders import START, make_run
from tests.cli.conftest import FakeService, as_problem, as_run

RUN = "/api/v1/runs/nodeobs/run-1"
REF = RunRef("nodeobs", "run-1")


def running(*, failed: str = "") -> Run:
    run = make_run(phase=Phase.RUNNING, agents=(AgentRef(name="node-1"),))
    agents = (FailedAgent(name=failed, reason=FailureReason.TIMEOUT, message="[bold]late[/bold]"),) if failed else ()
    status = replace(run.status, start_timestamp=START, failed_agents=agents)
    return replace(run, metadata=replace(run.metadata, resource_version="7"), status=status)


def failed_run() -> Run:
    run = running(failed="node-1")
    return replace(run, status=replace(run.status, phase=Phase.FAILED))


def rendered(run: Run, *, after: float) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    line = Line(lambda: START + timedelta(seconds=after))
    line.run = run
    with console.capture() as captured:
        console.print(line.render())
    return captured.get().strip()


@pytest.mark.parametrize(("after", "left"), [(0, "30 s left"), (12, "18 s left"), (99, "0 s left"), (-5, "30 s left")])
def test_the_line_tells_the_seconds_left(after: float, left: str) -> None:
    line = rendered(running(failed="node-3"), after=after)
    assert "profiling" in line
    assert left in line
    assert "1 node, 1 failed" in line


@pytest.mark.parametrize(
    ("phase", "text"),
    [(Phase.PENDING, "waiting for its turn"), (Phase.RETRIEVING, "fetching the files"), (Phase.FAILED, "")],
)
def test_the_line_in_other_phases(phase: Phase, text: str) -> None:
    line = rendered(make_run(phase=phase), after=1)
    assert text in line
    assert "left" not in line
    assert bool(text) == bool(line)


def test_on_a_terminal_the_line_moves_and_news_stay_above_it() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=True, color_system=None)
    with shown(console, lambda: START) as show:
        show(running())
        show(running(failed="node-3"))
        show(make_run(phase=Phase.SUCCEEDED))
    text = screen.getvalue()
    assert "\x1b[" in text
    assert text.count("node-3 failed: Timeout: [bold]late[/bold]") == 1
    assert text.count("nodeobs/run-1: Succeeded") == 1


def test_elsewhere_there_are_plain_lines() -> None:
    screen = io.StringIO()
    with shown(Console(file=screen, width=20), lambda: START) as show:
        for run in (make_run(), running(), running(), running(failed="node-3"), failed_run()):
            show(run)
    assert screen.getvalue().splitlines() == [
        "nodeobs/run-1: Pending: waiting for its turn",
        "nodeobs/run-1: Running: profiling 1 node for 30 s",
        "  node-3 failed: Timeout: [bold]late[/bold]",
        "  node-1 failed: Timeout: [bold]late[/bold]",
        "nodeobs/run-1: Failed",
    ]


def test_what_keeps_a_run_is_told_once() -> None:
    def kept(phase: Phase, message: str) -> Run:
        run = make_run(phase=phase)
        condition = Condition(type="Finished", status="False", reason=phase.value, message=message)
        return replace(run, status=replace(run.status, conditions=(condition,)))

    waiting = kept(Phase.PENDING, "waiting for the agents, trying again: no node is selected")
    full = kept(Phase.RETRIEVING, "cannot store the output, trying again: no space is left")
    screen = io.StringIO()
    with shown(Console(file=screen, width=20), lambda: START) as show:
        for run in (make_run(), waiting, waiting, kept(Phase.RETRIEVING, "fetching profiles"), full, full):
            show(run)
    assert screen.getvalue().splitlines() == [
        "nodeobs/run-1: Pending: waiting for its turn",
        "  waiting for the agents, trying again: no node is selected",
        "nodeobs/run-1: Retrieving: fetching the files",
        "  cannot store the output, trying again: no space is left",
    ]
    assert rendered(full, after=1).endswith("waiting")
    assert "Pending: waiting for the agents, trying again: no node is selected" in description(waiting, START)


def test_a_service_that_never_comes_back_is_given_up(service: FakeService) -> None:
    service.on("GET", RUN, as_run(running()), as_problem(503, "away"))
    client = Service(service.url)
    with pytest.raises(Failure) as raised:
        for _ in follow(client, REF, patience=0.7):
            pass
    client.close()
    assert raised.value.exit_code == 6
    assert len(service.asked) > 2


def test_a_service_that_refuses_is_not_asked_again(service: FakeService) -> None:
    service.on("GET", RUN, as_run(running()), as_problem(401, "who are you"))
    client = Service(service.url)
    with pytest.raises(Failure):
        for _ in follow(client, REF):
            pass
    client.close()
    assert len(service.asked) == 2


def interrupt_while_waiting(service: FakeService, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A real process that is sent SIGINT in the middle of a long poll."""
    polling, release = threading.Event(), threading.Event()
    service.on("GET", RUN, as_run(running()), as_run(running(), hold=release, held=polling))
    service.on("POST", "/api/v1/runs", as_run(running(), 201))
    process = subprocess.Popen(
        [sys.executable, "-m", "nodeobs.cli", *arguments, "--server", service.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NODEOBS_NAMESPACE": "nodeobs"},
    )
    try:
        assert polling.wait(30)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        release.set()
        process.kill()
        process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.mark.parametrize("arguments", [("run", "wait", "run-1"), ("run", "start")])
def test_ctrl_c_ends_the_waiting_and_not_the_run(service: FakeService, arguments: tuple[str, ...]) -> None:
    done = interrupt_while_waiting(service, *arguments)
    assert done.returncode == 130
    assert "nodeobs/run-1 goes on; stop it with `nodeobs run cancel nodeobs/run-1`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [asked for asked in service.asked if "cancel" in asked.path or asked.method == "DELETE"]


def test_ctrl_c_in_json_leaves_standard_output_alone(service: FakeService) -> None:
    done = interrupt_while_waiting(service, "run", "wait", "run-1", "-o", "json")
    assert (done.returncode, done.stdout) == (130, "")
