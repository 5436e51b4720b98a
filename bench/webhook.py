"""How fast notifications are answered while a Run goes, and what the service's processes hold in memory. One JSON line.

For scale, the same load goes to a Flask view that does nothing, on the same server settings. Latencies count from when
a request was due, so that a stall is seen by all that it delays.

python -m bench.webhook [--rate 100] [--seconds 10]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flask import Flask

from tests.fakes.pprof_target import PprofTarget
from tests.processes import Program, free_port
from tests.world import Agent, Service, is_ok

NODES = ("node-1", "node-2", "node-3")
PROFILE = Path(__file__).parent.parent / "tests" / "data" / "kubelet-cpu.pb.gz"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CONNECTIONS = 8
RULES = """\
triggers:
  - name: bench
    matchers: ['alertname="Bench"']
    nodeObservability: cluster
    nodesFrom: [node]
    durationSeconds: {seconds}
    cooldown: 0
"""


def bare() -> Flask:
    """An application that reads a body and answers."""
    app = Flask("bare")
    app.extensions["nodeobs"] = SimpleNamespace(stop=threading.Event(), drive=lambda stop: stop.wait())
    app.add_url_rule("/readyz", "ready", lambda: "ok")
    app.add_url_rule("/webhooks/alertmanager", "view", lambda: {"alerts": []}, methods=["POST"])
    return app


def notification(number: int) -> bytes:
    """Every second one is a redelivery of the first, the others are alerts that are new."""
    started = BEGIN + timedelta(seconds=number if number % 2 else 0)
    alerts = [
        {
            "status": "firing",
            "labels": {"alertname": "Bench", "node": node},
            "annotations": {"summary": "something is slow"},
            "startsAt": started.isoformat(),
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": f"{index:016x}",
        }
        for index, node in enumerate(NODES)
    ]
    return json.dumps({"version": "4", "groupKey": "{}:{}", "status": "firing", "alerts": alerts}).encode()


def load(port: int, *, rate: int, seconds: int) -> dict[str, Any]:
    """Send notifications at a fixed rate over a few connections."""
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    numbers = itertools.count(1)
    total = rate * seconds
    began = time.monotonic() + 0.2

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while (number := next(numbers)) <= total:
            due = began + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", "/webhooks/alertmanager", notification(number))
            answer = connection.getresponse()
            document = json.loads(answer.read())
            latencies.append(time.monotonic() - due)
            outcomes.update(alert["outcome"] for alert in document["alerts"])
            outcomes[str(answer.status)] += 1
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    return {
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
        "max_ms": round(latencies[-1] * 1000, 2),
        "outcomes": dict(sorted(outcomes.items())),
    }


def memory(master: int) -> dict[str, float]:
    """MB held by gunicorn's master and its worker: the worker's resident set, and what all hold together."""
    pids = [master, *children(master)]
    return {
        "worker_rss_mb": max(field(pid, "Rss") for pid in pids[1:]),
        "pss_mb": round(sum(field(pid, "Pss") for pid in pids), 1),
    }


def children(pid: int) -> list[int]:
    below = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*below, *(grandchild for child in below for grandchild in children(child))]


def field(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise KeyError(name)


@contextmanager
def bare_server(folder: Path) -> Iterator[int]:
    port = free_port()
    environ = {"NODEOBS_BIND": f"127.0.0.1:{port}", "NODEOBS_DATA_DIR": str(folder)}
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:nodeobs.web.gunicorn_conf", "bench.webhook:bare()"]
    with Program("bare", argv, log=folder / "bare.log", environ=environ) as program:
        program.wait_until("bare view answers", lambda: is_ok(f"http://127.0.0.1:{port}/readyz"))
        yield port


def measure(rate: int, seconds: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rules = folder / "triggers.yaml"
        rules.write_text(RULES.format(seconds=seconds + 5))
        agents = []
        for node in NODES:
            target = stack.enter_context(PprofTarget(profiles={"profile": PROFILE.read_bytes()}))
            agents.append(Agent(node, folder, targets={"kubelet": target.url}))
            stack.callback(agents[-1].stop)
        environ = {"NODEOBS_TRIGGERS_FILE": str(rules)}
        service = Service(folder / "service", agents=[agent.row for agent in agents], environ=environ)
        stack.callback(service.stop)
        idle = memory(service.program.pid)
        created = service.call("POST", "/webhooks/alertmanager", content=notification(0)).json()
        if created["counts"] != {"created": len(NODES)}:
            raise SystemExit(f"no Run was created: {created}")
        name = created["runs"][0].split("/")[1]
        service.wait_run(name, "Running")
        loaded = load(service.port, rate=rate, seconds=seconds)
        phase = service.run(name)["status"]["phase"]
        after = memory(service.program.pid)
        service.stop()
        with bare_server(folder) as port:
            scale = load(port, rate=rate, seconds=seconds)
        return {
            "bench": "webhook",
            "rate": rate,
            "seconds": seconds,
            **loaded,
            "run_phase_after": phase,
            "bare_view": {key: scale[key] for key in ("p50_ms", "p99_ms", "max_ms")},
            "p50_ratio": round(loaded["p50_ms"] / scale["p50_ms"], 1),
            "p99_ratio": round(loaded["p99_ms"] / scale["p99_ms"], 1),
            "limit_p99_ms": 100,
            "memory_idle": idle,
            "memory_after": after,
            "limit_worker_rss_mb": 80,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.rate, arguments.seconds)))
