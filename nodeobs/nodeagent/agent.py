"""What the agent does, without HTTP: start a collection, wait for it, remove it. One goes at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from nodeobs.errors import AgentBusy, AgentError, InvalidInput, NotFound
from nodeobs.model import (
    Collection,
    CollectionRequest,
    CollectionState,
    FailureReason,
    FileInfo,
    PieceResult,
    TargetInfo,
    replace,
)
from nodeobs.nodeagent.collecting import Collecting
from nodeobs.nodeagent.kept import Kept, any_failed
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.storage import Storage
from nodeobs.nodeagent.targets import Target

logger = logging.getLogger(__name__)

FURTHEST_START: Final = 300.0
"""Seconds that a start instant may lie ahead."""
_ON_TIME: Final = 0.05
"""Seconds after the start instant that do not count as late."""
_REMEMBERED: Final = 1000
"""Deleted collections that are not started again."""
_OWN_FAULT: Final = "the agent failed; its log has the details"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """When a request came, on both clocks."""

    instant: datetime
    monotonic: float


class NodeAgent:
    """The agent's one collection that goes, and those that are kept."""

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        storage: Storage,
        kept: Kept,
        metrics: AgentMetrics,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._targets = {target.name: target for target in targets}
        self._storage = storage
        self._kept = kept
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic
        self._going: Collecting | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._deleted: deque[str] = deque(maxlen=_REMEMBERED)

    async def start(self, request: CollectionRequest, receipt: Receipt) -> Collection:
        """Start a collection; one that is known already is answered as it is, and nothing is started.

        Raises:
            AgentBusy: another one is going.
            AgentError: ``StorageFull`` or ``Internal``: it cannot be recorded, so it was not started; ``Cancelled``: it
                was deleted before.
            InvalidInput: the start instant is too far ahead.
        """
        going = self._going
        if going is None or going.collection.id != request.id:
            known = self._kept.get(request.id)
            if known is not None:
                return replace(known, now=self._now())
            if request.id in self._deleted:
                raise AgentError(
                    FailureReason.CANCELLED, f"collection {request.id} was deleted; a Run starts only once"
                )
            if going is not None:
                holder = going.collection.id
                raise AgentBusy(FailureReason.BUSY, f"collection {holder} is going on this node", holder=holder)
            going = self._begin(request, receipt)
        await going.accepted.wait()
        if going.refusal is not None:
            raise AgentError(going.refusal.reason, going.refusal.message) from going.refusal
        return replace(going.collection, now=self._now())

    def get(self, identifier: str) -> Collection:
        """The state now.

        Raises:
            NotFound: no such collection.
        """
        going = self._going
        if going is not None and going.collection.id == identifier:
            return replace(going.collection, now=self._now())
        kept = self._kept.get(identifier)
        if kept is None:
            raise NotFound("this agent has no such collection: it was never started here, was removed, or has expired")
        return replace(kept, now=self._now())

    async def wait(self, identifier: str, seconds: float) -> Collection:
        """The state when it is final, or after ``seconds``, whichever comes first.

        Raises:
            NotFound: no such collection.
        """
        going = self._going
        if going is not None and going.collection.id == identifier and seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(going.finished.wait(), seconds)
            return replace(going.collection, now=self._now())
        return self.get(identifier)

    async def delete(self, identifier: str) -> None:
        """Cancel the collection if it is going, and remove all there is of it. Unknown ones are no error.

        Raises:
            AgentError: ``Internal``: its files cannot be removed.
        """
        # First: a start that was sent earlier, by a service that has been replaced since, may be on its way.
        self._deleted.append(identifier)
        going, task = self._going, self._task
        if going is not None and task is not None and going.collection.id == identifier:
            await going.accepted.wait()
            # One that is writing its last state must not be disturbed.
            if not going.collection.state.final:
                task.cancel()
            await asyncio.wait([task])
        await self._kept.remove(identifier)

    def file(self, identifier: str, name: str) -> tuple[FileInfo, Path]:
        """A finished file, and where it is.

        Raises:
            NotFound: no such collection, or no such file in it (yet).
        """
        for piece in self.get(identifier).pieces:
            if piece.file is not None and piece.file.name == name:
                return piece.file, self._storage.file_path(identifier, name)
        raise NotFound("the collection has no such file (yet)")

    async def probe(self) -> tuple[TargetInfo, ...]:
        """Every target, and whether it answers."""
        return tuple(await asyncio.gather(*(target.probe() for target in self._targets.values())))

    @property
    def running(self) -> str | None:
        """Id of the collection that is going."""
        return self._going.collection.id if self._going is not None else None

    @property
    def last_failed(self) -> str | None:
        """Id of the last collection, if something in it failed."""
        last = self._kept.newest
        if last is None or (last.state is CollectionState.DONE and not any_failed(last.pieces)):
            return None
        return last.id

    @property
    def stopping(self) -> bool:
        """Whether the process is about to end."""
        return self._stopping

    async def stop(self) -> None:
        """End what is going without a final state, so that the next start finds it, and answer those who wait."""
        self._stopping = True
        if self._going is not None:
            self._going.finished.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _begin(self, request: CollectionRequest, receipt: Receipt) -> Collecting:
        begin = receipt.monotonic + _lead(request, receipt)
        collection = Collection(
            id=request.id,
            state=CollectionState.SCHEDULED,
            now=receipt.instant,
            received_at=receipt.instant,
            late=self._monotonic() - begin > _ON_TIME,
            duration_seconds=request.duration_seconds,
            pieces=tuple(
                PieceResult(target=target, profile=profile)
                for target in dict.fromkeys(request.targets or self._targets)
                for profile in dict.fromkeys(request.profiles)
            ),
        )
        going = Collecting(
            collection,
            self._targets,
            storage=self._storage,
            kept=self._kept,
            metrics=self._metrics,
            now=self._now,
            monotonic=self._monotonic,
        )
        self._going = going
        self._task = asyncio.create_task(self._drive(going, begin), name=f"collection {request.id}")
        return going

    async def _drive(self, going: Collecting, begin: float) -> None:
        """Carry a collection from its first write to its last; whatever goes wrong, the agent is free afterwards."""
        try:
            await self._kept.save(going.collection)
        except Exception as error:  # noqa: BLE001 a task's edge: it is logged and counted
            going.refusal = self._refusal(going, error)
            self._going = None
            with contextlib.suppress(AgentError):  # what is left of it is found at the next start
                await self._kept.remove(going.collection.id)
            return
        finally:
            going.accepted.set()
        self._metrics.running.set(1)
        try:
            await self._run(going, begin)
        except asyncio.CancelledError:
            if self.stopping:
                raise
            going.give_up(FailureReason.CANCELLED, "the collection was cancelled")
            going.change(state=CollectionState.CANCELLED, reason=FailureReason.CANCELLED, finished_at=self._now())
        finally:
            self._metrics.running.set(0)
        await self._finish(going)

    def _refusal(self, going: Collecting, error: Exception) -> AgentError:
        if isinstance(error, AgentError):
            logger.warning("collection %s is not started: %s", going.collection.id, error)
            return error
        logger.error("collection %s is not started", going.collection.id, exc_info=error)
        self._metrics.internal_errors.inc()
        return AgentError(FailureReason.INTERNAL, _OWN_FAULT)

    async def _run(self, going: Collecting, begin: float) -> None:
        identifier, duration = going.collection.id, going.collection.duration_seconds
        logger.info("collection %s: %d profiles, %d s", identifier, len(going.collection.pieces), duration)
        try:
            await going.run(begin)
        except Exception:
            # A task's edge: the agent must be free for the next collection.
            logger.exception("collection %s failed", identifier)
            self._metrics.internal_errors.inc()
            going.give_up(FailureReason.INTERNAL, _OWN_FAULT)
            going.change(state=CollectionState.FAILED, reason=FailureReason.INTERNAL, message=_OWN_FAULT)
        else:
            going.change(state=CollectionState.DONE)
            if not going.collection.pieces:
                message = "this agent has no targets: see --help for how to give it some"
                going.change(state=CollectionState.FAILED, reason=FailureReason.TARGET_UNAVAILABLE, message=message)
        going.change(finished_at=self._now())

    async def _finish(self, going: Collecting) -> None:
        collection = going.collection
        failed = sum(piece.reason is not None for piece in collection.pieces)
        logger.info(
            "collection %s: %s, %d of %d profiles failed",
            collection.id, collection.state, failed, len(collection.pieces),
        )  # fmt: skip
        try:
            await self._kept.add(collection)
        except Exception:
            # A task's edge, as above; it is kept in memory.
            logger.exception("the end of collection %s is not recorded", collection.id)
            self._metrics.internal_errors.inc()
        finally:
            self._going = None
            going.finished.set()


def _lead(request: CollectionRequest, receipt: Receipt) -> float:
    """Seconds from receipt to the start that is asked for; negative where it has passed."""
    if request.start_at is None:
        return 0.0
    lead = (request.start_at - (request.sent_at or receipt.instant)).total_seconds()
    if lead > FURTHEST_START:
        raise InvalidInput(
            f"the start is {lead:.0f} s ahead; at most {FURTHEST_START:.0f} are allowed", pointer="/startAt"
        )
    return lead
