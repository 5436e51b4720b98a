"""Fixtures for Runs over simulated agents."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.driving import Drive
from tests.fakes.agent_simulator import issue_certificate


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    return Drive(tmp_path / "spool")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of an authority, and of a certificate for loopback with its key."""
    return issue_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: it is taken, but nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port that does not answer at all: its queue of connections is full, so that packets to it are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        callers = []
        try:
            for _ in range(3):
                caller = socket.socket()
                callers.append(caller)
                caller.setblocking(False)
                caller.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for caller in callers:
                caller.close()
