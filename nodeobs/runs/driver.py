"""One Run, carried from claim to finish in a background thread.

Whatever is done here may be cut off at any moment and gone on with by the next leader: starting is idempotent on the
agents, the manifest is written when all files are stored, and the final status is made from the manifest.
"""

from __future__ import annotations

import asyncio
import enum
import shutil
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.fanout import collect, purge
from nodeobs.agents.plan import Plan
from nodeobs.agents.roster import Selection, select
from nodeobs.errors import Conflict, LeadershipLost, NotFound, OutputError, StoreError, StoreUnavailable
from nodeobs.model import AgentRef, DriverClaim, NodeObservability, Phase, Run, RunStatus, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.outputs.store import OutputStore
from nodeobs.runs import results
from nodeobs.runs.alerts import remember
from nodeobs.runs.delivery import Delivery
from nodeobs.store.base import Store

log = structlog.get_logger(__name__)

FINALIZER = "nodeobs/driven"
"""Keeps a Run that is being deleted until it is cancelled on the agents."""

_RETRY_SECONDS = 1.0
_CANCELLED_TRIES = 5

T = TypeVar("T")


class Ending(enum.Enum):
    """How a drive ended."""

    FINISHED = "finished"
    HANDED_OVER = "handed over"


class _HandedOver(Exception):
    """The driver was told to let go."""


@dataclass(frozen=True)
class Surroundings:
    """What every driver of this process works with."""

    store: Store
    outputs: OutputStore
    connector: AgentConnector
    agents: Callable[[], Sequence[Agent]]
    spool: Path
    grace_seconds: float
    """Added to a Run's duration for its deadline."""
    now: Callable[[], datetime]


class Driver:
    """Drives one Run; ``cancel`` and ``hand_over`` may be called from any thread, at any time."""

    def __init__(self, run: Run, *, around: Surroundings, claim: DriverClaim) -> None:
        self.run = run
        self.manifest: Manifest | None = None
        self._around = around
        self._claim = claim
        self._spool = around.spool / run.metadata.uid
        self._lock = threading.Lock()
        self._handed_over = threading.Event()
        self._cancelled = run.spec.cancel or run.metadata.deletion_timestamp is not None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancel_event: asyncio.Event | None = None

    def cancel(self) -> None:
        """End the Run as Cancelled, on the agents too."""
        with self._lock:
            self._cancelled = True
            if self._loop and self._cancel_event:
                self._loop.call_soon_threadsafe(self._cancel_event.set)

    def hand_over(self) -> None:
        """Let go at once and leave everything to the next leader."""
        with self._lock:
            self._handed_over.set()
            if self._loop and self._task:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait_handed_over(self, seconds: float) -> bool:
        """Wait for that long unless it is handed over; tell whether it was."""
        return self._handed_over.wait(seconds)

    def drive(self) -> Ending:
        """Carry the Run to its finish; blocks for as long as that takes.

        Raises:
            LeadershipLost: another process drives it now.
            NotFound: the Run is gone.
        """
        try:
            manifest = self._find_manifest() or self._collect_and_store()
        except OutputError as error:
            message = f"cancelled while its output could not be stored: {error}"
            return self._give_up(Phase.CANCELLED, reason=Phase.CANCELLED.value, message=message)
        except (_HandedOver, asyncio.CancelledError):
            return self._let_go()
        self.manifest = manifest
        return self._finish(lambda status: results.final_status(replace(self.run, status=status), manifest))

    def fail(self, message: str) -> Ending:
        """Give up on the Run: it ends as Failed, and holds nothing up any more. Raises as :meth:`drive`."""
        return self._give_up(Phase.FAILED, reason="Internal", message=message)

    def clean_up(self) -> None:
        """After the finish: let the agents drop their copies now that ours are stored; theirs expire anyway."""
        names = results.to_purge(self.manifest) if self.manifest else frozenset()
        agents = [agent for agent in self._around.agents() if agent.name in names]
        with suppress(asyncio.CancelledError):
            self._run(purge(agents, self.run.metadata.uid, connector=self._around.connector))
        shutil.rmtree(self._spool, ignore_errors=True)

    def _find_manifest(self) -> Manifest | None:
        """Manifest that an earlier driver wrote before it was cut off: then only the status is missing."""
        if self.run.status.phase is Phase.PENDING:
            return None
        return self._until_possible(lambda: self._around.outputs.read_manifest(self.run.metadata.uid))

    def _collect_and_store(self) -> Manifest:
        around, uid = self._around, self.run.metadata.uid
        parent = self._parent()
        recovering = self.run.status.phase is not Phase.PENDING
        selection = self._earlier_selection() if recovering else self._select(parent)
        self._claim_run(selection)
        self._remember_alerts()
        log.info("run claimed", run=self.run.key, uid=uid, agents=len(selection.agents), recovering=recovering)
        delivery = Delivery(around.outputs, uid, spool=self._spool)
        plan = self._plan(parent, recovering=recovering)
        outcomes = (*self._run(self._collect(selection.agents, plan, delivery)), *selection.missing)
        if recovering:
            outcomes = self._until_possible(lambda: delivery.salvage(outcomes))
        merged = self._until_possible(lambda: delivery.merge(outcomes, stop=self._handed_over))
        manifest = results.make_manifest(
            self.run,
            outcomes,
            build_ids=delivery.build_ids,
            merged=merged,
            cancelled=self._cancelled,
            finished_at=around.now(),
        )
        self._until_possible(lambda: around.outputs.write_manifest(uid, manifest))
        return manifest

    def _remember_alerts(self) -> None:
        """Record what the Run answers before it can end; a record that is damaged must not hold it up."""
        try:
            remember(self._around.store, self.run)
        except StoreUnavailable as error:
            log.warning("the alerts that a run answers are not recorded", run=self.run.key, error=str(error))

    def _parent(self) -> NodeObservability | None:
        name = self.run.spec.node_observability_ref.name
        try:
            return self._until_possible(lambda: self._around.store.get(NodeObservability, name))
        except NotFound:
            return None

    def _select(self, parent: NodeObservability | None) -> Selection:
        if parent is None:
            return Selection(agents=(), missing=())
        spec = self.run.spec
        selection = select(
            self._around.agents(),
            node_selector=parent.spec.node_selector,
            run_selector=spec.node_selector,
            nodes=spec.nodes,
        )
        return results.without_reserved_names(selection)

    def _earlier_selection(self) -> Selection:
        """The agents that the driver before this one had chosen: a Run's nodes do not change while it goes."""
        status = self.run.status
        roster = {agent.name: agent for agent in self._around.agents()}
        taking_part = [agent for agent in status.agents if agent.name in roster]
        lost = [results.lost_agent(agent) for agent in status.agents if agent.name not in roster]
        failed = [results.earlier_failure(agent) for agent in status.failed_agents]
        return Selection(agents=tuple(roster[agent.name] for agent in taking_part), missing=(*failed, *lost))

    def _plan(self, parent: NodeObservability | None, *, recovering: bool) -> Plan:
        spec = self.run.spec
        listed = tuple(target.name for target in parent.spec.targets) if parent else ()
        return Plan(
            run_uid=self.run.metadata.uid,
            targets=spec.targets or listed,
            profiles=spec.profiles,
            duration_seconds=spec.duration_seconds,
            recovering=recovering,
        )

    async def _collect(self, agents: Sequence[Agent], plan: Plan, delivery: Delivery) -> tuple[AgentOutcome, ...]:
        cancelled = asyncio.Event()
        with self._lock:
            self._cancel_event = cancelled
            if self._cancelled:
                cancelled.set()
        return await collect(
            agents,
            plan,
            connector=self._around.connector,
            spool=delivery.spool,
            sink=delivery.accept,
            deadline_seconds=plan.duration_seconds + self._around.grace_seconds,
            cancelled=cancelled,
            on_started=self._started,
            on_retrieving=self._retrieving,
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in this thread, cancelled when the Run is handed over."""

        async def registered() -> T:
            task = asyncio.ensure_future(work)
            with self._lock:
                self._loop, self._task = asyncio.get_running_loop(), task
                if self._handed_over.is_set():
                    task.cancel()
            try:
                return await task
            finally:
                with self._lock:
                    self._loop = self._task = self._cancel_event = None

        return asyncio.run(registered())

    def _claim_run(self, selection: Selection) -> None:
        """From here on the Run is Running, with the agents that take part."""
        now = self._around.now()
        agents = tuple(AgentRef(name=agent.name, ip=agent.host, port=agent.port) for agent in selection.agents)

        def claimed(status: RunStatus) -> RunStatus:
            phase = Phase.RUNNING if status.phase is Phase.PENDING else status.phase
            return replace(
                results.going(status, phase, message=f"profiling {len(agents)} agents", now=now),
                start_timestamp=status.start_timestamp or now,
                agents=agents,
                failed_agents=results.failed_agents(selection.missing),
                output=self._around.outputs.location(self.run.metadata.uid),
                driver=self._claim,
            )

        self._write(claimed, finalizers=(FINALIZER,))

    async def _started(self, outcomes: Sequence[AgentOutcome]) -> None:
        """Move agents that did not start to ``failedAgents``, so that one sees it while the Run goes."""
        failed = results.failed_agents(outcome for outcome in outcomes if outcome.reason is not None)
        if failed:
            await asyncio.to_thread(self._write, lambda status: results.moved(status, failed))

    async def _retrieving(self) -> None:
        now = self._around.now()
        await asyncio.to_thread(
            self._write, lambda status: results.going(status, Phase.RETRIEVING, message="fetching profiles", now=now)
        )

    def _finish(self, change: Callable[[RunStatus], RunStatus]) -> Ending:
        """Write the final status; a Run that was being deleted is gone with it."""
        try:
            self._write(change, finalizers=())
        except _HandedOver:
            return self._let_go()
        status = self.run.status
        log.info(
            "run finished",
            run=self.run.key,
            phase=status.phase.value,
            failed=len(status.failed_agents),
            output=status.output,
        )
        return Ending.FINISHED

    def _give_up(self, phase: Phase, *, reason: str, message: str) -> Ending:
        now = self._around.now()
        return self._finish(lambda status: results.finished(status, phase, reason=reason, message=message, now=now))

    def _let_go(self) -> Ending:
        log.info("run handed over", run=self.run.key)
        return Ending.HANDED_OVER

    def _write(self, change: Callable[[RunStatus], RunStatus], *, finalizers: tuple[str, ...] | None = None) -> None:
        """Change the status as it is stored now, until it is written; what users changed meanwhile stays.

        Raises:
            LeadershipLost: a driver of another term wrote it.
            NotFound: the Run is gone.
        """

        def write() -> Run:
            while True:
                stored = self._around.store.get(Run, self.run.metadata.name, self.run.metadata.namespace)
                self._check_ours(stored)
                metadata = stored.metadata
                if finalizers is not None:
                    others = tuple(name for name in metadata.finalizers if name != FINALIZER)
                    metadata = replace(metadata, finalizers=(*others, *finalizers))
                with suppress(Conflict):
                    return self._around.store.update(replace(stored, metadata=metadata, status=change(stored.status)))

        self.run = self._until_possible(write)

    def _check_ours(self, stored: Run) -> None:
        if stored.metadata.uid != self.run.metadata.uid:
            raise NotFound(f"Run {self.run.key} was deleted and another of its name created")
        driver = stored.status.driver
        if driver is not None and driver.term > self._claim.term:
            raise LeadershipLost(f"Run {self.run.key} is driven by {driver.holder}, in term {driver.term}")
        if stored.status.phase.final:
            raise LeadershipLost(f"Run {self.run.key} was already finished as {stored.status.phase.value}")

    def _until_possible(self, action: Callable[[], T]) -> T:
        """Do it, again and again while the stores cannot be reached; nothing collected is given up for that.

        Raises:
            OutputError: outputs cannot be stored, and the Run is cancelled: it must not wait for that for ever.
        """
        tries = 0
        while True:
            tries += 1
            if self._handed_over.is_set():
                raise _HandedOver
            try:
                return action()
            except (StoreUnavailable, OutputError) as error:
                log.warning("cannot store, trying again", run=self.run.key, error=str(error))
                if isinstance(error, OutputError):
                    if self._cancelled and tries >= _CANCELLED_TRIES:
                        raise
                    self._explain(f"cannot store the output, trying again: {error}")
                self._handed_over.wait(_RETRY_SECONDS)

    def _explain(self, message: str) -> None:
        """Say in the Run's status why it does not go on; where that cannot be written either, the log has it."""
        with suppress(StoreError):
            run = self._around.store.get(Run, self.run.metadata.name, self.run.metadata.namespace)
            self._check_ours(run)
            status = results.going(run.status, run.status.phase, message=message, now=self._around.now())
            if [condition.message for condition in run.status.conditions[:1]] != [message]:
                self.run = self._around.store.update(replace(run, status=status))
