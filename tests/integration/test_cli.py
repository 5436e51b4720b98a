"""The command line against the real service and a real agent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.pprof import read
from tests.fakes.pprof_target import PprofTarget
from tests.world import Agent, Service

pytestmark = pytest.mark.slow

Invoke = Callable[..., Result]


@pytest.fixture
def nodeobs(
    start_agent: Callable[..., Agent],
    start_service: Callable[..., Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Invoke]:
    """Run ``nodeobs`` with these arguments, in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with PprofTarget() as target:
        service = start_service(start_agent("node-1", kubelet=target.url))

        def invoke(*arguments: str) -> Result:
            return CliRunner().invoke(main, arguments, env={"NODEOBS_SERVER": service.url}, catch_exceptions=False)

        yield invoke


def test_a_run_from_start_to_files(nodeobs: Invoke) -> None:
    started = nodeobs("run", "start", "first", "--duration", "1", "--profile", "cpu", "--profile", "heap")
    assert started.exit_code == 0, started.output
    assert "Running: profiling 1 node for 1 s" in started.stderr
    assert "first" in nodeobs("run", "list").stdout
    assert json.loads(nodeobs("run", "get", "latest", "-o", "json").stdout)["status"]["phase"] == "Succeeded"

    pulled = nodeobs("pull", "latest")
    assert pulled.exit_code == 0, pulled.output
    files = sorted(str(path) for path in Path("first").rglob("*.pb.gz"))
    assert files == [
        f"first/{where}/kubelet-{kind}.pb.gz" for where in ("merged", "node-1") for kind in ("cpu", "heap")
    ]
    assert all(read(Path(name).read_bytes()).samples for name in files)
    assert json.loads(Path("first/manifest.json").read_text())["run"]["name"] == "first"

    of_run = nodeobs("top", "latest", "-o", "json")
    of_file = nodeobs("top", "first/merged/kubelet-cpu.pb.gz", "-o", "json")
    assert json.loads(of_run.stdout)["functions"] == json.loads(of_file.stdout)["functions"] != []


def test_refusals_have_their_exit_codes(nodeobs: Invoke) -> None:
    assert nodeobs("run", "start", "first", "--duration", "60", "--no-wait").exit_code == 0
    second = nodeobs("run", "start", "--duration", "1")
    assert second.exit_code == 4
    assert "nodeobs run wait nodeobs/first" in second.stderr
    assert nodeobs("pull", "first").exit_code == 5
    assert nodeobs("run", "wait", "first", "--timeout", "0.5").exit_code == 124
    assert nodeobs("run", "cancel", "latest").exit_code == 0
    ended = nodeobs("run", "wait", "latest")
    assert ended.exit_code == 1
    assert "Cancelled" in ended.stdout
    assert nodeobs("run", "cancel", "nosuch").exit_code == 5
    assert nodeobs("run", "start", "--node", "Not A Name").exit_code == 2
    assert nodeobs("run", "start", "--node-observability", "nosuch").exit_code == 2
