"""The collections that have finished, and the room that all profiles on this node may take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from nodeobs.errors import AgentError
from nodeobs.model import Collection, CollectionState, FailureReason, PieceResult, PieceState, replace
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.storage import Storage
from nodeobs.nodeagent.threads import in_thread

logger = logging.getLogger(__name__)

MOST_COLLECTIONS: Final = 256
"""Kept at most, however small."""

_RESTARTED: Final = "the agent was restarted while this was going"


class Kept:
    """Finished collections, oldest first. Room for new profiles is made by removing the oldest ones."""

    def __init__(
        self,
        storage: Storage,
        metrics: AgentMetrics,
        *,
        max_bytes: int,
        max_age: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._storage = storage
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._now = now
        self._collections: dict[str, Collection] = {}
        self._bytes = 0
        # One at a time: a collection is never written while it is being removed.
        self._disk = asyncio.Lock()

    def recover(self) -> None:
        """Read what an earlier process left. What was going then has failed: ``AgentRestarted``. Blocks."""
        for found in self._storage.load():
            collection = found
            if not found.state.final:
                collection = _interrupted(found, self._now())
                logger.warning("collection %s was interrupted by a restart of the agent", found.id)
                self._save_recovered(collection)
            self._collections[collection.id] = collection
            self._add_bytes(_size(collection))

    def _save_recovered(self, collection: Collection) -> None:
        try:
            self._storage.save(collection)
        except AgentError as error:
            # A full disk must not keep the agent from starting; the next start finds the collection once more.
            logger.warning("state of collection %s could not be written: %s", collection.id, error)

    def get(self, identifier: str) -> Collection | None:
        """The collection, if it is kept."""
        return self._collections.get(identifier)

    @property
    def newest(self) -> Collection | None:
        """The one received last."""
        return next(reversed(self._collections.values()), None)

    async def save(self, collection: Collection) -> None:
        """Write the state of a collection, kept or not yet.

        Raises:
            AgentError: it cannot be written (``StorageFull``, ``Internal``).
        """
        async with self._disk:
            await in_thread(self._storage.save, collection)

    async def add(self, collection: Collection) -> None:
        """Keep a finished collection. Its bytes were reserved while it was going."""
        self._collections[collection.id] = collection
        try:
            await self.save(collection)
        except AgentError as error:
            logger.warning("state of collection %s is kept in memory only: %s", collection.id, error)

    async def remove(self, identifier: str) -> None:
        """Remove a collection and its files; one that is not there is no error.

        Raises:
            AgentError: ``Internal``: they cannot be removed.
        """
        async with self._disk:
            await self._remove(identifier)

    async def reserve(self, size: int) -> None:
        """Make room for ``size`` more bytes.

        Raises:
            AgentError: ``StorageFull``: what is going takes all there is; ``Internal``: an old one cannot be removed.
        """
        async with self._disk:
            removable = [(kept.id, _size(kept)) for kept in self._collections.values() if _size(kept)]
            excess = self._bytes + size - self._max_bytes
            if excess > sum(taken for _, taken in removable):
                raise AgentError(
                    FailureReason.STORAGE_FULL,
                    f"more than the {self._max_bytes} bytes that profiles may take on this node (--max-bytes)",
                )
            for identifier, taken in removable:
                if excess <= 0:
                    break
                logger.info("collection %s is removed to make room", identifier)
                await self._remove(identifier)
                excess -= taken
            self._add_bytes(size)

    def release(self, size: int) -> None:
        """Give back bytes that were reserved and are not used."""
        self._add_bytes(-size)

    async def expire(self) -> None:
        """Remove what is too old, or beyond the number kept."""
        oldest_allowed = self._now() - self._max_age
        expired = [kept.id for kept in self._collections.values() if kept.received_at < oldest_allowed]
        surplus = list(self._collections)[: max(0, len(self._collections) - MOST_COLLECTIONS)]
        for identifier in dict.fromkeys([*expired, *surplus]):
            logger.info("collection %s has expired and is removed", identifier)
            try:
                await self.remove(identifier)
            except AgentError as error:
                logger.warning("collection %s has expired and stays: %s", identifier, error)

    async def _remove(self, identifier: str) -> None:
        await in_thread(self._storage.remove, identifier)
        collection = self._collections.pop(identifier, None)
        if collection is not None:
            self._add_bytes(-_size(collection))

    def _add_bytes(self, size: int) -> None:
        self._bytes += size
        self._metrics.stored_bytes.set(self._bytes)


def _size(collection: Collection) -> int:
    return sum(piece.file.bytes for piece in collection.pieces if piece.file)


def _interrupted(collection: Collection, now: datetime) -> Collection:
    pieces = tuple(_interrupted_piece(piece) for piece in collection.pieces)
    if pieces == collection.pieces and pieces:
        # Everything had ended; only the last write was missing.
        return replace(collection, state=CollectionState.DONE, finished_at=now)
    return replace(
        collection,
        state=CollectionState.FAILED,
        finished_at=now,
        reason=FailureReason.AGENT_RESTARTED,
        message=_RESTARTED,
        pieces=pieces,
    )


def _interrupted_piece(piece: PieceResult) -> PieceResult:
    if piece.state in (PieceState.DONE, PieceState.FAILED):
        return piece
    return replace(piece, state=PieceState.FAILED, reason=FailureReason.AGENT_RESTARTED, message=_RESTARTED)


def any_failed(pieces: Iterable[PieceResult]) -> bool:
    """Whether one of the pieces has failed."""
    return any(piece.state is PieceState.FAILED for piece in pieces)
