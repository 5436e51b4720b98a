"""Starting and collecting from many agents at once: start skew, overhead and CPU, for 10, 100 and 300 agents.

The agents are simulated in a few processes, with TLS. Each number is measured twice: alone, and with three more that
are out of reach (one refuses connections, one does not answer at all, one has a name that does not resolve), which must
change nothing for the others. ``startSkewSeconds`` and ``allStartedSeconds`` are taken from the agents' own records, on
the clock that they share with this process.

    python -m bench.fanout [--agents 10 100 300] [--seconds 2] [--processes 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nodeobs.agents.agent import Agent, start_skew
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.fanout import collect, purge
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Plan, lead_seconds
from nodeobs.model import ProfileType
from tests.fakes.agent_simulator import SimulatorProcess, issue_certificate


@contextmanager
def unreachable() -> Iterator[list[Agent]]:
    """Rows of agents that cannot be reached, each in another way."""
    with ExitStack() as stack:
        refusing, silent = (stack.enter_context(socket.socket()) for _ in range(2))
        refusing.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(3):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(silent.getsockname())
        yield [
            Agent("refusing", "127.0.0.1", refusing.getsockname()[1]),
            Agent("silent", "127.0.0.1", silent.getsockname()[1]),
            Agent("nameless", "no-such-host.invalid", 8443),
        ]


class Measurement:
    """One Run over all rows, and when what happened."""

    def __init__(self, connector: AgentConnector, seconds: int) -> None:
        self._connector = connector
        self._seconds = seconds
        self._begun = 0.0
        self._last_file = 0.0

    async def run(self, rows: Sequence[Agent], reachable: int) -> dict[str, Any]:
        """Collect once; figures in seconds."""
        plan = Plan(f"bench-{reachable}", ("kubelet",), (ProfileType.CPU,), self._seconds)
        wall, cpu, self._begun = time.time(), time.process_time(), time.monotonic()
        with tempfile.TemporaryDirectory() as spool:
            order = Order(
                agents=rows,
                plan=plan,
                spool=Path(spool),
                sink=self._sink,
                deadline_seconds=self._seconds + 60,
                cancelled=asyncio.Event(),
                on_started=self._started,
                on_retrieving=self._retrieving,
            )
            outcomes = await collect(order, connector=self._connector)
        total, cpu = time.monotonic() - self._begun, time.process_time() - cpu
        await purge(rows[:reachable], plan.run_uid, connector=self._connector)
        delivered = [outcome for outcome in outcomes if outcome.delivered]
        return {
            "begun": wall,
            "agents": reachable,
            "unreachable": len(rows) - reachable,
            "delivered": len(delivered),
            "late": sum(outcome.late for outcome in outcomes),
            "leadSeconds": round(lead_seconds(len(rows)), 3),
            "reportedSkewSeconds": round(start_skew(outcomes), 4),
            "lastFileAfterProfileSeconds": round(self._last_file - self._seconds, 3),
            "overheadSeconds": round(total - self._seconds, 3),
            "cpuSeconds": round(cpu, 2),
        }

    async def _sink(self, *_: object) -> None:
        self._last_file = time.monotonic() - self._begun

    async def _started(self, _: object) -> None:
        pass

    async def _retrieving(self) -> None:
        pass


def measure(count: int, *, lost: Sequence[Agent], seconds: int, processes: int) -> dict[str, Any]:
    """Figures for ``count`` agents, with the ``lost`` ones among them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ca_file, certificate = issue_certificate(Path(folder))
        shares = [count // processes + (number < count % processes) for number in range(processes)]
        simulators = [SimulatorProcess(share, certificate) for share in shares if share]
        for simulator in simulators:
            stack.callback(simulator.close)
        ports = [port for simulator in simulators for port in simulator.ports]
        good = [Agent(f"node-{number}", "127.0.0.1", port) for number, port in enumerate(ports)]
        connector = AgentConnector(
            tls=True, ca_file=ca_file, token_file=None, now=lambda: datetime.now(UTC), randomness=random.Random(1)
        )
        figures = asyncio.run(Measurement(connector, seconds).run([*good, *lost], len(good)))
        starts = [instant for simulator in simulators for instant in simulator.starts()]
        figures["startSkewSeconds"] = round(max(starts) - min(starts), 4)
        figures["allStartedSeconds"] = round(max(starts) - figures.pop("begun"), 3)
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a Run over many simulated agents; prints one JSON line.")
    parser.add_argument("--agents", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--seconds", type=int, default=2, help="how long the agents profile")
    parser.add_argument("--processes", type=int, default=3, help="processes that simulate agents")
    arguments = parser.parse_args()
    with unreachable() as lost:
        runs = [
            measure(count, lost=rows, seconds=arguments.seconds, processes=arguments.processes)
            for count in arguments.agents
            for rows in ([], lost)
        ]
    print(json.dumps({"benchmark": "fanout", "profileSeconds": arguments.seconds, "runs": runs}))


if __name__ == "__main__":
    main()
