"""What the leader clears away now and then: old Runs, old outputs, and what a killed process left half done."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from nodeobs.errors import InvalidInput, NodeobsError, NotFound, StoreDenied
from nodeobs.metrics import Metrics
from nodeobs.model import Run
from nodeobs.outputs.retention import Policy, enforce
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.history import History
from nodeobs.store.base import Store

log = structlog.get_logger(__name__)

_EVERY_SECONDS = 30.0
_RETENTION_ROUNDS = 10
"""Looking through all outputs is a listing of the whole bucket."""
_STAGED_KEPT = timedelta(minutes=10)
"""Other threads store while this one cleans: a file that is still being written is not this old."""


class Housekeeping:
    """Runs in a thread of its own, so that slow deletions hold up no Run."""

    def __init__(
        self,
        *,
        store: Store,
        history: History,
        outputs: OutputStore,
        spool: Path,
        policy: Policy,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._history = history
        self._outputs = outputs
        self._spool = spool
        self._policy = policy
        self._metrics = metrics
        self._now = now

    def run(self, stop: threading.Event) -> None:
        """Body of the thread: once at the start, then now and then until ``stop`` is set."""
        for turn in itertools.count():
            self._try(self.forget_runs)
            if turn % _RETENTION_ROUNDS == 0:
                self._try(self.clean_leftovers)
                self._try(self.retain_outputs)
            if stop.wait(_EVERY_SECONDS):
                return

    def clean_leftovers(self) -> None:
        """Remove what a killed process left half written, and what Runs that were given up left in the spool."""
        self._outputs.clean_staging(self._now() - _STAGED_KEPT)
        active = self._active()
        for folder in self._spool.iterdir() if self._spool.is_dir() else ():
            if folder.name not in active:
                shutil.rmtree(folder, ignore_errors=True)

    def forget_runs(self) -> None:
        """Delete finished Runs past their time, and those beyond the number that is kept."""
        for run in self._history.expired(self._now()):
            key = f"{run.namespace}/{run.name}"
            try:
                self._store.delete(Run, run.name, run.namespace, uid=run.uid)
                log.info("run forgotten", run=key)
            except NotFound:
                log.debug("run gone already", run=key)
            except (StoreDenied, InvalidInput) as error:  # this one: somebody's policy may want to keep it
                log.warning("cannot delete an old run, trying again later", run=key, error=str(error))
                continue
            self._history.drop(run.uid)

    def retain_outputs(self) -> None:
        """Delete outputs that the retention policy lets go."""
        for uid in enforce(self._outputs, self._policy, active=self._active(), now=self._now()):
            log.info("output deleted", uid=uid)

    def _active(self) -> set[str]:
        return {run.metadata.uid for run in self._store.list(Run, unfinished=True)}

    def _try(self, task: Callable[[], None]) -> None:
        try:
            task()
        except NodeobsError as error:
            log.warning("housekeeping failed, trying again later", task=task.__name__, error=str(error))
        except Exception:  # a thread's edge
            log.exception("housekeeping failed", task=task.__name__)
            self._metrics.internal_errors.labels("housekeeping").inc()
