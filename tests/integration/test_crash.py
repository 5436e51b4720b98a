"""The service is killed with ``kill -9`` at every stage of a Run, and the Run finishes with all its data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodeobs.pprof import read
from tests.fakes.pprof_target import PprofTarget
from tests.processes import wait_for
from tests.profiles import large_profile
from tests.world import Agent, Service

pytestmark = pytest.mark.slow

SECONDS = 2
NODES = ("node-1", "node-2", "node-3")


@pytest.fixture(scope="module")
def profile() -> bytes:
    return large_profile(8_000_000)


@pytest.fixture
def targets(profile: bytes) -> Iterator[list[PprofTarget]]:
    with ExitStack() as stack:
        yield [stack.enter_context(PprofTarget(profiles={"profile": profile})) for _ in NODES]


@pytest.fixture
def agents(targets: list[PprofTarget], start_agent: Callable[..., Agent]) -> list[Agent]:
    return [start_agent(node, api=target.url) for node, target in zip(NODES, targets, strict=True)]


@pytest.fixture
def service(agents: list[Agent], start_service: Callable[..., Service]) -> Service:
    return start_service(*agents)


def now(service: Service, run: dict[str, Any]) -> None:
    """At once: the Run is Pending, or just being claimed."""


def when_running(service: Service, run: dict[str, Any]) -> None:
    service.wait_run("crash", "Running")


def when_profiling(service: Service, run: dict[str, Any]) -> None:
    service.wait_run("crash", "Running")
    time.sleep(SECONDS / 2)  # a moment in the middle; whichever it is, the outcome must be the same


def when_fetching(service: Service, run: dict[str, Any]) -> None:
    spool = service.data / "spool" / run["metadata"]["uid"]
    wait_for("a file is being fetched", lambda: any(spool.rglob("*.gz*")), every=0.001)


def when_merging(service: Service, run: dict[str, Any]) -> None:
    merged = service.data / "spool" / run["metadata"]["uid"] / "merged"
    wait_for("the profiles are being merged", merged.exists, every=0.001)


def when_complete(service: Service, run: dict[str, Any]) -> None:
    manifest = service.data / "outputs" / run["metadata"]["uid"] / "manifest.json"
    wait_for("the manifest is there", manifest.exists, every=0.0005)


@pytest.mark.parametrize(
    "stage", [now, when_running, when_profiling, when_fetching, when_merging, when_complete], ids=lambda f: f.__name__
)
def test_a_run_survives_kill_9(
    stage: Callable[[Service, dict[str, Any]], None],
    service: Service,
    targets: list[PprofTarget],
    profile: bytes,
) -> None:
    answer = service.create_run("crash", durationSeconds=SECONDS)
    assert answer.status_code == 201, answer.text
    stage(service, answer.json())
    service.program.kill()

    service.start()
    run = service.wait_run("crash")

    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert run["status"]["failedAgents"] == []
    assert [agent["name"] for agent in run["status"]["agents"]] == list(NODES)
    for target in targets:
        assert target.asked == [f"/debug/pprof/profile?seconds={SECONDS}"], "an agent was started twice, or never"
    digest = hashlib.sha256(profile).hexdigest()
    output = Path(run["status"]["output"])
    manifest = service.manifest("crash")
    for node in manifest["nodes"]:
        (piece,) = node["pieces"]
        assert piece["sha256"] == digest
        assert hashlib.sha256((output / piece["file"]).read_bytes()).hexdigest() == digest
    (merged,) = manifest["merged"]
    assert merged["nodes"] == list(NODES)
    samples = read((output / merged["file"]).read_bytes()).samples
    assert len(samples) == len(NODES)
    refused = service.create_run("next", durationSeconds=1)
    assert refused.status_code == 201, "a finished Run holds nothing: " + refused.text


def last_metrics(service: Service) -> set[str]:
    lines = service.call("GET", "/metrics").text.splitlines()
    return {line for line in lines if line.startswith("nodeobs_last_")}


def test_what_happened_last_is_exported_after_kill_9_as_before(service: Service) -> None:
    assert service.create_run("one", durationSeconds=1).status_code == 201
    service.wait_run("one")
    before = service.program.wait_until("last Run is exported", lambda: last_metrics(service))
    assert len(before) == 8
    service.program.kill()
    service.start()
    service.program.wait_until("the same is exported", lambda: last_metrics(service) == before)


def test_a_run_is_handed_over_on_sigterm(service: Service, targets: list[PprofTarget]) -> None:
    assert service.create_run("crash", durationSeconds=SECONDS).status_code == 201
    service.wait_run("crash", "Running")
    seconds = service.program.terminate()
    assert seconds < 4, "two, on a machine that does nothing else"
    assert "handed over" in service.program.said()
    assert all(not target.closing.is_set() for target in targets)

    service.start()
    run = service.wait_run("crash")
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert all(len(target.asked) == 1 for target in targets)
