"""The service's end: its Runs are cancelled by itself, then it is stopped, and nobody leads any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from nodeobs.errors import InvalidInput, NotFound, RemovalRefused, RemovalTimedOut, StoreDenied, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.lease import LEASES, Lease, LeaseSpec
from nodeobs.kube.paths import PODS, RUNS, ResourcePath
from nodeobs.kube.rbac import SERVICE
from nodeobs.model import Run
from nodeobs.removal.changes import MANAGER, Action, Changes
from nodeobs.store.kube import KubeStore
from nodeobs.typed import decode

DEPLOYMENTS: Final = ResourcePath("/apis/apps/v1", "deployments")
MERGE_PATCH: Final = "application/merge-patch+json"

_EVERY_SECONDS: Final = 0.5
_LEASE_SECONDS: Final = 15
_NAMED: Final = 10


class _Selector(msgspec.Struct, frozen=True, rename="camel"):
    match_labels: dict[str, str] | None = None


class _DeploymentSpec(msgspec.Struct, frozen=True):
    replicas: int = 1
    selector: _Selector = _Selector()


class _DeploymentStatus(msgspec.Struct, frozen=True):
    replicas: int = 0


class _Deployment(msgspec.Struct, frozen=True):
    spec: _DeploymentSpec = _DeploymentSpec()
    status: _DeploymentStatus = _DeploymentStatus()


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    status: _PodStatus = _PodStatus()


class _Pods(msgspec.Struct, frozen=True):
    items: tuple[_Pod, ...] = ()


class Stopping:
    """Ends the service in ``namespace``; every wait takes ``timeout`` seconds at most.

    Or the Lease's duration, where that is longer and whoever leads may have been killed.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        changes: Changes,
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._changes = changes
        self._timeout = timeout
        self._monotonic = monotonic
        self._pause = pause
        self._store = KubeStore(client, namespace=namespace)
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0

    def cancel_runs(self) -> None:
        """Have whoever leads end every Run that has not finished; what does not end in time is left to others."""
        until, asked, told = self._monotonic() + self._timeout, set[str](), 0
        while unfinished := self._unfinished():
            names = _names([run.key for run in unfinished])
            if not self._leader():
                self._changes.note(f"nobody leads, so that nobody ends what is unfinished: {names}")
                return
            for run in unfinished:
                if run.metadata.uid not in asked and not self._cancel(run):
                    return
                asked.add(run.metadata.uid)
            if self._changes.dry_run:
                return
            if self._monotonic() > until:
                self._changes.note(f"not ended within {self._timeout:g} s: {names}")
                return
            if len(unfinished) != told:
                told = len(unfinished)
                self._changes.note(f"waiting for the service to end {names}")
            self._pause(_EVERY_SECONDS)

    def stop(self) -> None:
        """Stop the service, and return when nobody leads.

        Raises:
            RemovalTimedOut: its pods are still there.
            RemovalRefused: somebody leads who is no pod of the Deployment.
        """
        what = f"Deployment {self._namespace}/{SERVICE}"
        deployment = self._deployment()
        if deployment is None:
            self._changes.note(f"there is no {what}")
        elif deployment.spec.replicas:
            self._changes.make(Action.STOP, what, self._scale)
        if self._changes.dry_run:
            return
        if deployment is not None:
            self._wait_for_pods(deployment)
        self._wait_for_leader()

    def _unfinished(self) -> list[Run]:
        try:
            return [run for run in self._store.list(Run, unfinished=True) if not run.finished]
        except StoreUnavailable as error:
            if isinstance(error.__cause__, NotFound):  # no such resource: there is nothing to end
                return []
            raise

    def _cancel(self, run: Run) -> bool:
        """Whether it could be asked for; a service that does not answer will not end the others either."""
        if run.spec.cancel or run.metadata.deletion_timestamp is not None:
            return True
        path = RUNS.item(run.metadata.name, run.metadata.namespace)

        def write() -> None:
            try:
                self._client.request("PATCH", path, {"spec": {"cancel": True}}, content_type=MERGE_PATCH)
            except NotFound:
                return

        try:
            self._changes.make(Action.CANCEL, f"NodeObservabilityRun {run.key}", write)
        except StoreDenied:
            raise
        except (InvalidInput, StoreUnavailable) as error:  # the former also where somebody's policy refuses it
            self._changes.note(f"Run {run.key} cannot be cancelled by the service: {error}")
            return False
        return True

    def _deployment(self) -> _Deployment | None:
        try:
            return decode(self._client.get(DEPLOYMENTS.item(SERVICE, self._namespace)), _Deployment)
        except NotFound:
            return None

    def _scale(self) -> None:
        path = DEPLOYMENTS.item(SERVICE, self._namespace, subresource="scale")
        params = {"fieldManager": MANAGER}
        self._client.request("PATCH", path, {"spec": {"replicas": 0}}, params=params, content_type=MERGE_PATCH)

    def _wait_for_pods(self, deployment: _Deployment) -> None:
        labels = deployment.spec.selector.match_labels or {}
        selector = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
        until, told = self._monotonic() + self._timeout, ""
        while True:
            found = decode(self._client.get(PODS.collection(self._namespace), selector), _Pods).items
            running = [pod.metadata.name for pod in found if pod.status.phase not in ("Succeeded", "Failed")]
            if not running:
                return
            if self._monotonic() > until:
                raise RemovalTimedOut(
                    f"pods of the service have not ended within {self._timeout:g} s: {_names(running)}",
                    hint=f"`kubectl describe pod --namespace {self._namespace} {running[0]}` may tell why; then run "
                    "this again",
                )
            if told != (told := _names(running)):
                self._changes.note(f"waiting for the end of {told}")
            self._pause(_EVERY_SECONDS)

    def _wait_for_leader(self) -> None:
        until, told = self._monotonic() + self._timeout, ""
        since: float | None = None
        while leader := self._leader():
            since = self._seen_at if since is None else since
            # Not before it was seen to renew: one that was killed is not, and leads no more once the Lease is over.
            if self._monotonic() > until and self._seen_at != since:
                raise RemovalRefused(
                    f"{leader} still leads, and is no pod of the Deployment {self._namespace}/{SERVICE}: it would "
                    "make everything anew",
                    hint="end that process, then run this again",
                )
            if leader != told:
                told = leader
                self._changes.note(f"waiting for {leader}, which leads, to end")
            self._pause(_EVERY_SECONDS)

    def _leader(self) -> str:
        """Who leads; empty where nobody does, or whoever did was not seen to renew the Lease for its duration."""
        try:
            spec = decode(self._client.get(LEASES.item(SERVICE, self._namespace)), Lease).spec
        except NotFound:
            return ""
        if spec != self._seen:
            # By the clock of this machine: what others' clocks say is not trusted.
            self._seen, self._seen_at = spec, self._monotonic()
        lasts = spec.lease_duration_seconds or _LEASE_SECONDS
        return "" if self._monotonic() - self._seen_at > lasts else spec.holder_identity or ""


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more
