"""``nodeobs demo`` as a stranger runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodeobs.pprof import read

pytestmark = pytest.mark.slow


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nodeobs.cli", "demo", "--dir", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            text = (path.parent / "cmdline").read_bytes() + path.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(folder).encode() in text:
            found.append(text.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def test_an_alert_becomes_a_merged_profile(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    stdout, stderr = demo(folder, "--seconds", "3", "--output", "json").communicate(timeout=120)
    assert stderr == ""
    result = json.loads(stdout)
    status = result["run"]["status"]
    assert status["phase"] == "Succeeded"
    assert {agent["name"] for agent in status["agents"]} == {"node-1", "node-2"}
    (failed,) = status["failedAgents"]
    assert (failed["name"], failed["reason"]) == ("node-3", "Unreachable")
    assert result["notification"]["counts"] == {"created": 3, "unmatched": 1, "resolved": 1}
    assert result["conflict"]["status"] == 409
    assert result["conflict"]["holder"] == f"nodeobs/{result['run']['metadata']['name']}"
    by_target = {profile["target"]: profile for profile in result["merged"]}
    assert set(by_target["agent"]["nodes"]) == {"node-1", "node-2"}
    assert by_target["service"]["nodes"] == ["node-1"]
    for profile in result["merged"]:
        assert read(Path(profile["file"]).read_bytes()).samples
        assert profile["total"] > 0
    assert 'nodeobs_last_run_failed_agents{nodeobservability="cluster"} 1.0' in result["metrics"]
    assert result["work"]["redelivered notification: 200"] > 10
    assert processes_in(folder) == []


def test_it_reads_well(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = demo(folder, "--seconds", "2")
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    assert [line[0] for line in stdout.splitlines() if line[:1].isdigit()] == list("12345678")
    for text in ("killing node-3's agent now", "409 Conflict", "node-3: Unreachable", "go tool pprof", " top /"):
        assert text in stdout
    assert "Traceback" not in stdout
    tokens = (folder / "service" / "tokens").read_text().splitlines()[1:]
    assert not [token for token in tokens if token.split(",")[0] in stdout]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_nothing_is_left_however_it_ends(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "demo"
    with demo(folder, "--seconds", "30") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("4."):
                break
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == code
    end = time.monotonic() + 30
    while left := processes_in(folder):
        assert time.monotonic() < end, left
        time.sleep(0.1)
