"""What happens in the demo, act by act; each returns what it saw."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import httpx

from nodeobs.cli.demo.alert import grown, notification
from nodeobs.cli.demo.children import Children
from nodeobs.cli.demo.stage import DOOMED, NODES, OBSERVABILITY, Stage
from nodeobs.cli.demo.work import Request, Work
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.following import follow
from nodeobs.cli.service import RunRef, Service
from nodeobs.model import Phase, Run

_RATE = 120.0
"""Requests a second of the work: half to the service, half to the agents."""
_MORE_ALERTS = 500
_KILL_AFTER = 0.4
"""Of the profile's duration."""
_METRICS = (
    "nodeobs_runs_total",
    "nodeobs_run_duration_seconds_sum",
    "nodeobs_run_duration_seconds_count",
    "nodeobs_last_run_agents",
    "nodeobs_last_run_failed_agents",
    "nodeobs_last_run_start_skew_seconds",
    "nodeobs_last_output_bytes",
    "nodeobs_last_output_timestamp_seconds",
    "nodeobs_last_output_info",
    "nodeobs_alert_notifications_total",
)


class Answer(NamedTuple):
    """What the service said, and how long it took."""

    status: int
    document: dict[str, Any]
    seconds: float


def start_everything(stage: Stage, children: Children, environ: Mapping[str, str]) -> dict[str, float]:
    """Start the service and the agents; seconds until each was ready."""
    clean = {name: value for name, value in environ.items() if not name.startswith(("NODEOBS_", "NODE_"))}
    python = (sys.executable, "-P", "-m")
    config = str(stage.folder / "service" / "config.yaml")
    children.start(
        "service", [*python, "nodeobs.cli", "serve", "--config", config], environ=clean, log=stage.log("service")
    )
    for node in NODES:
        command = [*python, "nodeobs.nodeagent", *_agent_options(stage, node)]
        children.start(node, command, environ=clean, log=stage.log(node))
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        urls = {"service": stage.url} | {node: stage.agent_url(node) for node in NODES}
        return {
            name: children.wait_ready(name, partial(_answers, client, f"{url}/readyz")) for name, url in urls.items()
        }


def send_alert(stage: Stage, payload: dict[str, Any]) -> Answer:
    """Be Alertmanager."""
    answer = _post(stage, "/webhooks/alertmanager", stage.alert_token, payload)
    return _expect(answer, 200, "the notification")


def start_second_run(stage: Stage) -> Answer:
    """Ask for another Run while the first is going; it must be refused."""
    document = {"spec": {"nodeObservabilityRef": {"name": OBSERVABILITY}, "durationSeconds": 5}}
    return _expect(_post(stage, "/api/v1/runs", stage.admin_token, document), 409, "a second Run meanwhile")


def watch(service: Service, ref: RunRef, stage: Stage, *, show: Callable[[Run], None], kill: Callable[[], None]) -> Run:
    """Follow the Run to its end; the doomed agent is killed in the middle of its profile."""
    kill_at: float | None = None
    killed = False
    run: Run | None = None
    for run in _often(service, ref, stage.seconds):
        show(run)
        if run.status.phase is Phase.RUNNING and kill_at is None:
            kill_at = time.monotonic() + _KILL_AFTER * stage.seconds
        if kill_at is not None and not killed and time.monotonic() >= kill_at:
            kill()
            killed = True
    if run is None or not killed:
        raise Failure(f"{ref} ended before {DOOMED}'s agent could be killed")
    return run


def metrics(stage: Stage) -> list[str]:
    """The lines about Runs in the service's metrics."""
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        answer = client.get(f"{stage.url}/metrics", headers=_bearer(stage.admin_token))
    lines = answer.text.splitlines()
    return [
        line for line in lines if line.startswith(_METRICS) and not line.endswith(" 0.0") and "_created" not in line
    ]


def work_on(stage: Stage, payload: dict[str, Any]) -> Work:
    """What keeps the profiled processes busy."""
    admin, again = stage.admin_token, grown(payload, _MORE_ALERTS)
    requests = [
        Request("redelivered notification", "POST", f"{stage.url}/webhooks/alertmanager", stage.alert_token, again),
        Request("list of Runs", "GET", f"{stage.url}/api/v1/runs", admin),
        Request("scrape of the service", "GET", f"{stage.url}/metrics", admin),
        *(
            Request("scrape of an agent", "GET", f"{stage.agent_url(node)}/metrics", stage.agent_token)
            for node in NODES
        ),
    ]
    return Work(requests, rate=_RATE)


def alert_payload() -> dict[str, Any]:
    """The notification that starts it all."""
    return notification(NODES, datetime.now(UTC))


def created_run(answer: Answer) -> RunRef:
    """The Run that the notification started."""
    runs = answer.document.get("runs", [])
    if len(runs) != 1:
        raise Failure(f"the notification should have started one Run, not {len(runs)}: {answer.document}")
    namespace, _, name = str(runs[0]).partition("/")
    return RunRef(namespace, name)


def verdict(run: Run) -> None:
    """Make sure that the demo showed what it should.

    Raises:
        Failure: it went otherwise.
    """
    delivered = {agent.name for agent in run.status.agents}
    failed = {agent.name for agent in run.status.failed_agents}
    if run.status.phase is not Phase.SUCCEEDED or delivered != set(NODES) - {DOOMED} or failed != {DOOMED}:
        raise Failure(
            f"the Run ended as {run.status.phase.value} with {sorted(delivered)} delivered, {sorted(failed)} failed, "
            f"but all except {DOOMED} should have delivered",
            exit_code=ExitCode.FAILED,
        )


def _agent_options(stage: Stage, node: str) -> list[str]:
    agents = stage.folder / "agents"
    options = {
        "port": str(stage.agent_ports[node]),
        "storage": str(agents / node),
        "tokens-file": str(agents / "token"),
        "config": str(agents / f"{node}.yaml"),
    }
    if node != NODES[0]:  # the machine's runtime, where it has one, is node-1's
        options |= {"crio-socket": "", "containerd-socket": ""}
    return [f"--{name}={value}" for name, value in options.items()]


def _often(service: Service, ref: RunRef, seconds: int) -> Iterator[Run]:
    return follow(service, ref, timeout=seconds + 90.0, poll_seconds=min(1.0, 0.1 * seconds))


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


def _post(stage: Stage, path: str, token: str, document: dict[str, Any]) -> Answer:
    began = time.monotonic()
    with httpx.Client(timeout=15.0, trust_env=False) as client:
        answer = client.post(stage.url + path, json=document, headers=_bearer(token))
    return Answer(answer.status_code, answer.json(), time.monotonic() - began)


def _expect(answer: Answer, status: int, what: str) -> Answer:
    if answer.status != status:
        raise Failure(f"{what} was answered {answer.status} instead of {status}: {answer.document}")
    return answer


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def machine_targets() -> list[str]:
    """The container runtimes of this machine that node-1's agent profiles as well."""
    sockets = {"crio": "/var/run/crio/crio.sock", "containerd": "/run/containerd/debug.sock"}
    return [name for name, path in sockets.items() if os.access(path, os.R_OK | os.W_OK)]
