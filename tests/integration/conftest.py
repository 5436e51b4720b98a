"""Real programs from the distribution's packages, each started on loopback and ended with the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import Program
from tests.world import Agent, Service


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Whatever a test starts, ended in reverse order."""
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def start_agent(tmp_path: Path, stack: ExitStack) -> Callable[..., Agent]:
    """Start an agent: ``start_agent("node-1", target="http://…")``."""

    def start(node: str, **targets: str) -> Agent:
        agent = Agent(node, tmp_path, targets=targets)
        stack.callback(agent.stop)
        return agent

    return start


@pytest.fixture
def start_service(tmp_path: Path, stack: ExitStack) -> Callable[..., Service]:
    """Start the service with these agents."""

    def start(*agents: Agent, **environ: str) -> Service:
        service = Service(tmp_path / "service", agents=[agent.row for agent in agents], environ=environ)
        stack.callback(service.stop)
        return service

    return start


@pytest.fixture
def start_program(tmp_path: Path, stack: ExitStack) -> Callable[..., Program]:
    """Start a program of the distribution by name; the test is skipped where it is missing."""

    def start(name: str, *arguments: str) -> Program:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return stack.enter_context(Program(name, [found, *arguments], log=tmp_path / f"{name}.log"))

    return start
