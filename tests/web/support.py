"""Documents, a token file and a real service for the tests of the web layer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from werkzeug.test import TestResponse

from nodeobs.model import (
    Metadata,
    NodeObservability,
    NodeObservabilityRef,
    ProfileType,
    Run,
    RunSpec,
    RunSummary,
    TriggerKind,
)
from nodeobs.outputs.manifest import Manifest, ManifestRun, MergedFile, NodeResult, Piece
from tests.processes import Program, free_port
from tests.world import is_ok

RUNS = "/api/v1/runs"
OBSERVABILITIES = "/api/v1/nodeobservabilities"
WEBHOOK = "/webhooks/alertmanager"

VIEWER, RUNNER, ADMIN = ("viewer-token-0123456789", "runner-token-0123456789", "admin-token-0123456789")
TOKENS = f"""\
# token,user,role

{VIEWER},vera,viewer
{RUNNER},rupert,viewer,runner
{ADMIN},ada,admin
"""

TRIGGERS = """\
triggers:
  - name: kubelet-slow
    matchers: ['alertname="KubeletSlow"']
    nodeObservability: cluster
    nodesFrom: [node]
    cooldown: 30m
"""


def make_observability(name: str = "cluster") -> NodeObservability:
    return NodeObservability(metadata=Metadata(name=name))


def make_run(name: str, *, namespace: str = "nodeobs", parent: str = "cluster") -> Run:
    return Run(
        metadata=Metadata(name=name, namespace=namespace),
        spec=RunSpec(node_observability_ref=NodeObservabilityRef(name=parent)),
    )


def run_body(name: str | None = None, *, parent: str = "cluster", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name} if name else {},
        "spec": {"nodeObservabilityRef": {"name": parent}, **spec},
    }


def make_manifest(run: Run) -> Manifest:
    pieces = (Piece(target="kubelet", profile=ProfileType.CPU, file="node-1/kubelet-cpu.pb.gz", bytes=10_000),)
    merged = MergedFile(target="kubelet", profile=ProfileType.CPU, file="merged/kubelet-cpu.pb.gz", bytes=6)
    return Manifest(
        run=ManifestRun(
            namespace=run.metadata.namespace,
            name=run.metadata.name,
            uid=run.metadata.uid,
            node_observability="cluster",
            trigger=TriggerKind.API,
            profiles=(ProfileType.CPU,),
            duration_seconds=30,
        ),
        finished_at=datetime.now(UTC),
        summary=RunSummary(nodes=1, bytes=10_006),
        nodes=(NodeResult(name="node-1", pieces=pieces),),
        merged=(merged,),
    )


def notification(*nodes: str, starts_at: str = "2026-01-01T03:00:00Z", status: str = "firing") -> dict[str, Any]:
    """What Alertmanager posts: one alert KubeletSlow for each node."""
    alerts = [
        {
            "status": status,
            "labels": {"alertname": "KubeletSlow", "node": node},
            "annotations": {},
            "startsAt": starts_at,
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus/graph",
            "fingerprint": f"{abs(hash(node)):016x}"[:16],
        }
        for node in nodes
    ]
    return {
        "version": "4",
        "groupKey": '{}:{alertname="KubeletSlow"}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "nodeobs",
        "groupLabels": {"alertname": "KubeletSlow"},
        "commonLabels": {"alertname": "KubeletSlow"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": alerts,
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_problem(answer: TestResponse | httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """The answer's problem document, which must hold all ``words``."""
    text = answer.text
    assert answer.status_code == status, text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(text)
    assert document["status"] == status
    assert document["type"]
    assert document["title"]
    for word in words:
        assert word in text, f"{word!r} is not in {text}"
    return document


class RealService:
    """gunicorn with the service, as ``nodeobs serve`` starts it."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.data = folder / "data"
        self.tls = "NODEOBS_TLS_CERT_FILE" in (environ or {})
        self.program = Program(
            "service",
            [sys.executable, "-m", "gunicorn", "-c", "python:nodeobs.web.gunicorn_conf", COMMAND],
            log=folder / "service.log",
            environ={
                "NODEOBS_BIND": f"127.0.0.1:{self.port}",
                "NODEOBS_DATA_DIR": str(self.data),
                "WEB_CONCURRENCY": "4",  # is to be ignored
                **(environ or {}),
            },
        )

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        if not self.tls:
            self.program.wait_until("service is ready", lambda: is_ok(f"{self.url}/readyz"))
            return
        self.program.wait_until("service is ready", lambda: "leading" in self.program.said())


COMMAND = "nodeobs.web.composition:application()"
