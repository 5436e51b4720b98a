"""A controller over a real store and real outputs, driving simulated agents."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.ways import Way
from nodeobs.metrics import Metrics
from nodeobs.model import DriverClaim, NodeObservability, Run, replace
from nodeobs.outputs.retention import Policy
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.controller import Controller
from nodeobs.runs.driver import Driver, Surroundings
from nodeobs.runs.history import History
from nodeobs.runs.housekeeping import Housekeeping
from nodeobs.runs.rules import highest_term
from nodeobs.store.filelock import FileLeadership
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_observability
from tests.fakes.agent_simulator import Behaviour
from tests.fakes.fleet_thread import FleetThread
from tests.processes import wait_for


def now() -> datetime:
    return datetime.now(UTC)


class World:
    """One process's worth of nodeobs, without the web; may be led by several controllers one after the other."""

    def __init__(self, folder: Path, stack: ExitStack, *, outputs: Path | None = None) -> None:
        self.folder = folder
        self.stack = stack
        self.store = SqliteStore(folder / "nodeobs.db", now=now)
        stack.callback(self.store.close)
        self.outputs = OutputStore(str(outputs or folder / "outputs"))
        self.spool = folder / "spool"
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.fleet = FleetThread([])
        self.history = History(keep=100)
        self.node_proxy: Way | None = None
        self.store.create(make_observability())

    def agents(self, *behaviours: Behaviour) -> FleetThread:
        """Have these agents."""
        self.fleet.close()
        self.fleet = FleetThread(behaviours)
        return self.fleet

    def surroundings(
        self, *, agents: Callable[[], Sequence[Agent]] | None = None, grace: float = 20.0, settling: float = 0.0
    ) -> Surroundings:
        connector = AgentConnector(tls=False, ca_file=None, token_file=None, now=now, randomness=random.Random(1))
        return Surroundings(
            store=self.store,
            outputs=self.outputs,
            connector=connector,
            agents=lambda _observability: agents() if agents else self.fleet.roster(),
            spool=self.spool,
            grace_seconds=grace,
            settling_seconds=settling,
            node_proxy=self.node_proxy,
            now=now,
        )

    def driver(self, run: Run) -> Driver:
        return Driver(run, around=self.surroundings(), claim=DriverClaim(holder="test", term=1))

    def controller(
        self, *, agents: Callable[[], Sequence[Agent]] | None = None, grace: float = 20.0, settling: float = 0.0
    ) -> Controller:
        return Controller(
            store=self.store,
            leadership=FileLeadership(
                self.folder / "leader.lock", known_term=lambda: highest_term(self.store.list(Run, unfinished=True))
            ),
            surroundings=self.surroundings(agents=agents, grace=grace, settling=settling),
            history=self.history,
            beside=[self.housekeeping().run],
            metrics=self.metrics,
            now=now,
        )

    def housekeeping(self) -> Housekeeping:
        return Housekeeping(
            store=self.store,
            history=self.history,
            outputs=self.outputs,
            spool=self.spool,
            policy=Policy(max_age=timedelta(days=1), max_count=100, max_bytes=2**30),
            metrics=self.metrics,
            now=now,
        )

    def lead(self, controller: Controller | None = None) -> Callable[[], None]:
        """Run a controller in a thread; the answer hands over and waits for its end."""
        controller = controller or self.controller()
        stop = threading.Event()
        thread = threading.Thread(target=controller.run, args=(stop,), name="controller")
        thread.start()

        def hand_over() -> None:
            stop.set()
            thread.join()

        self.stack.callback(hand_over)
        return hand_over

    def get(self, run: Run) -> Run:
        return self.store.get(Run, run.metadata.name, run.metadata.namespace)

    def wait(self, run: Run, *, seconds: float = 60.0) -> Run:
        """The Run once it is finished."""

        def probe() -> Run | None:
            found = self.get(run)
            return found if found.status.phase.final else None

        return wait_for(f"{run.key} finishes", probe, seconds=seconds)

    def change(self, run: Run, **attributes: object) -> Run:
        """Write attributes of the Run's spec, as a user does."""
        found = self.get(run)
        return self.store.update(replace(found, spec=replace(found.spec, **attributes)))

    def change_observability(self, name: str, **attributes: object) -> None:
        """Write attributes of a NodeObservability's spec."""
        found = self.store.get(NodeObservability, name)
        self.store.update(replace(found, spec=replace(found.spec, **attributes)))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def world(tmp_path: Path, stack: ExitStack) -> World:
    made = World(tmp_path, stack)
    # Runs after the controllers have ended: they were pushed later.
    stack.callback(lambda: made.fleet.close())
    return made
