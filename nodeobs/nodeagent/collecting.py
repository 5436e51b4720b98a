"""One collection while it goes: every target side by side, its files, its state.

For one target, cpu and trace run at the same time for the whole duration; snapshots (heap, goroutine, ...) are
taken after them, one by one, so that writing them does not show in the CPU profile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from nodeobs.debugpprof import is_timed
from nodeobs.errors import AgentError
from nodeobs.model import (
    Collection,
    CollectionState,
    FailureReason,
    FileInfo,
    PieceResult,
    PieceState,
    ProfileType,
    file_name,
    replace,
)
from nodeobs.nodeagent.kept import Kept
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.storage import PartFile, Storage
from nodeobs.nodeagent.targets import Target
from nodeobs.nodeagent.threads import in_thread

logger = logging.getLogger(__name__)

LONGEST_TRANSFER: Final = 45.0
"""Seconds beyond the duration after which a profile that is still coming is given up."""
_WRITE_SIZE: Final = 262_144


class Collecting:
    """A collection that was accepted and has not finished. ``collection`` is its state now."""

    def __init__(
        self,
        collection: Collection,
        targets: Mapping[str, Target],
        *,
        storage: Storage,
        kept: Kept,
        metrics: AgentMetrics,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self.collection = collection
        self.accepted = asyncio.Event()
        """Set when its first state is on disk, or ``refusal`` says why it is not."""
        self.refusal: AgentError | None = None
        self.finished = asyncio.Event()
        self._targets = targets
        self._storage = storage
        self._kept = kept
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic

    async def run(self, begin: float) -> None:
        """Wait until ``begin`` on the monotonic clock, then profile every target. Ends with every piece final."""
        await asyncio.sleep(max(0.0, begin - self._monotonic()))
        self.change(state=CollectionState.RUNNING, started_at=self._now())
        async with asyncio.TaskGroup() as group:
            for target in dict.fromkeys(piece.target for piece in self.collection.pieces):
                group.create_task(self._profile(target))

    def change(self, **changes: Any) -> None:
        """Change attributes of the state."""
        self.collection = replace(self.collection, **changes)

    def give_up(self, reason: FailureReason, message: str) -> None:
        """Mark every piece that has not ended as failed."""
        for index, piece in enumerate(self.collection.pieces):
            if piece.state not in (PieceState.DONE, PieceState.FAILED):
                self._change_piece(index, state=PieceState.FAILED, reason=reason, message=message)

    async def _profile(self, target: str) -> None:
        mine = [index for index, piece in enumerate(self.collection.pieces) if piece.target == target]
        await self._together(index for index in mine if is_timed(self.collection.pieces[index].profile))
        for index in mine:
            if not is_timed(self.collection.pieces[index].profile):
                await self._take(index)

    async def _together(self, pieces: Iterable[int]) -> None:
        async with asyncio.TaskGroup() as group:
            for index in pieces:
                group.create_task(self._take(index))

    async def _take(self, index: int) -> None:
        piece = self.collection.pieces[index]
        begun = self._monotonic()
        self._change_piece(index, state=PieceState.RUNNING, started_at=self._now())
        try:
            file = await self._store(self._target(piece.target), piece)
        except AgentError as error:
            self._fail(index, error.reason, error.message)
        except Exception:
            # One piece's edge: its neighbours go on.
            logger.exception("collection %s: %s %s failed", self.collection.id, piece.target, piece.profile)
            self._metrics.internal_errors.inc()
            self._fail(index, FailureReason.INTERNAL, "the agent failed; its log has the details")
        else:
            self._change_piece(index, state=PieceState.DONE, file=file)
        self._change_piece(index, seconds=round(self._monotonic() - begun, 3))
        if piece.target in self._targets:
            self._metrics.count(self.collection.pieces[index])
        await self._save()

    async def _store(self, target: Target, piece: PieceResult) -> FileInfo:
        name = file_name(piece.target, piece.profile)
        seconds = self.collection.duration_seconds
        limit = LONGEST_TRANSFER + (seconds if is_timed(piece.profile) else 0)
        part = await in_thread(self._storage.new_file, self.collection.id, name)
        stored = False
        try:
            async with asyncio.timeout(limit):
                await self._copy(target, piece.profile, part)
            file = await in_thread(part.finish)
            stored = True
        except TimeoutError as error:
            raise AgentError(
                FailureReason.TIMEOUT, f"{target.endpoint} was still sending after {limit:g} seconds"
            ) from error
        finally:
            if not stored:
                self._kept.release(part.reserved)
                part.discard()
        return file

    async def _copy(self, target: Target, profile: ProfileType, part: PartFile) -> None:
        stream = target.stream(profile, self.collection.duration_seconds)
        async with contextlib.aclosing(stream) as chunks:
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= _WRITE_SIZE:
                    await self._write(part, waiting)
                    waiting = bytearray()
            await self._write(part, waiting)

    async def _write(self, part: PartFile, data: bytearray) -> None:
        await self._kept.reserve(len(data))
        part.reserved += len(data)
        await in_thread(part.write, data)

    def _fail(self, index: int, reason: FailureReason, message: str) -> None:
        self._change_piece(index, state=PieceState.FAILED, reason=reason, message=message[:4096])
        piece = self.collection.pieces[index]
        logger.warning(
            "collection %s: %s %s: %s: %s", self.collection.id, piece.target, piece.profile, reason, piece.message
        )

    def _target(self, name: str) -> Target:
        if name in self._targets:
            return self._targets[name]
        known = ", ".join(self._targets) or "none"
        raise AgentError(FailureReason.TARGET_UNAVAILABLE, f"this agent has no target {name!r}; it has: {known}")

    def _change_piece(self, index: int, **changes: Any) -> None:
        pieces = list(self.collection.pieces)
        pieces[index] = replace(pieces[index], **changes)
        self.change(pieces=tuple(pieces))

    async def _save(self) -> None:
        try:
            await self._kept.save(self.collection)
        except AgentError as error:
            logger.warning("state of collection %s could not be written: %s", self.collection.id, error)
