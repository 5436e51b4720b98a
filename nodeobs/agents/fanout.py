"""All agents of a Run at once: the same start for everyone, one deadline, and nobody waits for anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace as change
from datetime import datetime, timedelta
from functools import partial

import structlog

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Patience, lead_seconds, telling_seconds
from nodeobs.agents.session import Party, Session, Work
from nodeobs.errors import AgentError
from nodeobs.model import FailureReason

log = structlog.get_logger(__name__)

_PATIENCE = Patience()
_SHORTEST_WINDOW = 2.0


async def collect(
    order: Order, *, connector: AgentConnector, patience: Patience = _PATIENCE
) -> tuple[AgentOutcome, ...]:
    """Start on all agents, wait, bring every file here and give it to the order's sink.

    Returns an outcome for every agent, in their order, at the latest at the order's deadline. Cancelling the task
    leaves the agents at their work, for another driver to go on with. What ``on_started`` and ``on_retrieving`` raise
    ends the collection as cancelling the task does, and is raised here.
    """
    outcomes, unwanted = await conduct(
        order, open_party=partial(Session, connector=connector), now=connector.now, patience=patience
    )
    if unwanted:
        await _drop(unwanted, order.plan.run_uid, connector, patience)
    return outcomes


async def conduct(
    order: Order, *, open_party: Callable[[Agent, Work], Party], now: Callable[[], datetime], patience: Patience
) -> tuple[tuple[AgentOutcome, ...], Sequence[Agent]]:
    """Have all parties of a Run do their part, as :func:`collect` says; who is to be told that it was cancelled."""
    run = _Run(order, open_party=open_party, now=now, patience=patience)
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            herald = group.create_task(run.announce())
            tasks = [group.create_task(session.run()) for session in run.sessions]
            guard = group.create_task(run.guard(tasks))
            if tasks:
                await asyncio.wait(tasks)
            run.over()
            guard.cancel()
            await herald
    except BaseExceptionGroup as errors:
        # Only the two callbacks can raise: sessions turn everything into an outcome.
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure
    return tuple(session.outcome() for session in run.sessions), run.unwanted


async def purge(
    agents: Sequence[Agent], run_uid: str, *, connector: AgentConnector, patience: Patience = _PATIENCE
) -> None:
    """Let the agents delete their copies, or stop what is still going there; best effort, within a few seconds.

    To be called for failed agents as well: one may have started although its answer was lost.
    """
    await _drop(agents, run_uid, connector, patience)


class _Run:
    """The sessions of one Run, and how far they are together."""

    def __init__(
        self,
        order: Order,
        *,
        open_party: Callable[[Agent, Work], Party],
        now: Callable[[], datetime],
        patience: Patience,
    ) -> None:
        plan, agents = order.plan, order.agents
        telling = telling_seconds(len(agents))
        begun = now()
        start_at = plan.start_at or begun + timedelta(seconds=lead_seconds(len(agents)))
        # An agent that comes back after the profile's time would show other seconds than the rest.
        window = min(patience.connect, max(_SHORTEST_WINDOW, plan.duration_seconds))
        work = Work(
            plan=plan,
            patience=change(patience, connect=max(patience.connect, telling)),
            spool=order.spool,
            sink=order.sink,
            start_at=start_at,
            give_up_at=asyncio.get_running_loop().time() + max(telling, (start_at - begun).total_seconds()) + window,
            poll_spread=lead_seconds(len(agents)),
            settled=self._settle,
            retrieving=self._retrieve,
        )
        self._order = order
        self.sessions = [open_party(agent, work) for agent in agents]
        self.unwanted: list[Agent] = []
        """Agents that were started and are to stop."""
        self._unsettled = len(agents)
        self._retrieved = False
        self._started = asyncio.Event()
        self._retrieving_or_over = asyncio.Event()

    async def announce(self) -> None:
        """Tell the driver how far the Run is."""
        await self._started.wait()
        await self._order.on_started([session.outcome() for session in self.sessions])
        await self._retrieving_or_over.wait()
        if self._retrieved:
            await self._order.on_retrieving()

    async def guard(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """End what is not over when the Run is cancelled or its time is up."""
        seconds = self._order.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._order.cancelled.wait()
            reason, why = FailureReason.CANCELLED, "the Run was cancelled"
        except TimeoutError:
            reason, why = FailureReason.TIMEOUT, f"not finished at the Run's deadline, {seconds:.3g} s after its start"
        for session, task in zip(self.sessions, tasks, strict=True):
            if not task.done():
                session.end(AgentError(reason, f"{session.agent}: {why}"))
                task.cancel()
                if reason is FailureReason.CANCELLED and session.told:
                    self.unwanted.append(session.agent)

    def over(self) -> None:
        """All sessions have ended."""
        self._started.set()
        self._retrieving_or_over.set()

    def _settle(self) -> None:
        self._unsettled -= 1
        if self._unsettled == 0:
            self._started.set()

    def _retrieve(self) -> None:
        # Agents that can still not be reached when others have finished do not hold up the news.
        self._retrieved = True
        self._started.set()
        self._retrieving_or_over.set()


async def _drop(agents: Sequence[Agent], run_uid: str, connector: AgentConnector, patience: Patience) -> None:
    limit = max(patience.cancel, telling_seconds(len(agents)))

    async def drop(agent: Agent) -> None:
        try:
            async with connector.connect(agent, connect_seconds=limit, read_seconds=limit) as client:
                await client.drop(run_uid, limit=limit)
        except AgentError as error:
            log.info(
                "an agent could not be told to drop a collection; it expires there", node=agent.name, error=str(error)
            )
        except Exception:
            # The edge of this agent's task: the others are told all the same.
            log.exception("telling an agent to drop a collection failed", node=agent.name)

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(drop(agent))
