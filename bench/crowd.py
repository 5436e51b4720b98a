"""How fast notifications are answered while a Run drives a thousand agents, from its start until its output is merged.

The agents are simulated in a few processes, with TLS. Beside it, the same load with no Run going, in the same run: the
ratio is what driving costs those who call. One JSON line.

python -m bench.crowd [--agents 1000] [--rate 100] [--profile-seconds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.webhook import RULES, load, memory
from tests.fakes.agent_simulator import SimulatorProcess, issue_certificate
from tests.world import Service

PROCESSES = 2


def measure(agents: int, rate: int, profile_seconds: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ca_file, certificate = issue_certificate(folder)
        rows = []
        for number in range(PROCESSES):
            simulator = SimulatorProcess(agents // PROCESSES, certificate)
            stack.callback(simulator.close)
            # They stand for other machines' processors: here they must not take the service's.
            os.setpriority(os.PRIO_PROCESS, simulator.process.pid, 19)
            rows += [
                {"name": f"node-{number}-{index}", "address": f"127.0.0.1:{port}"}
                for index, port in enumerate(simulator.ports)
            ]
        rules = folder / "triggers.yaml"
        # New alerts are refused in both loads alike: the store is asked to create a Run, and the rule says no.
        rules.write_text(RULES.format(seconds=profile_seconds).replace("cluster", "nowhere"))
        environ = {
            "NODEOBS_TRIGGERS_FILE": str(rules),
            "NODEOBS_AGENT_TLS": "true",
            "NODEOBS_AGENT_CA_FILE": str(ca_file),
        }
        service = Service(folder / "service", agents=rows, environ=environ)
        stack.callback(service.stop)
        quiet = load(service.port, rate=rate, seconds=10)
        answer = service.create_run("crowd", durationSeconds=profile_seconds)
        answer.raise_for_status()
        busy = load(service.port, rate=rate, seconds=profile_seconds + 20)
        held = memory(service.program.pid)
        run = service.wait_run("crowd", seconds=180)
        return {
            "bench": "crowd",
            "agents": len(rows),
            "delivered": run["status"]["summary"]["nodes"] - run["status"]["summary"]["failed"],
            "start_skew_seconds": run["status"]["summary"]["startSkewSeconds"],
            "rate": rate,
            "quiet": {key: quiet[key] for key in ("p50_ms", "p99_ms", "max_ms")},
            "driving": {key: busy[key] for key in ("p50_ms", "p99_ms", "max_ms")},
            "p99_ratio": round(busy["p99_ms"] / quiet["p99_ms"], 1),
            "limit_p99_ms": 100,
            "memory_after": held,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--profile-seconds", type=int, default=10)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.agents, arguments.rate, arguments.profile_seconds)))
