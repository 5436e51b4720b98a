"""One kubelet's part of a Run where no agent is: its profiles come as they are taken, and nobody keeps them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from nodeobs.agents import failures
from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.ledger import Ledger
from nodeobs.agents.plan import Patience
from nodeobs.agents.retry import pauses, persist
from nodeobs.agents.session import Work
from nodeobs.agents.spool import MAX_FILE_BYTES, spooled
from nodeobs.debugpprof import KUBELET, is_timed
from nodeobs.errors import AgentError, AgentUnavailable
from nodeobs.model import FailureReason, FileInfo, PieceResult, PieceState, ProfileType, file_name, replace

log = structlog.get_logger(__name__)

_FIRST_LOOK: Final = 1.0
"""Seconds after which a kubelet that has not refused is taken for one that profiles."""
_LATE_SECONDS: Final = 1.0

_WHOLE_NODE: Final = frozenset(
    {
        FailureReason.NO_AGENT,
        FailureReason.UNREACHABLE,
        FailureReason.TLS_FAILURE,
        FailureReason.UNAUTHORIZED,
        FailureReason.FORBIDDEN,
        FailureReason.TARGET_UNAVAILABLE,
        FailureReason.PROFILING_DISABLED,
        FailureReason.TIMEOUT,
    }
)
"""What fails for one of these reasons is not asked for its other profiles: they would only take time."""


class Client(Protocol):
    """Asks one kubelet."""

    def profile(
        self, profile: ProfileType, seconds: int, *, begin: Callable[[], Awaitable[None]]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The profile's bytes, as they come; ``begin`` is awaited on the open connection, before it is asked."""


class KubeletSession:
    """Drives one kubelet; :meth:`outcome` tells at any time how far it is."""

    told = False
    """What is no longer wanted ends with its connection."""

    def __init__(
        self,
        agent: Agent,
        work: Work,
        *,
        connect: Callable[[Agent, Patience], AbstractAsyncContextManager[Client]],
        now: Callable[[], datetime],
        randomness: random.Random,
    ) -> None:
        self.agent = agent
        self._work = work
        self._connect = connect
        self._now = now
        self._randomness = randomness
        self._ledger = Ledger(agent, work.plan)
        self._began: dict[ProfileType, datetime] = {}
        self._failure: AgentError | None = None
        self._settled = False
        self._over = False

    async def run(self) -> None:
        """Never raises but when cancelled; then :meth:`end` says why."""
        try:
            await self._run()
        except AgentError as error:
            self.end(error)
        except Exception as error:
            # The edge of this node's task: a bug here must not stop the others.
            log.exception("profiling a kubelet failed", node=self.agent.name)
            self.end(AgentError(FailureReason.INTERNAL, f"{self.agent}: {type(error).__name__}, see the service's log"))
        finally:
            self._over = True
            self._settle()

    def end(self, error: AgentError) -> None:
        """Nothing more will come, for this reason."""
        self._failure = error
        self._ledger.close(error.reason, error.message)

    def outcome(self) -> AgentOutcome:
        """What has come of it so far."""
        pieces = self._ledger.pieces
        failed = (AgentError(piece.reason, piece.message) for piece in pieces if piece.reason)
        # What has failed does not speak for what may still come.
        worst = self._failure or (next(failed, None) if self._over else None)
        started_at = min(self._began.values(), default=None)
        # The driver before this one began at another instant, which some of what is stored shows.
        late = started_at is not None and (
            self._work.plan.recovering or (started_at - self._work.start_at).total_seconds() > _LATE_SECONDS
        )
        outcome = AgentOutcome(
            agent=self.agent,
            reason=worst.reason if worst else None,
            message=worst.message if worst else "",
            started_at=started_at,
            late=late,
        )
        return outcome.with_pieces(pieces)

    async def _run(self) -> None:
        request = self._ledger.request(self._work.start_at)
        stored = self._work.plan.stored
        asked = [PieceResult(target=KUBELET, profile=profile) for profile in request.profiles]
        wanted = [piece for piece in asked if (self.agent.name, _name(piece)) not in stored]
        async with self._connect(self.agent, self._work.patience) as client:
            async with asyncio.TaskGroup() as group:
                for piece in wanted:
                    if is_timed(piece.profile):
                        group.create_task(self._take(client, piece))
            for piece in wanted:
                if not is_timed(piece.profile):
                    self._go_on()
                    await self._take(client, piece)
            self._go_on()

    def _go_on(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _take(self, client: Client, piece: PieceResult) -> None:
        try:
            done = await self._fetch(client, piece)
            await self._work.sink(self.agent, done, self._folder / _name(piece))
        except AgentError as error:
            self._ledger.fail(piece, error)
            if error.reason in _WHOLE_NODE:
                self._failure = error
        else:
            self._ledger.deliver(done)

    async def _fetch(self, client: Client, piece: PieceResult) -> PieceResult:
        work, loop = self._work, asyncio.get_running_loop()
        tries = 0

        async def attempt(_seconds: float) -> PieceResult:
            nonlocal tries
            tries += 1
            try:
                return await self._transfer(client, piece)
            except AgentError as error:
                if error.reason is FailureReason.PROFILER_IN_USE and (work.plan.recovering or tries > 1):
                    # Perhaps by what was asked for before, which ends when its connection is found broken.
                    raise AgentUnavailable(error.reason, error.message, sent=False) from error
                raise

        until = max(work.give_up_at, loop.time() + (0 if is_timed(piece.profile) else work.patience.connect))
        naps = pauses(work.patience.first_pause, self._randomness)
        return await persist(attempt, until=until, longest=work.patience.answer, naps=naps)

    async def _transfer(self, client: Client, piece: PieceResult) -> PieceResult:
        work, loop = self._work, asyncio.get_running_loop()
        seconds = work.plan.duration_seconds
        limit = work.patience.transfer + (seconds if is_timed(piece.profile) else 0)
        digest, size, asked_at = hashlib.sha256(), 0, loop.time()

        async def begin() -> None:
            nonlocal asked_at
            await asyncio.sleep((work.start_at - self._now()).total_seconds())
            self._begin(piece.profile)
            asked_at = loop.time()
            deadline.reschedule(asked_at + limit)

        try:
            async with asyncio.timeout(None) as deadline:
                with spooled(self.agent, self._folder / _name(piece)) as part:
                    async with client.profile(piece.profile, seconds, begin=begin) as chunks:
                        async for chunk in chunks:
                            if not size and piece.profile is not ProfileType.TRACE:  # which comes while it is taken
                                work.retrieving()
                            size += len(chunk)
                            if size > MAX_FILE_BYTES:
                                what = f"{_name(piece)} has more than {MAX_FILE_BYTES} bytes"
                                raise failures.bad_response(self.agent, what)
                            digest.update(chunk)
                            part.write(chunk)
        except TimeoutError as error:
            what = f"the kubelet was still sending {_name(piece)} after {limit:.3g} s"
            raise AgentError(FailureReason.TIMEOUT, f"{self.agent}: {what}") from error
        work.retrieving()
        return replace(
            piece,
            state=PieceState.DONE,
            file=FileInfo(name=_name(piece), bytes=size, sha256=digest.hexdigest()),
            started_at=self._began[piece.profile],
            seconds=round(loop.time() - asked_at, 3),
        )

    def _begin(self, profile: ProfileType) -> None:
        self._began[profile] = self._now()
        if len(self._began) == 1:
            asyncio.get_running_loop().call_later(_FIRST_LOOK, self._settle)

    def _settle(self) -> None:
        if not self._settled:
            self._settled = True
            self._work.settled()

    @property
    def _folder(self) -> Path:
        return self._work.spool / self.agent.name


def _name(piece: PieceResult) -> str:
    return file_name(piece.target, piece.profile)
