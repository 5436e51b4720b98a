"""One agent's part of a Run, from its start to its last file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from nodeobs.agents import failures, upstream
from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.client import AgentClient, AgentConnector, Started
from nodeobs.agents.ledger import Ledger
from nodeobs.agents.order import Sink
from nodeobs.agents.plan import Patience, Plan
from nodeobs.agents.retry import pauses, persist
from nodeobs.agents.transfer import fetch
from nodeobs.errors import AgentError, AgentUnavailable
from nodeobs.model import Collection, CollectionState, FailureReason, PieceResult

log = structlog.get_logger(__name__)

T = TypeVar("T")

_FIRST_LOOK = 1.0
"""Seconds after an agent's start."""
_LONG_POLL = 25
"""Seconds; agents hold an answer no longer than 30."""


@dataclass(frozen=True)
class Work:
    """What all sessions of a Run share."""

    plan: Plan
    patience: Patience
    spool: Path
    sink: Sink
    start_at: datetime
    """The common start instant, by the service's clock."""
    give_up_at: float
    """Until when starting is tried, by the event loop's clock."""
    poll_spread: float
    """Seconds over which the agents are first asked for their state, ahead of their end."""
    settled: Callable[[], None]
    """To be called by every session once, when its agent has started or failed to."""
    retrieving: Callable[[], None]
    """To be called before a file is fetched."""


class Party(Protocol):
    """One node's part of a Run."""

    @property
    def agent(self) -> Agent:
        """The node's row of the roster."""

    @property
    def told(self) -> bool:
        """Whether somebody there has to be told when the Run is no longer wanted."""

    async def run(self) -> None:
        """Never raises but when cancelled; then :meth:`end` says why."""

    def end(self, error: AgentError) -> None:
        """Nothing more will come, for this reason."""

    def outcome(self) -> AgentOutcome:
        """What has come of it so far."""


class Session:
    """Drives one agent; :meth:`outcome` tells at any time how far it is."""

    def __init__(self, agent: Agent, work: Work, *, connector: AgentConnector) -> None:
        self._agent = agent
        self._client: AgentClient | None = None
        self.told = False
        """The agent may have the collection: it has to be told when that is no longer wanted."""
        self._work = work
        self._connector = connector
        self._ledger = Ledger(agent, work.plan)
        self._loop = asyncio.get_running_loop()
        self._failure: AgentError | None = None
        self._upstream = ""
        self._offset: timedelta | None = None
        self._started_at: datetime | None = None
        self._late = False

    @property
    def agent(self) -> Agent:
        """The agent, where it was last asked."""
        return self._client.agent if self._client else self._agent

    async def run(self) -> None:
        """Never raises but when cancelled; then :meth:`end` says why."""
        try:
            await self._run()
        except AgentError as error:
            self.end(error)
        except Exception as error:
            # The edge of this agent's task: a bug here must not stop the others.
            log.exception("driving an agent failed", node=self.agent.name)
            self.end(AgentError(FailureReason.INTERNAL, f"{self.agent}: {type(error).__name__}, see the service's log"))

    def end(self, error: AgentError) -> None:
        """Nothing more will come, for this reason."""
        self._failure = error
        self._ledger.close(error.reason, error.message)

    def outcome(self) -> AgentOutcome:
        """What has come of it so far."""
        pieces = self._ledger.pieces
        # An agent that kept to the protocol has no failure of its own: its first piece's reason stands for it.
        worst = self._failure or next((AgentError(p.reason, p.message) for p in pieces if p.reason), None)
        outcome = AgentOutcome(
            agent=self.agent,
            reason=worst.reason if worst else None,
            message=worst.message if worst else self._upstream,
            started_at=self._started_at,
            clock_offset_seconds=self._offset.total_seconds() if self._offset is not None else None,
            late=self._late,
            upstream=bool(self._upstream),
        )
        return outcome.with_pieces(pieces)

    async def _run(self) -> None:
        work = self._work
        connecting = self._connector.connect(
            self._agent, connect_seconds=work.patience.connect, read_seconds=work.patience.answer
        )
        async with connecting as client:
            self._client = client
            try:
                collection = await self._start(client)
            finally:
                work.settled()
            if collection is None:
                await self._follow_upstream(client)
            else:
                await self._collect(client, collection)

    async def _start(self, client: AgentClient) -> Collection | None:
        """The collection as the agent took it; None where it is upstream's agent that has begun."""
        work, tries = self._work, 0
        request = self._ledger.request(work.start_at)

        async def attempt(limit: float) -> Started | None:
            nonlocal tries
            tries += 1
            told, self.told = self.told, True
            try:
                return await client.start(request, limit=limit)
            except AgentError as error:
                self.told = told or (isinstance(error, AgentUnavailable) and error.sent)
                raise

        started = await self._persist(attempt, until=work.give_up_at)
        if started is None:
            self.told = False
            await self._start_upstream(client)
            return None
        collection = started.collection
        # An agent that knew the collection already received its start earlier than this request.
        fresh = tries == 1 and not work.plan.recovering
        self._offset = (collection.received_at if fresh else collection.now) - started.sent_at
        return collection

    async def _collect(self, client: AgentClient, collection: Collection) -> None:
        """Wait for the end and fetch what there is.

        The agent is asked soon after its start, as one that can deliver nothing says so at once, and then not before
        its end is near.
        """
        work, loop, plan = self._work, self._loop, self._work.plan
        grace = work.patience.unreachable_grace
        # Shorter than the grace, so that an agent that has vanished is told from one that has nothing new to say.
        wait = max(1, min(_LONG_POLL, int(grace / 2)))
        end = loop.time() + self._remaining(collection)
        spread = self._connector.randomness.uniform(0, work.poll_spread)
        near_end = end - spread
        ask_at = min(end - plan.duration_seconds + _FIRST_LOOK + spread, near_end)
        while True:
            self._started_at = self._service_time(collection.started_at)
            self._late = collection.late
            for piece in self._ledger.news(collection, self._offset or timedelta()):
                await self._deliver(client, piece)
            if collection.state.final:
                return self._conclude(collection)
            await asyncio.sleep(ask_at - loop.time())
            collection = await self._persist(
                lambda limit: client.status(plan.run_uid, wait=wait, limit=limit),
                until=max(end, loop.time()) + grace,
            )
            # The agent is to hold its answer; one that does not is still not hammered.
            again_at = max(ask_at, loop.time() - wait) + wait * self._connector.randomness.uniform(0.9, 1.0)
            ask_at = max(again_at, near_end)

    async def _deliver(self, client: AgentClient, piece: PieceResult) -> None:
        work = self._work
        work.retrieving()
        if piece.file is None:
            return
        try:
            folder = work.spool / self.agent.name
            path = await fetch(client, work.plan.run_uid, piece.file, folder=folder, naps=self._naps())
            await work.sink(self.agent, piece, path)
        except AgentUnavailable:
            raise
        except AgentError as error:
            self._ledger.fail(piece, error)
        else:
            self._ledger.deliver(piece)

    def _conclude(self, collection: Collection) -> None:
        said = failures.clean(collection.message)
        if collection.state is CollectionState.FAILED:
            what = f"{self.agent}: the collection failed: {said or 'no reason was given'}"
            self.end(AgentError(collection.reason or FailureReason.BAD_RESPONSE, what))
        elif collection.state is CollectionState.CANCELLED:
            self.end(AgentError(FailureReason.CANCELLED, f"{self.agent}: cancelled on the agent {said}".rstrip()))
        elif not collection.pieces:
            self.end(AgentError(FailureReason.TARGET_UNAVAILABLE, f"{self.agent}: offers no target to profile"))
        else:
            what = f"{self.agent}: calls the collection done without saying what became of this"
            self._ledger.close(FailureReason.BAD_RESPONSE, what)

    def _remaining(self, collection: Collection) -> float:
        """Seconds until the profiles should be there; the agent's instants are compared with each other only."""
        duration = self._work.plan.duration_seconds
        if collection.state.final:
            return 0.0
        if collection.started_at is None:
            return max(0.0, (self._work.start_at - self._connector.now()).total_seconds()) + duration
        return min(max(0.0, duration - (collection.now - collection.started_at).total_seconds()), duration)

    def _service_time(self, instant: datetime | None) -> datetime | None:
        if instant is None or self._offset is None:
            return None
        try:
            return (instant - self._offset).astimezone(UTC)
        except OverflowError as error:
            raise failures.bad_response(self.agent, f"its clock shows {instant}") from error

    async def _start_upstream(self, client: AgentClient) -> None:
        work = self._work
        upstream.check(client, work.plan.profiles)
        self._upstream = f"{self.agent}: {upstream.DATA_STAYS}"
        if work.plan.recovering:
            self._upstream += "; the service was restarted and did not start it again"
            return
        await self._persist(lambda limit: upstream.start(client, limit=limit), until=work.give_up_at)
        self._started_at = self._connector.now()

    async def _follow_upstream(self, client: AgentClient) -> None:
        work = self._work
        end = self._loop.time() + upstream.SECONDS
        over = False
        while not over:
            await asyncio.sleep(work.patience.upstream_poll * self._connector.randomness.uniform(0.5, 1.0))
            over = await self._persist(
                lambda limit: upstream.over(client, limit=limit),
                until=max(end, self._loop.time()) + work.patience.unreachable_grace,
            )

    async def _persist(self, attempt: Callable[[float], Awaitable[T]], *, until: float) -> T:
        return await persist(attempt, until=until, longest=self._work.patience.answer, naps=self._naps())

    def _naps(self) -> Iterator[float]:
        return pauses(self._work.patience.first_pause, self._connector.randomness)
