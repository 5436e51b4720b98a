"""How fast the API server's questions are answered, quiet and while a Run over many agents goes. One JSON line.

The service runs in mode kubernetes at a real API server. The reviews come from a process of their own, over TLS, as the
API server would send them: creations of Runs, half of them on a NodeObservability that is free, half on the one that
the Run is on, which are denied meanwhile. For scale, the same load goes to a Flask view that does nothing, on the same
server settings. Latencies count from when a review was due.

python -m bench.admission [--agents 200] [--rate 100] [--seconds 10]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flask import Flask

from nodeobs.kube.paths import CONFIG_MAPS
from nodeobs.kube.rbac import CA_CONFIG_MAP
from nodeobs.model import API_VERSION
from tests.cluster.world import KubeWorld
from tests.fakes.agent_simulator import SimulatorProcess, issue_certificate
from tests.lab.alone import api_server_alone
from tests.processes import Program, free_port, wait_for

PATH = "/webhooks/validate"
CONNECTIONS = 8


def bare() -> Flask:
    """An application that reads a body and answers."""
    app = Flask("bare")
    app.extensions["nodeobs"] = SimpleNamespace(stop=threading.Event(), drive=lambda stop: stop.wait())
    app.add_url_rule(PATH, "view", lambda: {"response": {"allowed": True}}, methods=["POST"])
    return app


def review(namespace: str, parent: str, number: int) -> bytes:
    """Somebody creates a Run."""
    name = f"bench-{number}"
    run = {
        "apiVersion": API_VERSION,
        "kind": "NodeObservabilityRun",
        "metadata": {"name": name, "namespace": namespace, "uid": str(number), "labels": {"a": "b"}},
        "spec": {
            "nodeObservabilityRef": {"name": parent},
            "profiles": ["cpu"],
            "durationSeconds": 30,
            "nodes": [f"node-{index}" for index in range(20)],
        },
        "status": {"phase": "Pending"},
    }
    group, version = API_VERSION.split("/")
    request = {
        "uid": str(number),
        "resource": {"group": group, "version": version, "resource": "nodeobservabilityruns"},
        "operation": "CREATE",
        "name": name,
        "namespace": namespace,
        "userInfo": {"username": "admin", "groups": ["system:masters", "system:authenticated"]},
        "object": run,
        "oldObject": None,
        "dryRun": False,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def load(address: str, port: int, authority: str, bodies: Sequence[bytes], rate: int) -> dict[str, Any]:
    """Send them at a fixed rate over a few connections that stay open."""
    context = ssl.create_default_context(cadata=authority)
    context.check_hostname = False
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    numbers = itertools.count()
    began = time.monotonic() + 0.5

    def send() -> None:
        connection = http.client.HTTPSConnection(address, port, timeout=30, context=context)
        connection.connect()
        while (number := next(numbers)) < len(bodies):
            due = began + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", PATH, bodies[number], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            document = json.loads(answer.read())
            latencies.append(time.monotonic() - due)
            outcomes[_outcome(answer.status, document)] += 1
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


def _outcome(status: int, document: dict[str, Any]) -> str:
    if status != 200:
        return str(status)
    response = document["response"]
    return "allowed" if response["allowed"] else str(response["status"]["details"]["causes"][0]["reason"])


@contextmanager
def bare_server(folder: Path, address: str) -> Iterator[tuple[int, str]]:
    """Its port and its authority."""
    port = free_port()
    ca_file, certificate = issue_certificate(folder, address)
    environ = {
        "NODEOBS_BIND": f"127.0.0.1:{port}",
        "NODEOBS_DATA_DIR": str(folder),
        "NODEOBS_TLS_CERT_FILE": str(certificate),
        "NODEOBS_TLS_KEY_FILE": str(certificate),
    }
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:nodeobs.web.gunicorn_conf", "bench.admission:bare()"]
    with Program("bare", argv, log=folder / "bare.log", environ=environ) as program:
        program.wait_until("bare view listens", lambda: "Booting worker" in program.said())
        yield port, ca_file.read_text()


def measure(agents: int, rate: int, seconds: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spawn = multiprocessing.get_context("spawn")
        other_process = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
        world = stack.enter_context(closing(KubeWorld(stack.enter_context(api_server_alone()), folder)))
        ca_file, certificate = issue_certificate(folder, world.address)
        simulator = SimulatorProcess(agents, certificate, host=world.address)
        stack.callback(simulator.close)
        # They stand for other machines' processors: here they must not take the service's.
        os.setpriority(os.PRIO_PROCESS, simulator.process.pid, 19)
        world.agents_at({f"node-{number}": port for number, port in enumerate(simulator.ports)})
        world.start(NODEOBS_AGENT_TLS="true", NODEOBS_AGENT_CA_FILE=str(ca_file))
        for name in ("cluster", "free"):
            world.observability(name)
        config_map = json.loads(world.admin.get(CONFIG_MAPS.item(CA_CONFIG_MAP, world.namespace)))
        port = world.replicas[0].port

        def ask(seconds: int) -> dict[str, Any]:
            bodies = [
                review(world.namespace, ("free", "cluster")[number % 2], number) for number in range(rate * seconds)
            ]
            return other_process.submit(load, world.address, port, config_map["data"]["ca.crt"], bodies, rate).result()

        ask(1)
        quiet = ask(seconds)
        world.run("crowd", durationSeconds=seconds)
        wait_for("the Run is known", lambda: world.get_run("crowd")["status"]["phase"] != "Pending")
        driving = ask(seconds + 10)
        run = world.wait_run("crowd", seconds=180)
        world.replicas[0].program.kill()
        with bare_server(folder, "127.0.0.1") as (bare_port, authority):
            bodies = [review(world.namespace, "free", number) for number in range(rate * seconds)]
            scale = other_process.submit(load, "127.0.0.1", bare_port, authority, bodies, rate).result()
        summary = run["status"]["summary"]
        return {
            "bench": "admission",
            "agents": agents,
            "delivered": summary["nodes"] - summary["failed"],
            "rate": rate,
            "quiet": quiet,
            "driving": driving,
            "bare_view": {key: scale[key] for key in ("p50_ms", "p99_ms", "max_ms")},
            "p99_ratio_quiet": round(quiet["p99_ms"] / scale["p99_ms"], 1),
            "p99_ratio_driving": round(driving["p99_ms"] / scale["p99_ms"], 1),
            "limit_p99_ms": {"quiet": 50, "driving": 100},
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.agents, arguments.rate, arguments.seconds)))
