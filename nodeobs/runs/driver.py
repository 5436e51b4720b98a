"""One Run, carried from claim to finish in a background thread.

Whatever is done here may be cut off at any moment and gone on with by the next leader: starting is idempotent on the
agents (where there are none, what is not stored is profiled anew), the manifest is written when all files are stored,
and the final status is made from the manifest.
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
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Plan
from nodeobs.agents.roster import Selection, select
from nodeobs.agents.via import AGENTS, API_SERVER, NEEDS_CLUSTER
from nodeobs.agents.ways import ByAgents, Way
from nodeobs.errors import NotFound, OutputError, StoreUnavailable
from nodeobs.model import AgentRef, DriverClaim, NodeObservability, Phase, Run, RunStatus, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.outputs.store import OutputStore
from nodeobs.runs import announcements, results
from nodeobs.runs.alerts import remember
from nodeobs.runs.announcements import Announcement, Recorder
from nodeobs.runs.claimed import ClaimedRun, HandedOver
from nodeobs.runs.delivery import Delivery
from nodeobs.runs.rules import awaited
from nodeobs.store.base import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Ending(enum.Enum):
    """How a drive ended."""

    FINISHED = "finished"
    HANDED_OVER = "handed over"


@dataclass(frozen=True)
class Surroundings:
    """What every driver of this process works with."""

    store: Store
    outputs: OutputStore
    connector: AgentConnector
    agents: Callable[[str], Sequence[Agent]]
    """The nodes and their agents, by the NodeObservability's name; raises StoreUnavailable where it cannot be told."""
    spool: Path
    grace_seconds: float
    """Added to a Run's duration for its deadline."""
    now: Callable[[], datetime]
    settling_seconds: float = 0.0
    """After its creation a NodeObservability is waited for so long until its agents are ready."""
    node_proxy: Way | None = None
    """How kubelets are asked without agents; None: not in this mode."""
    recorder: Recorder | None = None
    """Where Events about Runs go; None: nowhere."""

    def way(self, via: str) -> Way | None:
        """How profiles come here where a NodeObservability's ``spec.via`` says so; None: not in this mode."""
        return {AGENTS: ByAgents(self.agents, self.connector), API_SERVER: self.node_proxy}[via]

    def announce(self, run: Run, announcement: Announcement) -> None:
        """Record an Event."""
        if self.recorder is not None:
            self.recorder.record(run, type=announcement.type, reason=announcement.reason, message=announcement.message)


class Driver:
    """Drives one Run; ``cancel`` and ``hand_over`` may be called from any thread, at any time."""

    def __init__(self, run: Run, *, around: Surroundings, claim: DriverClaim) -> None:
        self.manifest: Manifest | None = None
        self._way: Way | None = None
        self._around = around
        self._claim = claim
        self._claimed = ClaimedRun(run, store=around.store, claim=claim, now=around.now)
        self._spool = around.spool / run.metadata.uid
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancel_event: asyncio.Event | None = None

    @property
    def run(self) -> Run:
        """The Run's newest known state."""
        return self._claimed.run

    def cancel(self) -> None:
        """End the Run as Cancelled, on the agents too."""
        with self._lock:
            self._claimed.cancelled = True
            if self._loop and self._cancel_event:
                self._loop.call_soon_threadsafe(self._cancel_event.set)

    def hand_over(self) -> None:
        """Let go at once and leave everything to the next leader."""
        with self._lock:
            self._claimed.handed_over.set()
            if self._loop and self._task:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait_handed_over(self, seconds: float) -> bool:
        """Wait for that long unless it is handed over; tell whether it was."""
        return self._claimed.handed_over.wait(seconds)

    def drive(self) -> Ending:
        """Carry the Run to its finish; blocks for as long as that takes.

        Raises:
            LeadershipLost: another process drives it now.
            NotFound: the Run is gone.
        """
        if self._claimed.cancelled and self.run.status.phase is Phase.PENDING:
            return self._cancelled("cancelled before it began")
        try:
            manifest = self._find_manifest()
            if manifest is None:
                parent = self._parent()
                self._way = way = self._around.way(self._via(parent))
                if way is None or (parent is None and self.run.status.phase is Phase.PENDING):
                    return self._impossible(parent)
                manifest = self._collect_and_store(parent, way)
        except OutputError as error:
            return self._cancelled(f"cancelled while its output could not be stored: {error}")
        except StoreUnavailable as error:
            return self._cancelled(f"cancelled while its agents could not be found: {error}")
        except (HandedOver, asyncio.CancelledError):
            return self._let_go()
        self.manifest = manifest
        return self._finish(lambda status: results.final_status(replace(self.run, status=status), manifest))

    def fail(self, message: str, *, reason: str = "Internal") -> Ending:
        """Give up on the Run: it ends as Failed, and holds nothing up any more. Raises as :meth:`drive`."""
        return self._give_up(Phase.FAILED, reason=reason, message=message)

    def clean_up(self) -> None:
        """After the finish: let the agents drop their copies now that ours are stored; theirs expire anyway."""
        names = results.to_purge(self.manifest) if self.manifest else frozenset()
        shutil.rmtree(self._spool, ignore_errors=True)
        way = self._way or self._around.way(self._via(None))
        if way is None or not names:
            return
        with suppress(asyncio.CancelledError):
            roster = way.roster(self.run.spec.node_observability_ref.name)
            self._run(way.purge([agent for agent in roster if agent.name in names], self.run.metadata.uid))

    def _find_manifest(self) -> Manifest | None:
        """Manifest that an earlier driver wrote before it was cut off: then only the status is missing."""
        if self.run.status.phase is Phase.PENDING:
            return None
        return self._claimed.until_possible(lambda: self._around.outputs.read_manifest(self.run.metadata.uid))

    def _impossible(self, parent: NodeObservability | None) -> Ending:
        name = self.run.spec.node_observability_ref.name
        if parent is None:
            return self.fail(f"the NodeObservability {name!r} was deleted", reason="MissingNodeObservability")
        return self.fail(f"the NodeObservability {name!r}: {NEEDS_CLUSTER}", reason="Invalid")

    def _via(self, parent: NodeObservability | None) -> str:
        """As its NodeObservability says; a Run that has begun goes on as it began, where only agents have addresses."""
        if begun := self.run.status.agents:
            return AGENTS if any(agent.ip for agent in begun) else API_SERVER
        return parent.spec.via if parent is not None else AGENTS

    def _collect_and_store(self, parent: NodeObservability | None, way: Way) -> Manifest:
        around, uid = self._around, self.run.metadata.uid
        recovering = self.run.status.phase is not Phase.PENDING
        name = self.run.spec.node_observability_ref.name
        if not recovering and parent is not None:
            self._claimed.until_possible(lambda: self._check_settled(name), hindrance="waiting for the agents")
        roster = self._claimed.until_possible(lambda: way.roster(name), hindrance="cannot find the agents")
        selection = self._earlier_selection(roster) if recovering else self._select(parent, roster)
        self._claim_run(selection, parent)
        if not recovering:
            around.announce(self.run, announcements.started(self.run))
        self._remember_alerts()
        log.info("run claimed", run=self.run.key, uid=uid, agents=len(selection.agents), recovering=recovering)
        delivery = Delivery(around.outputs, uid, spool=self._spool)
        stored = self._claimed.until_possible(delivery.stored) if recovering else frozenset()
        plan = self._plan(parent, recovering=recovering, stored=stored)
        outcomes = (*self._run(self._collect(way, selection.agents, plan, delivery)), *selection.missing)
        if recovering:
            outcomes = self._claimed.until_possible(lambda: delivery.salvage(outcomes))
        merged = self._claimed.until_possible(lambda: delivery.merge(outcomes, stop=self._claimed.handed_over))
        manifest = results.make_manifest(
            self.run,
            outcomes,
            build_ids=delivery.build_ids,
            merged=merged,
            cancelled=self._claimed.cancelled,
            finished_at=around.now(),
        )
        self._claimed.until_possible(lambda: around.outputs.write_manifest(uid, manifest))
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
            return self._claimed.until_possible(lambda: self._around.store.get(NodeObservability, name))
        except NotFound:
            return None

    def _check_settled(self, observability: str) -> None:
        """Raise StoreUnavailable while it is to be waited for."""
        with suppress(NotFound):
            parent = self._around.store.get(NodeObservability, observability)
            if missing := awaited(parent, now=self._around.now(), seconds=self._around.settling_seconds):
                raise StoreUnavailable(missing)

    def _select(self, parent: NodeObservability | None, roster: Sequence[Agent]) -> Selection:
        spec = self.run.spec
        selection = select(
            roster,
            node_selector=parent.spec.node_selector if parent else {},
            run_selector=spec.node_selector,
            nodes=spec.nodes,
        )
        return results.without_reserved_names(selection)

    def _earlier_selection(self, agents: Sequence[Agent]) -> Selection:
        """The agents that the driver before this one had chosen: a Run's nodes do not change while it goes."""
        status = self.run.status
        roster = {agent.name: agent for agent in agents}
        taking_part = [agent for agent in status.agents if agent.name in roster]
        lost = [results.lost_agent(agent) for agent in status.agents if agent.name not in roster]
        failed = [results.earlier_failure(agent) for agent in status.failed_agents]
        return Selection(agents=tuple(roster[agent.name] for agent in taking_part), missing=(*failed, *lost))

    def _plan(self, parent: NodeObservability | None, *, recovering: bool, stored: frozenset[tuple[str, str]]) -> Plan:
        spec = self.run.spec
        listed = tuple(target.name for target in parent.spec.targets) if parent else ()
        return Plan(
            run_uid=self.run.metadata.uid,
            targets=spec.targets or listed,
            profiles=spec.profiles,
            duration_seconds=spec.duration_seconds,
            recovering=recovering,
            stored=stored,
        )

    async def _collect(
        self, way: Way, agents: Sequence[Agent], plan: Plan, delivery: Delivery
    ) -> tuple[AgentOutcome, ...]:
        cancelled = asyncio.Event()
        with self._lock:
            self._cancel_event = cancelled
            if self._claimed.cancelled:
                cancelled.set()
        return await way.collect(
            Order(
                agents=agents,
                plan=plan,
                spool=delivery.spool,
                sink=delivery.accept,
                deadline_seconds=plan.duration_seconds + self._around.grace_seconds,
                cancelled=cancelled,
                on_started=self._started,
                on_retrieving=self._retrieving,
            )
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in this thread, cancelled when the Run is handed over."""

        async def registered() -> T:
            task = asyncio.ensure_future(work)
            with self._lock:
                self._loop, self._task = asyncio.get_running_loop(), task
                if self._claimed.handed_over.is_set():
                    task.cancel()
            try:
                return await task
            finally:
                with self._lock:
                    self._loop = self._task = self._cancel_event = None

        return asyncio.run(registered())

    def _claim_run(self, selection: Selection, parent: NodeObservability | None) -> None:
        """From here on the Run is Running, with the agents that take part."""
        now = self._around.now()
        agents = tuple(AgentRef(name=agent.name, ip=agent.host, port=agent.port) for agent in selection.agents)
        told = "1 agent" if len(agents) == 1 else f"{len(agents)} agents"

        def claimed(status: RunStatus) -> RunStatus:
            phase = Phase.RUNNING if status.phase is Phase.PENDING else status.phase
            return replace(
                results.going(status, phase, message=f"profiling {told}", now=now),
                start_timestamp=status.start_timestamp or now,
                agents=agents,
                failed_agents=results.failed_agents(selection.missing),
                output=self._around.outputs.location(self.run.metadata.uid),
            )

        self._claimed.hold(parent)
        self._claimed.write(claimed)

    async def _started(self, outcomes: Sequence[AgentOutcome]) -> None:
        """Move agents that did not start to ``failedAgents``, so that one sees it while the Run goes."""
        failed = results.failed_agents(outcome for outcome in outcomes if outcome.reason is not None)
        if failed:
            await asyncio.to_thread(self._claimed.write, lambda status: results.moved(status, failed))

    async def _retrieving(self) -> None:
        now = self._around.now()
        await asyncio.to_thread(
            self._claimed.write,
            lambda status: results.going(status, Phase.RETRIEVING, message="fetching profiles", now=now),
        )

    def _finish(self, change: Callable[[RunStatus], RunStatus]) -> Ending:
        """Write the final status; a Run that was being deleted is gone with it."""
        try:
            self._claimed.write(change)
        except HandedOver:
            return self._let_go()
        self._claimed.release()
        status = self.run.status
        log.info(
            "run finished",
            run=self.run.key,
            phase=status.phase.value,
            failed=len(status.failed_agents),
            output=status.output,
        )
        return Ending.FINISHED

    def _cancelled(self, message: str) -> Ending:
        return self._give_up(Phase.CANCELLED, reason=Phase.CANCELLED.value, message=message)

    def _give_up(self, phase: Phase, *, reason: str, message: str) -> Ending:
        now = self._around.now()
        return self._finish(lambda status: results.finished(status, phase, reason=reason, message=message, now=now))

    def _let_go(self) -> Ending:
        log.info("run handed over", run=self.run.key)
        return Ending.HANDED_OVER
