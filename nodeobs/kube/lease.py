"""Leadership by a Lease: one replica of the service drives Runs, and another takes over when it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any, Final

import msgspec
import structlog

from nodeobs.errors import AlreadyExists, Conflict, NodeobsError, NotFound, StoreError
from nodeobs.kube.client import KubeClient, read_answer
from nodeobs.kube.paths import ResourcePath

log = structlog.get_logger(__name__)

LEASES: Final = ResourcePath("/apis/coordination.k8s.io/v1", "leases")

_REQUEST_SECONDS = 3.0
_RELEASE_SECONDS = 0.5
_JOIN_SECONDS = 0.5
_ATTEMPTS = 2


class LeaseSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """coordination.k8s.io/v1 LeaseSpec, as far as it is used."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None
    """The number of the term; it is never lowered."""


class Lease(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A Lease; its metadata is written back as it was read, so that nobody's labels are lost."""

    metadata: dict[str, Any]
    spec: LeaseSpec = LeaseSpec()

    @property
    def term(self) -> int:
        """Number of the term that it was last held for."""
        return self.spec.lease_transitions or 0


class LeaseLeadership:
    """Leadership by the Lease ``namespace/name``, whose ``leaseTransitions`` is the number of the term.

    Whoever leads renews it every ``renew`` seconds from a thread of its own. Another process takes it when it is
    released, or was seen unchanged for its duration, by that process's own clock: what others' clocks say is not
    trusted, as in client-go. A Lease is no fence: a leader that cannot reach the API server goes on leading, and what
    it writes is refused by its term where another process has taken over.

    ``holder`` is a name that no other process has, nor any before. ``known_term`` tells the highest term that is on
    record elsewhere; where the Lease was deleted, the terms go on from there.
    """

    def __init__(  # noqa: PLR0913 - which Lease, who, and what makes it testable
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        holder: str,
        known_term: Callable[[], int],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        randomness: Random,
        duration: float = 15.0,
        renew: float = 3.0,
    ) -> None:
        self.holder = holder
        self.leader = ""
        """Who had the Lease when it could not be taken."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._known_term = known_term
        self._now = now
        self._monotonic = monotonic
        self._randomness = randomness
        self._duration = duration
        self._renew = renew
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0
        self._highest = 0
        """Highest term ever seen, here or in the Lease."""
        self._tenure: _Tenure | None = None

    def try_acquire(self) -> int | None:
        """Number of the new term, higher than every one before; None while another process leads.

        While this process leads already, it is the term that goes on.

        Raises:
            StoreUnavailable: the API server cannot be asked now, or does not allow it.
        """
        tenure = self._tenure
        if tenure is not None and not tenure.lost.is_set():
            return tenure.term
        self._end()
        lease = self._read()
        if lease is not None and self._is_taken(lease):
            return None
        # Only now: it lists the Runs.
        term = self._highest = max(self._highest, self._known_term()) + 1
        try:
            lease = self._write(self._held_lease(lease, term), create=lease is None)
        except (Conflict, AlreadyExists, NotFound):
            return None  # another process was faster
        self._tenure = _Tenure(lease, self._renewed, every=self._renew, randomness=self._randomness)
        return term

    def held(self) -> bool:
        """Whether this process leads: from the moment it acquires until it releases, or is seen to be replaced."""
        tenure = self._tenure
        return tenure is not None and not tenure.lost.is_set()

    def release(self) -> None:
        """Let another process lead at its next try; nothing happens where this one does not.

        Takes two seconds at most. Where the API server is gone, the others wait for the Lease's duration.
        """
        held, tenure = self.held(), self._end()
        if not held or tenure is None:
            return
        try:
            self._give_up(tenure)
        except StoreError as error:
            log.warning("cannot release the lease, others wait until it expires", lease=self._name, error=str(error))

    def _end(self) -> _Tenure | None:
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            tenure.end()
        return tenure

    def _give_up(self, tenure: _Tenure) -> None:
        lease: Lease | None = tenure.lease
        for _ in range(_ATTEMPTS):
            if lease is None or not self._is_ours(lease, tenure.term):
                return
            given = msgspec.structs.replace(
                lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=self._timestamp()
            )
            try:
                self._write(Lease(metadata=lease.metadata, spec=given), seconds=_RELEASE_SECONDS)
            except Conflict:  # a renewal was under way, or somebody annotated it
                lease = self._read(seconds=_RELEASE_SECONDS)
            else:
                return

    def _is_taken(self, lease: Lease) -> bool:
        """Whether another process holds it, and may still be alive."""
        self._highest = max(self._highest, lease.term)
        if lease.spec != self._seen:
            self._seen, self._seen_at = lease.spec, self._monotonic()
        if not lease.spec.holder_identity or lease.spec.holder_identity == self.holder:
            return False  # released; or it was taken here, and the answer was lost
        self.leader = lease.spec.holder_identity
        duration = lease.spec.lease_duration_seconds or self._duration
        return self._monotonic() - self._seen_at < duration

    def _is_ours(self, lease: Lease, term: int) -> bool:
        return lease.spec.holder_identity == self.holder and lease.term == term

    def _renewed(self, lease: Lease) -> Lease | None:
        """The Lease, renewed; None where another process has taken it.

        Raises:
            StoreError: it cannot be said now.
        """
        term = lease.term
        current: Lease | None = lease
        for _ in range(_ATTEMPTS):
            if current is not None and not self._is_ours(current, term):
                return None
            try:
                if current is None:
                    log.warning("the lease was deleted, creating it again", lease=self._name, term=term)
                    return self._write(self._held_lease(None, term), create=True)
                spec = msgspec.structs.replace(current.spec, renew_time=self._timestamp())
                return self._write(Lease(metadata=current.metadata, spec=spec))
            except (Conflict, NotFound, AlreadyExists):
                current = self._read()
        raise Conflict(f"Lease {self._name} changes all the time")

    def _held_lease(self, lease: Lease | None, term: int) -> Lease:
        at = self._timestamp()
        return Lease(
            metadata=lease.metadata if lease else {"namespace": self._namespace, "name": self._name},
            spec=LeaseSpec(
                holder_identity=self.holder,
                lease_duration_seconds=max(1, round(self._duration)),
                acquire_time=at,
                renew_time=at,
                lease_transitions=term,
            ),
        )

    def _read(self, *, seconds: float = _REQUEST_SECONDS) -> Lease | None:
        try:
            return read_answer(
                self._client.get(LEASES.item(self._name, self._namespace), seconds=seconds), Lease, "Lease"
            )
        except NotFound:
            return None

    def _write(self, lease: Lease, *, create: bool = False, seconds: float = _REQUEST_SECONDS) -> Lease:
        method, path = "PUT", LEASES.item(self._name, self._namespace)
        if create:
            method, path = "POST", LEASES.collection(self._namespace)
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease.metadata, "spec": lease.spec}
        return read_answer(self._client.request(method, path, body, seconds=seconds), Lease, "Lease")

    def _timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Tenure:
    """The time from acquiring a Lease to losing or releasing it, and the thread that renews it meanwhile."""

    def __init__(
        self, lease: Lease, renewed: Callable[[Lease], Lease | None], *, every: float, randomness: Random
    ) -> None:
        self.term = lease.term
        self.lease = lease
        """As it was last written."""
        self.lost = threading.Event()
        self._renewed = renewed
        self._every = every
        self._randomness = randomness
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Renew no more; what is under way is waited for, but not for long."""
        self._over.set()
        self._thread.join(_JOIN_SECONDS)

    def _keep(self) -> None:
        failing = False
        while not self._over.wait(self._every * self._randomness.uniform(0.8, 1.0)):
            try:
                lease = self._renewed(self.lease)
            except NodeobsError as error:
                if not failing:  # once, not every three seconds
                    log.warning("cannot renew the lease, trying again", term=self.term, error=str(error))
                failing = True
                continue
            except Exception:  # a thread's edge
                log.exception("renewing the lease failed, trying again", term=self.term)
                continue
            if lease is None:
                log.warning("another process has taken the lease", term=self.term)
                self.lost.set()
                return
            if failing:
                log.info("the lease is renewed again", term=self.term)
            failing = False
            self.lease = lease
