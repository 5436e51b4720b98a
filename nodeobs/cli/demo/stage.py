"""The demo's folder: who listens where, and every file that the service and the agents are configured with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nodeobs.cli.failures import ExitCode, Failure

NODES = ("node-1", "node-2", "node-3")
DOOMED = "node-3"
"""The node whose agent is killed."""
OBSERVABILITY = "cluster"
"""The one that a new service has: every node, every target."""

_MARKER = ".nodeobs-demo"
_OURS = ("service", "agents", "logs", "outputs")


@dataclass(frozen=True)
class Stage:
    """Names, ports and secrets of one demo."""

    folder: Path
    seconds: int
    service_port: int
    agent_ports: dict[str, int]
    admin_token: str = field(default_factory=secrets.token_hex, repr=False)
    alert_token: str = field(default_factory=secrets.token_hex, repr=False)
    agent_token: str = field(default_factory=secrets.token_hex, repr=False)

    @property
    def url(self) -> str:
        """The service."""
        return f"http://127.0.0.1:{self.service_port}"

    def agent_url(self, node: str) -> str:
        """That node's agent."""
        return f"http://127.0.0.1:{self.agent_ports[node]}"

    def log(self, name: str) -> Path:
        """Where that process's output goes."""
        return self.folder / "logs" / f"{name}.log"

    def targets(self, node: str) -> list[dict[str, str]]:
        """What that node's agent profiles: itself, and on node-1 the service."""
        own = {"name": "agent", "url": self.agent_url(node), "tokenFile": str(self.folder / "agents" / "token")}
        service = {"name": "service", "url": self.url, "tokenFile": str(self.folder / "service" / "admin-token")}
        return [own, service] if node == NODES[0] else [own]


@contextlib.contextmanager
def staged(folder: Path, *, seconds: int) -> Iterator[Stage]:
    """The folder, empty but for the configuration, held for this demo alone.

    Raises:
        Failure: it holds something that no demo wrote, another demo is using it, or it cannot be written.
    """
    folder = folder.absolute()
    marker = folder / _MARKER
    try:
        if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
            raise Failure(
                f"{folder} is not empty, and no earlier demo wrote it",
                exit_code=ExitCode.USAGE,
                hint="name another folder with --dir",
            )
        folder.mkdir(parents=True, exist_ok=True)
        with marker.open("a") as held:
            _hold(held.fileno(), folder)
            for name in _OURS:
                shutil.rmtree(folder / name, ignore_errors=True)
            stage = _stage(folder, seconds)
            _write_files(stage)
            yield stage
    except OSError as error:
        raise Failure(f"cannot use {folder} for the demo: {error}", exit_code=ExitCode.USAGE) from error


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Failure(
            f"another demo is running in {folder}", exit_code=ExitCode.USAGE, hint="name another folder with --dir"
        ) from error


def _stage(folder: Path, seconds: int) -> Stage:
    service_port, *agent_ports = _free_ports(1 + len(NODES))
    return Stage(folder, seconds, service_port, dict(zip(NODES, agent_ports, strict=True)))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]


def _write_files(stage: Stage) -> None:
    service, agents = stage.folder / "service", stage.folder / "agents"
    for folder in (service / "data", agents, stage.folder / "logs"):
        folder.mkdir(parents=True, mode=0o700)
    _secret(
        service / "tokens",
        f"# token,user,role\n{stage.admin_token},demo,admin\n{stage.alert_token},alertmanager,runner\n",
    )
    _secret(service / "admin-token", stage.admin_token + "\n")
    _secret(agents / "token", stage.agent_token + "\n")
    (service / "triggers.yaml").write_text(_triggers(stage.seconds))
    (service / "config.yaml").write_text(json.dumps(_settings(stage), indent=2) + "\n")
    for node in NODES:
        (agents / node).mkdir(mode=0o700)
        (agents / f"{node}.yaml").write_text(json.dumps({"targets": stage.targets(node)}, indent=2) + "\n")


def _settings(stage: Stage) -> dict[str, object]:
    service = stage.folder / "service"
    return {
        "bind": f"127.0.0.1:{stage.service_port}",
        "tokens_file": str(service / "tokens"),
        "data_dir": str(service / "data"),
        "output": str(stage.folder / "outputs"),
        "triggers_file": str(service / "triggers.yaml"),
        "agent_token_file": str(stage.folder / "agents" / "token"),
        "agents": [{"name": node, "address": f"127.0.0.1:{port}"} for node, port in stage.agent_ports.items()],
    }


def _triggers(seconds: int) -> str:
    return f"""\
triggers:
  - name: kubelet-slow
    matchers: ['alertname=~"Kubelet.*"', 'severity="critical"']
    nodeObservability: {OBSERVABILITY}
    nodesFrom: [node, instance]
    profiles: [cpu]
    durationSeconds: {seconds}
    cooldown: 30m
"""


def _secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
