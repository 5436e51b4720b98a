"""The leader: claims Pending Runs, goes on with those it finds claimed, and settles races.

One thread runs :meth:`Controller.run`; while it leads there is one more for each Run that is going and one for
housekeeping. Everything is decided from the store's state, so that it does not matter which process does it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from nodeobs.errors import Conflict, InvalidInput, LeadershipLost, NotFound, StoreError, StoreUnavailable, WatchExpired
from nodeobs.metrics import Metrics
from nodeobs.model import DriverClaim, NodeObservability, Phase, Run, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.runs import announcements, results
from nodeobs.runs.claimed import FINALIZER, release
from nodeobs.runs.driver import Driver, Ending, Surroundings
from nodeobs.runs.exporter import RunExporter
from nodeobs.runs.history import History
from nodeobs.runs.rules import settle
from nodeobs.store.base import Change, ChangeType, Store

log = structlog.get_logger(__name__)

_STANDBY_SECONDS = 1.0
_WATCH_SECONDS = 60.0
_OWED_SECONDS = 10.0
"""What could not be done is tried again after so long."""
_LOST_SECONDS = 0.25
_HANDOVER_SECONDS = 1.5
_ATTEMPTS = 3
_RETRY_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 15.0


class Leadership(Protocol):
    """Who may drive Runs: a file lock, a Lease."""

    holder: str
    leader: str
    """Who leads, as far as it was seen when this process could not; else empty."""

    def try_acquire(self) -> int | None:
        """Term that was acquired, higher than any before; None where another process leads."""

    def held(self) -> bool:
        """Whether no other process leads, as far as can be told here."""

    def release(self) -> None:
        """Let another process lead at once."""


class Controller:
    """Drives the Runs of a store for as long as this process leads.

    ``beside`` are bodies of threads that run meanwhile, such as the housekeeping; each ends soon after its event is
    set.
    """

    def __init__(
        self,
        *,
        store: Store,
        leadership: Leadership,
        surroundings: Surroundings,
        history: History,
        beside: Sequence[Callable[[threading.Event], None]],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._surroundings = surroundings
        self._history = history
        self._beside = beside
        self._metrics = metrics
        self._now = now
        self._exporter = RunExporter(metrics)
        self._lock = threading.Lock()
        self._drivers: dict[str, Driver] = {}
        """By the Run's uid, while their threads live."""

    def run(self, stop: threading.Event) -> None:
        """Lead whenever possible until ``stop`` is set; then hand over what is going, within two seconds."""
        stood_by_for = None
        while not stop.is_set():
            term = self._leadership.try_acquire()
            if term is None:
                if self._leadership.leader not in ("", stood_by_for):  # once, not every second
                    stood_by_for = self._leadership.leader
                    log.info("standing by", leader=stood_by_for)
                stop.wait(_STANDBY_SECONDS)
                continue
            stood_by_for = None
            try:
                self._lead(DriverClaim(holder=self._leadership.holder, term=term), stop)
            finally:
                self._exporter.clear()
                self._metrics.leader.set(0)
                self._leadership.release()
                log.info("no longer leading", term=term)

    def _lead(self, claim: DriverClaim, stop: threading.Event) -> None:
        log.info("leading", holder=claim.holder, term=claim.term)
        self._metrics.leader.set(1)
        over = threading.Event()
        keepers = [
            threading.Thread(target=self._watch_over, args=(stop, over), name="leadership", daemon=True),
            *(threading.Thread(target=body, args=(over,), name="beside leading", daemon=True) for body in self._beside),
        ]
        for keeper in keepers:
            keeper.start()
        threads: list[threading.Thread] = []
        failures = 0
        try:
            while not over.is_set():
                try:
                    self._follow(claim, threads, over)
                    failures = 0
                except StoreError as error:
                    failures += 1
                    if isinstance(error, WatchExpired):  # it happens, and nothing is missed
                        log.info("changes are no longer kept, listing again", error=str(error))
                    else:
                        log.warning("cannot follow the store, trying again", error=str(error))
                    over.wait(min(_MAX_BACKOFF_SECONDS, 2 ** min(failures, 9) / 4) * random.uniform(0.5, 1.0))  # noqa: S311
        finally:
            over.set()
            self._hand_over([*threads, *keepers])

    def _watch_over(self, stop: threading.Event, over: threading.Event) -> None:
        """End the term when the process is to end, or when another process has taken the lead."""
        while not stop.wait(_LOST_SECONDS) and not over.is_set():
            if not self._leadership.held():
                log.warning("another process leads now")
                break
        over.set()

    def _follow(self, claim: DriverClaim, threads: list[threading.Thread], stop: threading.Event) -> None:
        """Act on every change until the watch ends or fails."""
        runs, since = self._take_stock()
        done = self._reconcile(runs, claim, threads)
        while not stop.is_set():
            for change in self._store.watch(Run, since, stop=stop, seconds=_WATCH_SECONDS if done else _OWED_SECONDS):
                since = change.revision
                self._note(change, runs)
                done = self._reconcile(runs, claim, threads)
                if not done:
                    break
            else:
                self._exporter.keep(self._store.list(NodeObservability))
                # Without a change as well: a driver may have let go of a Run that is still to be finished.
                done = self._reconcile(runs, claim, threads)

    def _note(self, change: Change[Run], runs: dict[str, Run]) -> None:
        run = change.object
        runs.pop(run.metadata.uid, None)
        if change.type is ChangeType.DELETED:
            self._history.drop(run.metadata.uid)
            return
        if run.finished:
            self._history.note(run)
        if _concerns(run):
            runs[run.metadata.uid] = run

    def _take_stock(self) -> tuple[dict[str, Run], str]:
        """Runs that there is something to do about, by uid, and the revision to watch from.

        The others are shown, and not held in memory.
        """
        snapshot = self._store.snapshot(Run)
        self._exporter.restore(snapshot.items, self._store.list(NodeObservability))
        self._history.reset(snapshot.items)
        return {run.metadata.uid: run for run in snapshot.items if _concerns(run)}, snapshot.revision

    def _reconcile(self, runs: Mapping[str, Run], claim: DriverClaim, threads: list[threading.Thread]) -> bool:
        """Do what the Runs need; False where something is left to do, which holds up no other Run."""
        with self._lock:
            drivers = dict(self._drivers)
        for uid, driver in drivers.items():
            if uid not in runs or runs[uid].finished:
                driver.cancel()  # deleted, or finished by somebody else: its agents are wanted for the next Run
        settlement = settle(list(runs.values()), begun=drivers)
        # While its driver lives, it lets go of a finished Run itself, unless it is a driver that lost it.
        done = [
            run.metadata.uid not in drivers and self._written(run, partial(release, self._store, run))
            for run in runs.values()
            if run.finished
        ]
        done += [self._written(run, partial(self._reject, run, holder)) for run, holder in settlement.rejected]
        self._drive(settlement.driven, claim, threads)
        return all(done)

    def _written(self, run: Run, write: Callable[[], None]) -> bool:
        """Write something about a Run; False where that is not possible now."""
        try:
            write()
        except (Conflict, NotFound):
            return True  # the change that made it so brings us here again
        except (StoreUnavailable, InvalidInput) as error:
            log.warning("cannot write a run, trying again", run=run.key, error=str(error))
            return False
        return True

    def _drive(self, runs: Iterable[Run], claim: DriverClaim, threads: list[threading.Thread]) -> None:
        for run in runs:
            uid = run.metadata.uid
            with self._lock:
                driver = self._drivers.get(uid)
                if driver is None:
                    driver = Driver(run, around=self._surroundings, claim=claim)
                    thread = threading.Thread(target=self._carry, args=(driver, claim), name=f"run-{uid}", daemon=True)
                    threads[:] = [*(thread for thread in threads if thread.is_alive()), thread]
                    thread.start()
                    # Only now: where no thread can be started, the next look at the Run tries again.
                    self._drivers[uid] = driver
            if run.spec.cancel or run.metadata.deletion_timestamp is not None:
                driver.cancel()

    def _reject(self, run: Run, holder: Run) -> None:
        message = f"Run {holder.key} on the same NodeObservability was first; one Run at a time"
        status = results.finished(run.status, Phase.REJECTED, reason="ConcurrentRun", message=message, now=self._now())
        rejected = self._store.update(replace(run, status=status))
        log.info("run rejected", run=run.key, holder=holder.key)
        self._exporter.count(rejected, None)
        self._surroundings.announce(rejected, announcements.rejected(holder))

    def _carry(self, driver: Driver, claim: DriverClaim) -> None:
        """Body of a Run's thread: drive it, and again when something unforeseen went wrong, then give up on it."""
        run = driver.run
        self._exporter.started(run)
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                if self._attempt(driver):
                    return
                if driver.wait_handed_over(_RETRY_SECONDS * attempt):
                    return
                driver = self._renew(driver, claim)
            if driver.fail("an internal error, see the service's log") is Ending.FINISHED:
                self._tell(driver.run, None)
        except (LeadershipLost, StoreError) as error:
            log.warning("letting go of a run", run=run.key, error=str(error))
        except Exception:  # a thread's edge
            log.exception("giving up on a run failed, it is looked at again", run=run.key)
            self._metrics.internal_errors.labels("driver").inc()
        finally:
            with self._lock:
                self._drivers.pop(run.metadata.uid, None)
            self._exporter.ended(run)

    def _attempt(self, driver: Driver) -> bool:
        """Drive once; False when it failed in a way that trying again may mend."""
        try:
            ending = driver.drive()
        except (LeadershipLost, StoreError):
            raise
        except Exception:  # a thread's edge
            log.exception("driving a run failed", run=driver.run.key)
            self._metrics.internal_errors.labels("driver").inc()
            return False
        if ending is Ending.FINISHED:
            self._tell(driver.run, driver.manifest)
            driver.clean_up()
        return True

    def _tell(self, run: Run, manifest: Manifest | None) -> None:
        self._exporter.finished(run, manifest)
        for announcement in announcements.finished(run, manifest):
            self._surroundings.announce(run, announcement)

    def _renew(self, driver: Driver, claim: DriverClaim) -> Driver:
        run = self._store.get(Run, driver.run.metadata.name, driver.run.metadata.namespace)
        with self._lock:
            fresh = self._drivers[run.metadata.uid] = Driver(run, around=self._surroundings, claim=claim)
        return fresh

    def _hand_over(self, threads: list[threading.Thread]) -> None:
        with self._lock:
            drivers = list(self._drivers.values())
        for driver in drivers:
            driver.hand_over()
        until = time.monotonic() + _HANDOVER_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("still busy at hand-over, left behind", thread=thread.name)


def _concerns(run: Run) -> bool:
    """Whether there is anything to do about it: to finish it, or to let it be deleted."""
    return not run.finished or FINALIZER in run.metadata.finalizers
