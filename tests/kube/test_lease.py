"""One leader among replicas, whatever becomes of the one before, of the Lease, and of the API server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from nodeobs.errors import NotFound, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.lease import LEASES, LeaseLeadership
from tests.fakes.api_server import Answer, FakeApiServer, Request, status
from tests.kube.conftest import Serve
from tests.lab.apiserver import ApiServer
from tests.processes import ROOT, wait_for

NAME = "nodeobs"


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


def contender(
    client: KubeClient,
    namespace: str,
    holder: str,
    *,
    known: Callable[[], int] = lambda: 0,
    monotonic: Callable[[], float] = time.monotonic,
    duration: float = 15.0,
    renew: float = 0.1,
) -> LeaseLeadership:
    return LeaseLeadership(
        client,
        namespace=namespace,
        name=NAME,
        holder=holder,
        known_term=known,
        now=lambda: datetime.now(UTC),
        monotonic=monotonic,
        randomness=Random(1),
        duration=duration,
        renew=renew,
    )


# --- against a small API server of the test's own


@dataclass
class OneLease:
    """Keeps one Lease as an API server does; ``broken`` answers everything instead."""

    lease: dict[str, Any] | None = None
    revision: int = 0
    broken: Answer | None = None
    lose_next_answer: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Answer:
        if self.broken is not None:
            return self.broken
        with self.lock:
            answer = self._answer(request)
            if self.lose_next_answer and request.method != "GET":
                self.lose_next_answer = False
                return Answer(status=0, then="close")
            return answer

    def _answer(self, request: Request) -> Answer:
        if request.method == "POST" and self.lease is not None:
            return Answer(409, status(409, "AlreadyExists", "it exists"))
        if request.method != "POST" and self.lease is None:
            return Answer(404, status(404, "NotFound", "no lease"))
        if request.method == "GET":
            return Answer(body=self.lease)
        written = json.loads(request.body)
        if self.lease is not None and written["metadata"].get("resourceVersion") != str(self.revision):
            return Answer(409, status(409, "Conflict", "changed"))
        self.put(written)
        return Answer(body=self.lease)

    def put(self, lease: dict[str, Any]) -> None:
        self.revision += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.revision)}}

    def edit(self, **spec: object) -> None:
        """As somebody else writes it."""
        with self.lock:
            assert self.lease is not None
            self.put({**self.lease, "spec": {**self.lease["spec"], **spec}})

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        return dict(self.lease["spec"])


@pytest.fixture
def kept() -> OneLease:
    return OneLease()


@pytest.fixture
def fake(serve: Serve, kept: OneLease) -> tuple[FakeApiServer, KubeClient]:
    return serve(kept)


@pytest.fixture
def replica(fake: tuple[FakeApiServer, KubeClient]) -> Iterator[Callable[..., LeaseLeadership]]:
    """Makes replicas on the fake API server."""
    with ExitStack() as stack:

        def make(holder: str, **options: Any) -> LeaseLeadership:
            made = contender(fake[1], "ns", holder, **options)
            stack.callback(made.release)
            return made

        yield make


Replica = Callable[..., LeaseLeadership]


def test_one_leads_and_its_term_goes_on(replica: Replica, kept: OneLease) -> None:
    one, other = replica("one"), replica("other")
    assert not one.held()
    assert one.try_acquire() == 1
    assert one.held()
    assert other.try_acquire() is None
    assert not other.held()
    assert other.leader == "one"
    assert one.try_acquire() == 1
    assert kept.spec["holderIdentity"] == "one"
    assert kept.spec["leaseDurationSeconds"] == 15
    assert kept.spec["leaseTransitions"] == 1


def test_it_is_renewed_without_anybody_asking(replica: Replica, kept: OneLease) -> None:
    one = replica("one", renew=0.05)
    one.try_acquire()
    first = kept.spec
    wait_for("it is renewed", lambda: kept.spec["renewTime"] > first["renewTime"], seconds=5)
    assert kept.spec["acquireTime"] == first["acquireTime"]
    assert kept.spec["leaseTransitions"] == 1


def test_released_it_is_taken_at_once(replica: Replica, kept: OneLease) -> None:
    one, other = replica("one"), replica("other")
    one.try_acquire()
    assert other.try_acquire() is None
    one.release()
    assert not one.held()
    assert kept.spec["holderIdentity"] == ""
    assert other.try_acquire() == 2
    revision = kept.revision
    one.release()  # what is not held
    assert kept.spec["holderIdentity"] == "other"
    assert one.try_acquire() is None
    assert kept.revision >= revision


def test_after_release_it_is_renewed_no_more(replica: Replica, kept: OneLease) -> None:
    one = replica("one", renew=0.02)
    one.try_acquire()
    wait_for("it is renewed", lambda: kept.revision > 2, seconds=5)
    one.release()
    revision = kept.revision
    time.sleep(0.2)
    assert kept.revision == revision


def test_a_holder_that_is_silent_is_replaced_by_our_own_clock(replica: Replica, kept: OneLease) -> None:
    clock = Clock()
    other = replica("other", monotonic=clock)
    # Its clock is years ahead, which says nothing.
    kept.put(
        {
            "metadata": {"name": NAME, "namespace": "ns", "labels": {"kept": "yes"}},
            "spec": {
                "holderIdentity": "gone",
                "leaseDurationSeconds": 15,
                "renewTime": "2099-01-01T00:00:00.000000Z",
                "leaseTransitions": 7,
            },
        }
    )
    assert other.try_acquire() is None
    clock.seconds += 14.9
    assert other.try_acquire() is None
    kept.edit(renewTime="2099-01-01T00:00:03.000000Z")
    clock.seconds += 14.9
    assert other.try_acquire() is None
    clock.seconds += 14.9
    assert other.try_acquire() is None
    clock.seconds += 0.2
    assert other.try_acquire() == 8
    assert kept.lease is not None
    assert kept.lease["metadata"]["labels"] == {"kept": "yes"}


def test_terms_are_above_those_on_record(replica: Replica, kept: OneLease) -> None:
    one = replica("one", known=lambda: 41)
    assert one.try_acquire() == 42
    one.release()
    assert one.try_acquire() == 43


def test_a_leader_that_was_replaced_notices(replica: Replica, kept: OneLease) -> None:
    one = replica("one")
    one.try_acquire()
    kept.edit(holderIdentity="other", leaseTransitions=2)
    wait_for("it notices", lambda: not one.held(), seconds=5)
    assert one.try_acquire() is None
    one.release()
    assert kept.spec["holderIdentity"] == "other"


def test_releasing_takes_nothing_from_who_has_taken_over(replica: Replica, kept: OneLease) -> None:
    one = replica("one", renew=600.0)  # as good as stopped
    one.try_acquire()
    kept.edit(holderIdentity="other", leaseTransitions=2)
    assert one.held()
    one.release()
    assert kept.spec["holderIdentity"] == "other"


def test_a_note_on_the_lease_does_not_end_the_term(replica: Replica, kept: OneLease) -> None:
    one = replica("one", renew=0.05)
    one.try_acquire()
    with kept.lock:
        assert kept.lease is not None
        kept.put({**kept.lease, "metadata": {**kept.lease["metadata"], "labels": {"by": "hand"}}})
    noted = kept.revision
    wait_for("it is renewed", lambda: kept.revision > noted + 1, seconds=5)
    assert one.held()
    assert kept.lease["metadata"]["labels"] == {"by": "hand"}


def test_deleted_by_hand_it_is_made_again_with_the_same_term(replica: Replica, kept: OneLease) -> None:
    one, other = replica("one", known=lambda: 4), replica("other")
    assert one.try_acquire() == 5
    assert other.try_acquire() is None
    with kept.lock:
        kept.lease = None
    wait_for("it is made again", lambda: kept.lease is not None, seconds=5)
    assert one.held()
    assert kept.spec["leaseTransitions"] == 5
    assert other.try_acquire() is None


def test_deleted_by_hand_the_terms_still_rise(replica: Replica, kept: OneLease) -> None:
    one, other = replica("one", known=lambda: 4, renew=600.0), replica("other")
    assert one.try_acquire() == 5
    assert other.try_acquire() is None
    kept.lease = None
    assert other.try_acquire() == 6  # it has seen term 5, though it is on record nowhere now


def test_an_api_server_that_is_away_does_not_end_the_term(replica: Replica, kept: OneLease) -> None:
    one, other = replica("one", renew=0.05), replica("other")
    one.try_acquire()
    kept.broken = Answer(status=0, then="close")
    with pytest.raises(StoreUnavailable):
        other.try_acquire()
    time.sleep(0.3)
    assert one.held()
    assert one.try_acquire() == 1
    kept.broken = None
    revision = kept.revision
    wait_for("it is renewed again", lambda: kept.revision > revision, seconds=5)
    assert one.held()


def test_replaced_while_the_api_server_was_away_it_notices_afterwards(replica: Replica, kept: OneLease) -> None:
    one = replica("one", renew=0.05)
    one.try_acquire()
    kept.broken = Answer(503, status(503))
    kept.edit(holderIdentity="other", leaseTransitions=2)
    time.sleep(0.2)
    assert one.held()
    kept.broken = None
    wait_for("it notices", lambda: not one.held(), seconds=5)


def test_taken_without_an_answer_it_is_taken_at_the_next_try(replica: Replica, kept: OneLease) -> None:
    one = replica("one")
    kept.lose_next_answer = True
    with pytest.raises(StoreUnavailable):
        one.try_acquire()
    assert not one.held()
    assert one.try_acquire() == 2


@pytest.mark.parametrize("broken", [Answer(status=0, then="hang"), Answer(status=0, then="close"), Answer(500)])
def test_releasing_takes_little_time_though_the_api_server_does_not_answer(
    replica: Replica, kept: OneLease, broken: Answer
) -> None:
    one = replica("one", renew=0.05)
    one.try_acquire()
    kept.broken = broken
    time.sleep(0.2)
    began = time.monotonic()
    one.release()
    assert time.monotonic() - began < 2
    assert not one.held()


def test_a_store_that_cannot_tell_the_terms_acquires_nothing(replica: Replica, kept: OneLease) -> None:
    def known() -> int:
        raise StoreUnavailable("not now")

    with pytest.raises(StoreUnavailable, match="not now"):
        replica("one", known=known).try_acquire()
    assert kept.lease is None


def test_while_another_leads_the_runs_are_not_listed(replica: Replica) -> None:
    asked: list[int] = []

    def known() -> int:
        asked.append(1)
        return 0

    replica("one").try_acquire()
    other = replica("other", known=known)
    for _ in range(3):
        other.try_acquire()
    assert not asked


@pytest.mark.parametrize("body", [b"no", {"spec": {}}, {"metadata": {}, "spec": {"leaseTransitions": "x"}}])
def test_rubbish_instead_of_a_lease_is_no_lease(replica: Replica, kept: OneLease, body: object) -> None:
    kept.broken = Answer(body=body)
    with pytest.raises(StoreUnavailable, match="Lease cannot be read"):
        replica("one").try_acquire()


# --- a real API server


@pytest.fixture
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client:
        yield client


@pytest.mark.cluster
def test_among_many_on_a_real_api_server_one_leads(admin: KubeClient, namespace: str) -> None:
    replicas = [contender(admin, namespace, f"replica-{number}") for number in range(8)]
    last = 0
    for _ in range(10):
        barrier = threading.Barrier(len(replicas))
        terms: list[int | None] = [None] * len(replicas)

        def contend(index: int, barrier: threading.Barrier = barrier, terms: list[int | None] = terms) -> None:
            barrier.wait()
            terms[index] = replicas[index].try_acquire()

        threads = [threading.Thread(target=contend, args=(index,)) for index in range(len(replicas))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [index for index, term in enumerate(terms) if term is not None]
        assert len(winners) == 1
        assert [index for index, replica in enumerate(replicas) if replica.held()] == winners
        term = terms[winners[0]]
        assert term is not None
        assert term > last
        last = term
        replicas[winners[0]].release()


@pytest.mark.cluster
def test_a_leader_that_was_killed_is_replaced_within_its_lease(
    api_server: ApiServer, admin: KubeClient, namespace: str
) -> None:
    argv = [sys.executable, "-m", "tests.kube.contender", api_server.admin_kubeconfig, namespace, "2", "0.4"]
    with ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, text=True, cwd=ROOT)
            )
            stack.callback(process.kill)
            return process

        first = start()
        assert first.stdout is not None
        assert first.stdout.readline() == "leads 1\n"
        second = contender(admin, namespace, "second", duration=2, renew=0.4)
        stack.callback(second.release)
        # It is renewed: for longer than its duration nobody else gets it.
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert second.try_acquire() is None
            time.sleep(0.1)
        first.kill()
        killed = time.monotonic()
        assert wait_for("another takes over", second.try_acquire, seconds=20, every=0.1) == 2
        assert time.monotonic() - killed < 2 + 1


@pytest.mark.cluster
def test_a_leader_outlives_the_api_servers_restart(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    leader = contender(admin, namespace, "leader", renew=0.1)
    assert leader.try_acquire() == 1
    api_server.stop_api(kill=True)
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            contender(admin, namespace, "other").try_acquire()
        assert leader.held()
        assert time.monotonic() - began < 5
    finally:
        api_server.start_api()
    path = LEASES.item(NAME, namespace)
    before = admin.get(path)
    wait_for("it is renewed", lambda: admin.get(path) != before, seconds=10)
    assert leader.held()
    admin.request("DELETE", path)
    wait_for("it is made again", lambda: _exists(admin, path), seconds=10)
    leader.release()
    assert json.loads(admin.get(path))["spec"]["leaseTransitions"] == 1
    other = contender(admin, namespace, "other")
    assert other.try_acquire() == 2
    other.release()


def _exists(client: KubeClient, path: str) -> bool:
    try:
        client.get(path)
    except NotFound:
        return False
    return True


@pytest.mark.cluster
def test_a_paused_leader_finds_itself_replaced(api_server: ApiServer, admin: KubeClient, namespace: str) -> None:
    clock = Clock()
    paused = contender(admin, namespace, "paused", renew=600)  # as good as stopped
    other = contender(admin, namespace, "other", monotonic=clock)
    assert paused.try_acquire() == 1
    assert other.try_acquire() is None
    clock.seconds += 16
    assert other.try_acquire() == 2
    # Releasing what another holds by now takes nothing from it.
    paused.release()
    assert other.held()
    assert contender(admin, namespace, "third").try_acquire() is None
    other.release()
