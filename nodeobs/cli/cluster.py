"""Runs as custom resources at the API server; their files from the service, which is asked only when they are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from nodeobs.cli.clusterplace import ClusterPlace
from nodeobs.cli.clusterproblems import told
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.inside import service_inside
from nodeobs.cli.service import RunRef, Service
from nodeobs.cli.text import clean
from nodeobs.errors import ConfigurationError, InvalidInput, NotFound, WatchExpired
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.paths import OBSERVABILITIES, RUNS, ResourcePath
from nodeobs.kube.watch import BOOKMARK, DELETED, list_pages, metadata_of, watch_events
from nodeobs.model import API_VERSION, NodeObservability, Phase, Resource, Run, decode_json

_PAGE: Final = 100
"""Runs at a time: one over 5,000 nodes takes a megabyte."""
_MERGE_PATCH: Final = "application/merge-patch+json"
_LONGEST_PREFIX: Final = 55
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)

D = TypeVar("D")
R = TypeVar("R", bound=Resource)


class Followed(NamedTuple):
    """A Run as it was last seen, and the revision to watch on from."""

    run: Run
    revision: str


class ClusterBackend:
    """A :class:`nodeobs.cli.backend.Backend` in a cluster; made by :func:`cluster_backend`."""

    def __init__(
        self, client: KubeClient, place: ClusterPlace, reach: Callable[[], Service], note: Callable[[str], None]
    ) -> None:
        """``reach`` opens the way to the service inside."""
        self.namespace = client.credentials.namespace
        self._client = client
        self._place = place
        self._reach = reach
        self._reached: Service | None = None
        self._note = note
        self._followed: dict[RunRef, Followed] = {}

    def now(self) -> datetime:
        """The clock of this machine: the API server does not tell its own."""
        return datetime.now(UTC)

    def runs(self, **filters: str) -> tuple[Run, ...]:
        """Runs, newest first; ``filters`` are namespace, nodeObservability, phase, limit."""
        phase, parent = filters.get("phase", ""), filters.get("nodeObservability", "")
        wanted = {"status.phase": phase, "spec.nodeObservabilityRef.name": parent}
        selector = ",".join(f"{field}={value}" for field, value in wanted.items() if value)
        found = self._list(RUNS, Run, filters.get("namespace", ""), selector)
        found.sort(key=lambda run: (run.metadata.creation_timestamp or _EARLIEST, run.key), reverse=True)
        return tuple(found[: int(filters["limit"])] if "limit" in filters else found)

    def run(self, ref: RunRef, *, wait: float = 0.0, version: str = "") -> Run:
        """The Run; with ``wait`` (seconds) and ``version``, as soon as it differs from that resourceVersion."""
        known = self._followed.get(ref)
        with self._told_of(ref, accepted=known is not None):
            if not wait:
                return _decode(self._client.get(RUNS.item(ref.name, ref.namespace)), Run)
            if known is None or known.run.metadata.resource_version != version:
                known = self._look(ref)
            try:
                self._followed[ref] = self._next(ref, known, wait) if version else known
            except WatchExpired:
                self._followed[ref] = self._look(ref)
            return self._followed[ref].run

    def start(self, document: Mapping[str, Any]) -> Run:
        """Create a Run from its ``metadata`` and ``spec``."""
        metadata = dict(document["metadata"])
        namespace = metadata.setdefault("namespace", self.namespace)
        if "name" not in metadata:
            parent = document["spec"]["nodeObservabilityRef"]["name"]
            metadata["generateName"] = f"{parent[:_LONGEST_PREFIX].rstrip('-.')}-"
        body = {"apiVersion": API_VERSION, "kind": Run.KIND, "metadata": metadata, "spec": document["spec"]}
        params = {"fieldValidation": "Strict", "fieldManager": "nodeobs"}
        with told(self._place):
            return _decode(self._client.request("POST", RUNS.collection(namespace), body, params=params), Run)

    def cancel(self, ref: RunRef) -> Run:
        """Ask for the Run's end."""
        run = self.run(ref)
        if run.status.phase.final and run.status.phase is not Phase.CANCELLED:
            raise Failure(f"Run {ref} has finished already: it is {run.status.phase.value}", exit_code=ExitCode.REFUSED)
        patch = {"spec": {"cancel": True}}
        path = RUNS.item(ref.name, ref.namespace)
        with self._told_of(ref):
            return _decode(self._client.request("PATCH", path, patch, content_type=_MERGE_PATCH), Run)

    def delete(self, ref: RunRef) -> Run | None:
        """Delete the Run; None when it is gone, the Run where it is cancelled first."""
        with self._told_of(ref):
            answer = self._client.request("DELETE", RUNS.item(ref.name, ref.namespace))
            kind = _decode(answer, dict[str, Any]).get("kind")
            return _decode(answer, Run) if kind == Run.KIND else None

    def observabilities(self) -> tuple[NodeObservability, ...]:
        """Every NodeObservability."""
        return tuple(self._list(OBSERVABILITIES, NodeObservability))

    def outputs(self) -> Service:
        """The service inside the cluster, reached when this is first called."""
        if self._reached is None:
            self._reached = self._reach()
        return self._reached

    def _list(self, where: ResourcePath, kind: type[R], namespace: str = "", selector: str = "") -> list[R]:
        found: list[R] = []
        params = {"fieldSelector": selector} if selector else {}
        with told(self._place):
            for page in list_pages(self._client, where.collection(namespace), params, limit=_PAGE):
                for item in page.items:
                    try:
                        found.append(decode_json(item, kind))
                    except InvalidInput as error:
                        name = metadata_of(item).name
                        self._note(f"{kind.KIND} {clean(name)} is left out, it cannot be read: {clean(str(error))}")
        return found

    @contextmanager
    def _told_of(self, ref: RunRef, *, accepted: bool = False) -> Iterator[None]:
        """As ``told``; a Run that is not there is named with its namespace, which may not be the one that was meant."""
        with told(self._place, accepted=accepted):
            try:
                yield
            except NotFound as error:
                if f'"{ref.name}" not found' not in str(error):
                    raise
                raise NotFound(f"there is no Run {ref}") from error

    def _look(self, ref: RunRef) -> Followed:
        """The Run as it is now. Listed, not got: a list tells a revision that can be watched on from."""
        params = {"fieldSelector": f"metadata.name={ref.name}"}
        for page in list_pages(self._client, RUNS.collection(ref.namespace), params):
            for item in page.items:
                return Followed(_decode(item, Run), page.revision)
        raise NotFound(f"there is no Run {ref}")

    def _next(self, ref: RunRef, known: Followed, seconds: float) -> Followed:
        """The Run's next state, or the same after ``seconds``."""
        params = {"fieldSelector": f"metadata.name={ref.name}"}
        path = RUNS.collection(ref.namespace)
        never = threading.Event()
        for event in watch_events(self._client, path, known.revision, params=params, seconds=seconds, stop=never):
            if event.type == DELETED:
                raise NotFound(f"Run {ref} was deleted")
            if event.type != BOOKMARK:
                return Followed(_decode(event.object, Run), event.revision)
            known = known._replace(revision=event.revision)
        return known


@contextmanager
def cluster_backend(
    place: ClusterPlace, *, token: str, ca_file: Path | None, note: Callable[[str], None]
) -> Iterator[ClusterBackend]:
    """The cluster, its connections closed afterwards.

    ``token`` and ``ca_file`` are for the service, in place of what the cluster knows.

    Raises:
        Failure: there is no kubeconfig, or it cannot be used; exit code 2.
    """
    try:
        client = KubeClient(load_credentials(kubeconfig=place.kubeconfig, context=place.context, environ=os.environ))
    except ConfigurationError as error:
        raise Failure(
            str(error), exit_code=ExitCode.USAGE, hint="`kubectl config get-contexts` shows what there is"
        ) from error
    with closing(client), ExitStack() as stack:

        def reach() -> Service:
            inside = service_inside(client, place, token=token, ca_file=ca_file, note=note)
            return stack.enter_context(inside)

        yield ClusterBackend(client, place, reach, note)


def _decode(data: bytes, kind: type[D]) -> D:
    try:
        return decode_json(data, kind)
    except InvalidInput as error:
        raise Failure(
            f"the API server answered something that cannot be read: {error}",
            exit_code=ExitCode.UNREACHABLE,
            hint="check that this command line is of about the same version as what runs in the cluster",
        ) from error
