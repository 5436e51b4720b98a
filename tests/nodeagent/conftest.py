"""The agent as a real process, and what it is given: certificates, tokens, targets."""

from __future__ import annotations

import contextlib
import signal
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.disks import small_disk
from tests.fakes.pprof_target import PprofTarget
from tests.nodeagent.helpers import AgentFactory, AgentProcess, Certificates, issue


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue(tmp_path_factory.mktemp("pki"), "127.0.0.1", "localhost")


@contextlib.contextmanager
def agents(folder: Path) -> Iterator[AgentFactory]:
    """Starts agents (by default on loopback without TLS) and ends them with the block."""
    with contextlib.ExitStack() as stack:

        def run(
            *arguments: str,
            storage: Path = folder / "storage",
            verify: ssl.SSLContext | bool = True,
            environ: Mapping[str, str] | None = None,
        ) -> AgentProcess:
            given = ["--port", "0", "--storage", str(storage), "--crio-socket", "", "--containerd-socket", ""]
            agent = AgentProcess([*given, *arguments], environ or {}, storage=storage, verify=verify)
            stack.callback(agent.stop, signal.SIGKILL)
            agent.wait_until_listening()
            return agent

        yield run


@pytest.fixture
def run_agent(tmp_path: Path) -> Iterator[AgentFactory]:
    """Starts agents that end with the test."""
    with agents(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def shared_target() -> Iterator[PprofTarget]:
    with PprofTarget() as server:
        yield server


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory, shared_target: PprofTarget) -> Iterator[AgentProcess]:
    """An agent for tests that collect nothing."""
    with agents(tmp_path_factory.mktemp("agent")) as run:
        yield run("--target", f"api={shared_target.url}")


@pytest.fixture
def target(shared_target: PprofTarget) -> PprofTarget:
    """A target over plain HTTP, as new, whose profiles take a twentieth of the time asked for."""
    shared_target.reset(speed=0.05)
    return shared_target


@pytest.fixture
def agent(run_agent: AgentFactory, target: PprofTarget) -> AgentProcess:
    """An agent with ``target`` as its only target, named ``api``."""
    return run_agent("--target", f"api={target.url}")


@pytest.fixture
def one_megabyte(tmp_path: Path) -> Iterator[Path]:
    """A disk of that size."""
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        yield disk
