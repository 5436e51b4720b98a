"""What a Run takes beyond the time that it profiles: the service and three agents as processes, one JSON line.

python -m bench.overhead [--runs 3] [--seconds 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.fakes.pprof_target import PprofTarget
from tests.world import Agent, Service

NODES = ("node-1", "node-2", "node-3")
PROFILE = Path(__file__).parent.parent / "tests" / "data" / "kubelet-cpu.pb.gz"


def seconds_of(run: dict[str, Any]) -> float:
    begin, end = (datetime.fromisoformat(run["status"][name]) for name in ("startTimestamp", "finishedTimestamp"))
    return (end - begin).total_seconds()


def measure(runs: int, seconds: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        agents = []
        for node in NODES:
            target = stack.enter_context(PprofTarget(profiles={"profile": PROFILE.read_bytes()}))
            agents.append(Agent(node, folder, targets={"kubelet": target.url}))
            stack.callback(agents[-1].stop)
        service = Service(folder / "service", agents=[agent.row for agent in agents])
        stack.callback(service.stop)
        overheads = []
        skews = []
        for number in range(runs):
            answer = service.create_run(f"run-{number}", durationSeconds=seconds)
            answer.raise_for_status()
            run = service.wait_run(f"run-{number}")
            if run["status"]["failedAgents"] or run["status"]["phase"] != "Succeeded":
                raise SystemExit(f"the Run did not succeed: {run['status']}")
            overheads.append(round(seconds_of(run) - seconds, 3))
            skews.append(run["status"]["summary"]["startSkewSeconds"])
        return {
            "bench": "overhead",
            "agents": len(NODES),
            "profile_seconds": seconds,
            "overhead_seconds": overheads,
            "overhead_median_seconds": statistics.median(overheads),
            "start_skew_seconds": max(skews),
            "limit_seconds": 1.0,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.runs, arguments.seconds)))
