"""A Run as its driver writes it: fenced by the term of leadership, and retried while the store is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeVar

import structlog

from nodeobs.errors import Conflict, LeadershipLost, NotFound, OutputError, StoreDenied, StoreError, StoreUnavailable
from nodeobs.model import API_VERSION, GROUP, DriverClaim, NodeObservability, OwnerReference, Run, RunStatus, replace
from nodeobs.runs import results
from nodeobs.store.base import Store

log = structlog.get_logger(__name__)

FINALIZER: Final = f"{GROUP}/driven"
"""Keeps a Run that is being deleted until it is cancelled on the agents."""

_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 5.0
_QUICK_TRIES = 10
_CANCELLED_TRIES = 5
_TRIES_TO_SAY_IT_AGAIN = 60

T = TypeVar("T")


class HandedOver(Exception):
    """The driver was told to let go."""


class ClaimedRun:
    """One Run and who may write it; ``run`` is its newest known state."""

    def __init__(self, run: Run, *, store: Store, claim: DriverClaim, now: Callable[[], datetime]) -> None:
        self.run = run
        self.handed_over = threading.Event()
        self.cancelled = run.spec.cancel or run.metadata.deletion_timestamp is not None
        self._store = store
        self._claim = claim
        self._now = now

    def hold(self, parent: NodeObservability | None) -> None:
        """Keep the Run from vanishing while it is driven, and have it go with its NodeObservability.

        Raises as :meth:`write`.
        """
        owners = self.run.metadata.owner_references
        if parent is not None and all(owner.uid != parent.metadata.uid for owner in owners):
            owners = (*owners, _owner(parent))

        def held(run: Run) -> Run:
            if run.metadata.deletion_timestamp is not None:
                return run  # the API server takes no more finalizers for it
            finalizers = (*(name for name in run.metadata.finalizers if name != FINALIZER), FINALIZER)
            return replace(run, metadata=replace(run.metadata, finalizers=finalizers, owner_references=owners))

        self._change(held)

    def write(self, change: Callable[[RunStatus], RunStatus]) -> None:
        """Change the status as it is stored now, until it is written; what users changed meanwhile stays.

        Raises:
            LeadershipLost: a driver of another term wrote it, or it is finished.
            NotFound: the Run is gone.
            HandedOver: the driver was told to let go.
        """
        self._change(lambda run: replace(run, status=replace(change(run.status), driver=self._claim)))

    def release(self) -> None:
        """Let the finished Run be deleted; whoever leads next does what is not done here."""
        try:
            self.until_possible(lambda: release(self._store, self.run))
        except (HandedOver, NotFound):
            return

    def until_possible(self, action: Callable[[], T], *, hindrance: str = "") -> T:
        """Do it, again and again while the stores cannot be reached; nothing collected is given up for that.

        What fails with an OutputError, or has a ``hindrance`` (what the Run's status is to say), must not be waited
        for for ever by a Run that is cancelled.

        Raises:
            OutputError: outputs cannot be stored, and the Run is cancelled.
            StoreUnavailable: there is a ``hindrance``, and the Run is cancelled.
            HandedOver: the driver was told to let go.
        """
        tries, said = 0, ""
        while True:
            tries += 1
            if self.handed_over.is_set():
                raise HandedOver
            try:
                return action()
            except (StoreUnavailable, OutputError) as error:
                if str(error) != said or tries % _TRIES_TO_SAY_IT_AGAIN == 0:
                    said = str(error)
                    log.warning("a run cannot go on, trying again", run=self.run.key, error=said)
                why = "cannot store the output" if isinstance(error, OutputError) else hindrance
                if why and self.cancelled and tries >= _CANCELLED_TRIES:
                    raise
                if why or isinstance(error, StoreDenied):
                    self._explain(f"{why or 'cannot go on'}, trying again: {error}")
                self.handed_over.wait(_RETRY_SECONDS if tries < _QUICK_TRIES else _LONGEST_RETRY_SECONDS)

    def _change(self, change: Callable[[Run], Run]) -> None:
        def attempt() -> Run:
            while True:
                stored = self._store.get(Run, self.run.metadata.name, self.run.metadata.namespace)
                if stored.finished and stored.status.driver == self._claim:
                    return stored  # written by an earlier attempt, whose answer was lost
                self._check_ours(stored)
                with suppress(Conflict):
                    return self._store.update(change(stored))

        self.run = self.until_possible(attempt)

    def _check_ours(self, stored: Run) -> None:
        if stored.metadata.uid != self.run.metadata.uid:
            raise NotFound(f"Run {self.run.key} was deleted and another of its name created")
        driver = stored.status.driver
        if driver is not None and driver.term > self._claim.term:
            raise LeadershipLost(f"Run {self.run.key} is driven by {driver.holder}, in term {driver.term}")
        if stored.finished:
            raise LeadershipLost(f"Run {self.run.key} was already finished as {stored.status.phase.value}")

    def _explain(self, message: str) -> None:
        """Say in the Run's status why it does not go on; where that cannot be written either, the log has it."""
        with suppress(StoreError):
            run = self._store.get(Run, self.run.metadata.name, self.run.metadata.namespace)
            self._check_ours(run)
            status = results.going(run.status, run.status.phase, message=message, now=self._now())
            if [condition.message for condition in run.status.conditions[:1]] != [message]:
                self.run = self._store.update(replace(run, status=status))


def release(store: Store, run: Run) -> None:
    """Take the driver's finalizer off a finished Run.

    Raises:
        NotFound: it is gone.
        StoreUnavailable: a retry can help.
    """
    while FINALIZER in run.metadata.finalizers:
        finalizers = tuple(name for name in run.metadata.finalizers if name != FINALIZER)
        try:
            store.update(replace(run, metadata=replace(run.metadata, finalizers=finalizers)))
        except Conflict:
            uid = run.metadata.uid
            run = store.get(Run, run.metadata.name, run.metadata.namespace)
            if run.metadata.uid == uid:
                continue
        return


def _owner(parent: NodeObservability) -> OwnerReference:
    return OwnerReference(api_version=API_VERSION, kind=parent.KIND, name=parent.metadata.name, uid=parent.metadata.uid)
