"""A hundred agents at once, in a process of their own, with TLS."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from nodeobs.agents.agent import Agent, start_skew
from nodeobs.model import FailureReason
from tests.agents.driving import Drive, connector
from tests.fakes.agent_simulator import SimulatorProcess

pytestmark = pytest.mark.slow


def test_a_hundred_agents_start_at_one_instant_with_unreachable_ones_among_them(
    drive: Drive, certificate: tuple[Path, Path], closed_port: int, full_backlog: int
) -> None:
    ca_file, pem = certificate
    drive.connector = connector(tls=True, ca_file=ca_file)
    with closing(SimulatorProcess(100, pem)) as simulator:
        good = [Agent(f"node-{number}", "127.0.0.1", port) for number, port in enumerate(simulator.ports)]
        lost = [
            Agent("refusing", "127.0.0.1", closed_port),
            Agent("silent", "127.0.0.1", full_backlog),
            Agent("nameless", "no-such-host.invalid", 8443),
        ]
        outcomes = asyncio.run(drive.run([*lost, *good]))
        starts = simulator.starts()
    assert [outcome.reason for outcome in outcomes] == [FailureReason.UNREACHABLE] * 3 + [None] * 100
    assert len(starts) == len(drive.sunk) == 100
    # A few may be late where other programs have the CPU; without a common instant all would be spread over the lead.
    starts.sort()
    assert starts[90] - starts[10] < 0.25
    assert start_skew(outcomes) == pytest.approx(starts[-1] - starts[0], abs=0.1)
