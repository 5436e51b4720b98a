"""The service and agents as real processes on loopback, and a client for the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.processes import Program, free_port


class Agent:
    """One node's agent, as a process."""

    def __init__(self, node: str, folder: Path, *, targets: Mapping[str, str]) -> None:
        self.node = node
        self.folder = folder / node
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.targets = dict(targets)
        self.program = self.start()

    def start(self) -> Program:
        """Start it (again), on its port."""
        argv: list[str] = [sys.executable, "-m", "nodeobs.nodeagent", "--port", str(self.port)]
        argv += ["--storage", str(self.folder / "storage"), "--crio-socket", "", "--containerd-socket", ""]
        argv += [part for name, where in self.targets.items() for part in ("--target", f"{name}={where}")]
        program = Program(f"agent {self.node}", argv, log=self.folder / "agent.log")
        self.program = program.ready("agent is ready", lambda: is_ok(f"{self.url}/readyz"))
        return self.program

    def stop(self) -> None:
        """End the process, whichever it is by now."""
        self.program.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def row(self) -> dict[str, Any]:
        """Its row in the service's configuration."""
        return {"name": self.node, "address": f"127.0.0.1:{self.port}"}


class Service:
    """The service as a process: gunicorn, as the Procfile starts it."""

    def __init__(
        self, folder: Path, *, agents: Sequence[Mapping[str, Any]], environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.port = free_port()
        self.headers: dict[str, str] = {}
        self.environ = {
            "NODEOBS_BIND": f"127.0.0.1:{self.port}",
            "NODEOBS_DATA_DIR": str(self.data),
            "NODEOBS_AGENTS": json.dumps(list(agents)),
            **(environ or {}),
        }
        self.program = self.start()

    def start(self) -> Program:
        """Start it (again), on its port and with its data."""
        argv = [sys.executable, "-m", "gunicorn", "app:app"]
        program = Program("service", argv, log=self.folder / "service.log", environ=self.environ)
        self.program = program.ready("service is ready", lambda: is_ok(f"{self.url}/readyz"))
        return self.program

    def stop(self) -> None:
        """End the process, whichever it is by now."""
        self.program.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call of the API."""
        url = f"{self.url}{path}"
        return httpx.request(method, url, headers=self.headers, timeout=35.0, trust_env=False, **options)

    def create_run(self, name: str, **spec: Any) -> httpx.Response:
        """POST a Run on the NodeObservability ``cluster``."""
        body = {"metadata": {"name": name}, "spec": {"nodeObservabilityRef": {"name": "cluster"}, **spec}}
        return self.call("POST", "/api/v1/runs", json=body)

    def runs(self) -> list[dict[str, Any]]:
        """All Runs, newest first."""
        answer = self.call("GET", "/api/v1/runs")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def run(self, name: str) -> dict[str, Any]:
        """The Run as the API shows it."""
        answer = self.call("GET", f"/api/v1/runs/nodeobs/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_run(self, name: str, *phases: str, seconds: float = 90.0) -> dict[str, Any]:
        """The Run once it is in one of these phases; by default a final one."""
        wanted = phases or ("Succeeded", "Failed", "Cancelled", "Rejected")

        def probe() -> dict[str, Any] | None:
            run = self.run(name)
            return run if run["status"]["phase"] in wanted else None

        return self.program.wait_until(f"Run {name} is {' or '.join(wanted)}", probe, seconds=seconds)

    def manifest(self, name: str) -> dict[str, Any]:
        """The Run's manifest."""
        answer = self.call("GET", f"/api/v1/runs/nodeobs/{name}/output")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def metric(self, name: str, **labels: str) -> float | None:
        """Value of one series, or None."""
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"{name}{{{wanted}}} " if wanted else f"{name} "
        for line in self.call("GET", "/metrics").text.splitlines():
            if line.startswith(series):
                return float(line.removeprefix(series))
        return None


def is_ok(url: str) -> bool:
    """Whether a GET answers 200."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
