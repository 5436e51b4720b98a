"""Which outputs are let go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import OutputStoreUnavailable
from nodeobs.outputs.retention import INCOMPLETE_KEPT, OutputInfo, Policy, enforce, plan
from nodeobs.outputs.store import OutputStore
from tests.outputs.conftest import OTHER, UID, make_manifest

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GENEROUS = Policy(max_age=timedelta(days=10_000), max_count=10_000, max_bytes=10**15)


def output(uid: str, *, age: float, parent: str = "cluster", size: int = 1, complete: bool = True) -> OutputInfo:
    return OutputInfo(uid=uid, node_observability=parent, finished_at=NOW - age * DAY, bytes=size, complete=complete)


def days(*ages: float, size: int = 1) -> list[OutputInfo]:
    return [output(f"{age}d", age=age, size=size) for age in ages]


def limited(max_age: float = 10_000, max_count: int = 10_000, max_bytes: int = 10**15) -> Policy:
    return Policy(max_age=max_age * DAY, max_count=max_count, max_bytes=max_bytes)


def test_by_age() -> None:
    assert plan(days(1, 5, 9, 31, 40), limited(max_age=30), active=(), now=NOW) == ["40d", "31d"]


def test_by_number() -> None:
    assert plan(days(1, 2, 3, 4, 5), limited(max_count=3), active=(), now=NOW) == ["5d", "4d"]


def test_by_size() -> None:
    assert plan(days(1, 2, 3, 4, size=10), limited(max_bytes=25), active=(), now=NOW) == ["4d", "3d"]


def test_what_goes_for_age_makes_room() -> None:
    assert plan(days(1, 2, 40), limited(max_age=30, max_count=2), active=(), now=NOW) == ["40d"]


def test_the_newest_of_each_is_kept() -> None:
    outputs = [output("a", age=50, parent="a"), output("b", age=90, parent="b"), output("b-old", age=91, parent="b")]
    assert plan(outputs, limited(max_age=1, max_count=0, max_bytes=0), active=(), now=NOW) == ["b-old"]


def test_a_run_that_brought_nothing_does_not_take_the_place_of_the_last_good_output() -> None:
    outputs = [output("good", age=50), replace(output("bad", age=40), empty=True)]
    assert plan(outputs, limited(max_age=1), active=(), now=NOW) == ["bad"]


def test_an_incomplete_one_is_kept_a_day_and_never_the_newest() -> None:
    outputs = [
        output("fresh", age=0.9, complete=False),
        output("stale", age=1.1, complete=False),
        output("going", age=3, complete=False),
        output("done", age=100),
    ]
    assert plan(outputs, limited(max_age=1), active={"going"}, now=NOW) == ["stale"]


infos = st.lists(
    st.builds(
        OutputInfo,
        uid=st.uuids().map(str),
        node_observability=st.sampled_from(["a", "b", "c"]),
        finished_at=st.integers(-5, 100).map(lambda age: NOW - age * DAY),
        bytes=st.integers(0, 100),
        complete=st.booleans(),
    ),
    max_size=20,
    unique_by=lambda info: info.uid,
)
policies = st.builds(limited, max_age=st.integers(0, 90), max_count=st.integers(0, 20), max_bytes=st.integers(0, 1500))


def order(info: OutputInfo) -> tuple[datetime, str]:
    return info.finished_at, info.uid


@given(outputs=infos, policy=policies, data=st.data())
def test_the_rules_hold_for_any_outputs(outputs: Sequence[OutputInfo], policy: Policy, data: st.DataObject) -> None:
    active = {info.uid for info in outputs if data.draw(st.booleans())}
    doomed = plan(outputs, policy, active=active, now=NOW)
    gone = [info for info in sorted(outputs, key=order) if info.uid in doomed]
    kept = [info for info in outputs if info.uid not in doomed]

    assert doomed == [info.uid for info in gone], "oldest first, each once"
    assert not active & set(doomed)
    for parent in "abc":
        complete = [info for info in outputs if info.node_observability == parent and info.complete]
        if complete:
            assert max(complete, key=order) in kept
    newest = {
        max((i for i in outputs if i.complete and i.node_observability == info.node_observability), key=order).uid
        for info in outputs
        if info.complete
    }
    free = [info for info in kept if info.complete and info.uid not in active | newest]
    assert all(NOW - info.finished_at <= policy.max_age for info in free)
    if free:
        assert sum(info.complete for info in kept) <= policy.max_count
        assert sum(info.bytes for info in kept) <= policy.max_bytes
    for info in gone:
        if not info.complete:
            assert NOW - info.finished_at > INCOMPLETE_KEPT
        elif NOW - info.finished_at <= policy.max_age:
            assert all(order(other) > order(info) for other in free), "an older one was kept instead"
            back = [*kept, *(other for other in gone if other.complete and order(other) >= order(info))]
            assert len([o for o in back if o.complete]) > policy.max_count or (
                sum(o.bytes for o in back) > policy.max_bytes
            ), "it need not have gone"
    assert plan(kept, policy, active=active, now=NOW) == [], "once is enough"
    assert plan(list(reversed(outputs)), policy, active=active, now=NOW) == doomed


class TestEnforce:
    def test_deletes_what_is_planned(self, store: OutputStore) -> None:
        for uid, age in ((UID, 100), (OTHER, 200)):
            store.put_bytes(uid, "worker-1/kubelet-cpu.pb.gz", b"x")
            store.write_manifest(uid, make_manifest(uid, finished_at=NOW - age * DAY))
        assert enforce(store, limited(max_age=1000), active=(), now=NOW) == []
        assert enforce(store, limited(max_age=30), active={OTHER}, now=NOW) == []
        assert enforce(store, limited(max_age=30), active=(), now=NOW) == [OTHER]
        assert list(store.outputs()) == [UID]

    def test_an_incomplete_output_goes_after_a_day(self, folder: OutputStore, root: Path) -> None:
        folder.put_bytes(UID, "worker-1/kubelet-cpu.pb.gz", b"x")
        written = (NOW - 2 * DAY).timestamp()
        os.utime(root / UID / "worker-1" / "kubelet-cpu.pb.gz", (written, written))
        assert enforce(folder, GENEROUS, active={UID}, now=NOW) == []
        assert enforce(folder, GENEROUS, active=(), now=NOW) == [UID]

    def test_what_is_not_an_output_is_left_alone(self, folder: OutputStore, root: Path) -> None:
        (root / "photos").mkdir()
        (root / "photos" / "2019.jpg").write_bytes(b"x")
        os.utime(root / "photos" / "2019.jpg", (0, 0))
        (root / "backup").mkdir()
        folder.write_manifest("backup", make_manifest(UID, finished_at=NOW - 1000 * DAY))
        assert enforce(folder, limited(0, 0, 0), active=(), now=NOW) == []
        assert (root / "photos" / "2019.jpg").exists()

    def test_one_that_cannot_be_deleted_does_not_hold_the_others(self, folder: OutputStore, root: Path) -> None:
        uids = [f"{number}b7e2c1c-9a55-4b1f-8f0f-2f3f1f0e9d01" for number in range(3)]
        for number, uid in enumerate(uids):
            folder.write_manifest(uid, make_manifest(uid, finished_at=NOW - (100 - number) * DAY))
        broken = Undeletable(folder, uids[0])
        assert enforce(broken, limited(max_age=1), active=(), now=NOW) == [uids[1]]


class Undeletable(OutputStore):
    """A store on which one output cannot be deleted, as on a disk that has become read-only there."""

    def __init__(self, store: OutputStore, uid: str) -> None:
        vars(self).update(vars(store))
        self._uid = uid

    def delete(self, uid: str) -> None:
        if uid == self._uid:
            raise OutputStoreUnavailable(f"output {uid}: Read-only file system")
        super().delete(uid)
