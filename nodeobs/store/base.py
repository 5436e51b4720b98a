"""What every store offers; it behaves as the Kubernetes API does, so that the controller need not know which it has."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nodeobs.model import Resource

R = TypeVar("R", bound=Resource)


class Reader(Protocol):
    """Consistent reads: within a creating transaction they see exactly what the creation will be added to."""

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """The object.

        Raises:
            NotFound: there is none.
            StoreUnavailable: the store cannot be read now.
        """

    def list(self, kind: type[R], *, unfinished: bool = False) -> Sequence[R]:
        """All objects of that kind, oldest first; ``unfinished`` leaves out those that are finished, unread.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """


Admit = Callable[[Reader], None]
"""Decides within the creating transaction; raises to refuse, and nothing is created."""


class ChangeType(enum.StrEnum):
    """As in a Kubernetes watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True)
class Change(Generic[R]):
    """One change; of a deleted object, the last state before it."""

    type: ChangeType
    object: R
    revision: str


@dataclass(frozen=True)
class Snapshot(Generic[R]):
    """All objects of a kind, and the revision to watch from."""

    items: tuple[R, ...]
    revision: str


class Store(Reader, Protocol):
    """Runs, NodeObservabilities and trigger records. Safe to be used from many threads and processes."""

    def create(self, resource: R, *, admit: Admit | None = None) -> R:
        """Store a new object, giving it uid, creationTimestamp and resourceVersion; return it as stored.

        Raises:
            AlreadyExists: its namespace and name are taken (checked before ``admit`` is asked).
            InvalidInput: it is outside the model's bounds and could not be read again.
            StoreUnavailable: a retry can help.
            Exception: whatever ``admit`` raised.
        """

    def update(self, resource: R) -> R:
        """Replace the object that was read at the same resourceVersion; return it as stored.

        uid and timestamps in the metadata stay as they are stored. Writing what is there already is no change. An
        object with a deletionTimestamp whose last finalizer is taken away is gone afterwards.

        Raises:
            InvalidInput: it is outside the model's bounds and could not be read again.
            NotFound: it is gone.
            Conflict: it was written since it was read.
            StoreUnavailable: a retry can help.
        """

    def delete(self, kind: type[R], name: str, namespace: str = "", *, uid: str = "") -> None:
        """Delete the object, or mark it with a deletionTimestamp while it has finalizers.

        With ``uid`` only the object that has it, and none that was created later under the same name.

        Raises:
            NotFound: there is none.
            StoreUnavailable: a retry can help.
        """

    def snapshot(self, kind: type[R]) -> Snapshot[R]:
        """A consistent list, and the revision it was made at."""

    def watch(self, kind: type[R], since: str, *, stop: threading.Event, seconds: float) -> Iterator[Change[R]]:
        """Changes after revision ``since`` in order, until ``stop`` is set or ``seconds`` have passed.

        Looks at least once. Changes by other processes are seen as well, within half a second.

        Raises:
            WatchExpired: the changes since then are no longer kept; take a new snapshot.
        """

    def close(self) -> None:
        """Release what is held open."""
