"""Any sequence of calls leaves the store as it would leave a dict."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodeobs.errors import AlreadyExists, Conflict, NotFound
from nodeobs.model import Phase, Run, replace
from nodeobs.store.base import ChangeType
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_run
from tests.store.conftest import utc_now

NS = "nodeobs"
NAMES = st.sampled_from(["a", "b", "c"])
FINALIZERS = st.sampled_from([(), ("x",), ("x", "y")])


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "nodeobs.db"
        self.store = SqliteStore(self.path, now=utc_now)
        self.model: dict[str, Run] = {}
        self.followed: dict[str, Run] = {}
        """What somebody who only watches knows."""
        self.revision = "0"
        self.stale: list[Run] = []

    @rule(name=NAMES, finalizers=FINALIZERS)
    def create(self, name: str, finalizers: tuple[str, ...]) -> None:
        run = make_run(name)
        run = replace(run, metadata=replace(run.metadata, finalizers=finalizers))
        if name in self.model:
            with pytest.raises(AlreadyExists):
                self.store.create(run)
        else:
            self.model[name] = self.store.create(run)

    @rule(name=NAMES, phase=st.sampled_from(Phase), finalizers=FINALIZERS)
    def update(self, name: str, phase: Phase, finalizers: tuple[str, ...]) -> None:
        run = self.model.get(name)
        if run is None:
            with pytest.raises(NotFound):
                self.store.update(make_run(name))
            return
        changed = replace(
            run, metadata=replace(run.metadata, finalizers=finalizers), status=replace(run.status, phase=phase)
        )
        stored = self.store.update(changed)
        assert stored.status.phase is phase
        assert (stored == run) == (changed == run and not (run.metadata.deletion_timestamp and not finalizers))
        self.stale.append(run)
        if run.metadata.deletion_timestamp and not finalizers:
            del self.model[name]
        else:
            self.model[name] = stored

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def update_from_long_ago(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.stale))
        if self.model.get(old.metadata.name) != old:
            with pytest.raises((Conflict, NotFound)):
                self.store.update(old)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        run = self.model.get(name)
        if run is None:
            with pytest.raises(NotFound):
                self.store.delete(Run, name, NS)
            return
        self.store.delete(Run, name, NS)
        if run.metadata.finalizers:
            self.model[name] = self.store.get(Run, name, NS)
            assert self.model[name].metadata.deletion_timestamp is not None
        else:
            del self.model[name]

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = SqliteStore(self.path, now=utc_now)

    @rule()
    def follow(self) -> None:
        for change in self.store.watch(Run, self.revision, stop=threading.Event(), seconds=0):
            name = change.object.metadata.name
            assert (change.type is ChangeType.ADDED) == (name not in self.followed)
            self.followed[name] = change.object
            if change.type is ChangeType.DELETED:
                del self.followed[name]
            self.revision = change.revision
        assert self.followed == self.model

    @invariant()
    def holds_the_same(self) -> None:
        assert {run.metadata.name: run for run in self.store.list(Run)} == self.model

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
