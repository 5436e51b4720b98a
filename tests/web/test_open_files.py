"""The limit of open files: said when it is too low for what is configured, and survived when it is met."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT, wait_for
from tests.web.support import RealService
from tests.world import is_ok

CONFIGURE = """
import json, resource, sys
from nodeobs.errors import ConfigurationError
from nodeobs.settings import Settings
from nodeobs.web.server import gunicorn_settings
limit, agents = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 256), limit))
rows = [{"name": f"node-{number}", "address": "127.0.0.1:1"} for number in range(agents)]
try:
    made = gunicorn_settings(Settings.load({"NODEOBS_AGENTS": json.dumps(rows), "HOME": "/tmp"}))
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], made["worker_connections"])
except ConfigurationError as error:
    print(error)
"""


def configure(*, limit: int, agents: int) -> str:
    """What the service makes of a hard limit: its soft limit and its connections, or its complaint."""
    argv = [sys.executable, "-c", CONFIGURE, str(limit), str(agents)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def test_every_agent_has_a_file_of_its_own_beside_the_callers() -> None:
    assert configure(limit=4000, agents=1000) == f"4000 {4000 - 512 - 1000}"


@pytest.mark.parametrize(("limit", "agents"), [(500, 0), (4000, 3500)])
def test_a_limit_that_is_too_low_is_said_at_the_start(limit: int, agents: int) -> None:
    said = configure(limit=limit, agents=agents)
    assert f"may open {limit} files at once" in said
    assert f"{agents} agents" in said
    assert "LimitNOFILE" in said


@contextmanager
def few_files(process: int, number: int) -> Iterator[None]:
    before = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)


def worker_of(service: RealService) -> int:
    children = Path(f"/proc/{service.program.pid}/task/{service.program.pid}/children").read_text().split()
    return int(children[0])


def test_a_service_that_has_no_file_left_for_a_connection_serves_it_later(tmp_path: Path, stack: ExitStack) -> None:
    service = RealService(tmp_path)
    stack.enter_context(service.program)
    service.wait_ready()
    worker = worker_of(service)
    with few_files(worker, 5):
        waiting = stack.enter_context(closing(socket.create_connection(("127.0.0.1", service.port))))
        waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        wait_for("it says so", lambda: "no more files can be opened" in service.program.said())
        ticks = cpu_seconds(worker)
        time.sleep(1)
        assert cpu_seconds(worker) - ticks < 0.7, "it does not try without a pause"
    waiting.settimeout(20)
    assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    assert is_ok(f"{service.url}/readyz")
    assert worker_of(service) == worker
    assert service.program.said().count("no more files can be opened") < 20


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered
