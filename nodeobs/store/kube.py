"""The store of a cluster: Runs and NodeObservabilities are the custom resources themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic

import structlog

from nodeobs.errors import AlreadyExists, Conflict, InvalidInput, NotFound, StoreUnavailable, Unreadable, WatchExpired
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import OBSERVABILITIES, RUNS
from nodeobs.kube.watch import BOOKMARK, list_pages, metadata_of, watch_events
from nodeobs.model import NodeObservability, Phase, Resource, Run, TriggerRecord
from nodeobs.store.base import Admit, Change, ChangeType, R, Snapshot
from nodeobs.store.forms import CustomResources, Form, Raw, TriggerRecords
from nodeobs.store.objects import checked, label, label_of, log_unreadable
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

_UNFINISHED = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase.final)
_PAUSE_SECONDS = 1.0
_TRIES = 5
_REVISION_DIGITS = 19
_EPOCH = datetime.fromtimestamp(0, UTC)


class KubeStore:
    """A :class:`~nodeobs.store.base.Store` at the API server; ``namespace`` is where the trigger records are kept.

    Reads are consistent: nothing is remembered here. What differs from a store with transactions: ``admit`` decides
    before the creation and not within it, so that two creations at once can both pass; a status that a new object
    brings is not stored, as everywhere in Kubernetes; objects created in the same second are listed in the order of
    their uids. An object that cannot be read is logged and left out of lists.
    """

    def __init__(self, client: KubeClient, *, namespace: str) -> None:
        self._client = client
        self._forms: Mapping[type[Resource], Form[Any]] = {
            Run: CustomResources(Run, RUNS),
            NodeObservability: CustomResources(NodeObservability, OBSERVABILITIES),
            TriggerRecord: TriggerRecords(namespace),
        }

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """The object; see :class:`~nodeobs.store.base.Reader`."""
        form = self._form(kind)
        return _decode(form, self._read(form, kind, name, namespace), label(kind, name, namespace))

    def list(self, kind: type[R], *, unfinished: bool = False) -> Sequence[R]:
        """All objects of that kind, oldest first; see :class:`~nodeobs.store.base.Reader`."""
        only = {"fieldSelector": _UNFINISHED} if unfinished and kind is Run else {}
        return self._list(kind, only).items

    def snapshot(self, kind: type[R]) -> Snapshot[R]:
        """A consistent list, and the revision it was made at.

        Raises:
            StoreUnavailable: a retry can help.
        """
        return self._list(kind, {})

    def create(self, resource: R, *, admit: Admit | None = None) -> R:
        """Store a new object; see :class:`~nodeobs.store.base.Store`.

        Raises:
            InvalidInput: also what the API server, or a webhook of its, does not accept.
            RunInProgress: our admission webhook saw another Run that is going.
        """
        form, what = self._form(type(resource)), label_of(resource)
        resource = checked(resource)[0]
        namespace = form.locate(resource.metadata.name, resource.metadata.namespace)[1]
        if admit is not None:
            if self._exists(form, resource):
                raise AlreadyExists(f"{what} exists already")
            admit(self)
        try:
            stored = self._client.request("POST", form.path.collection(namespace), form.encode(resource))
        except AlreadyExists as error:
            raise AlreadyExists(f"{what} exists already") from error
        except NotFound as error:
            if f'namespaces "{namespace}"' in str(error):
                raise InvalidInput(f"there is no namespace {namespace}", pointer="/metadata/namespace") from error
            raise _not_served(error) from error
        return _decode(form, stored, what)

    def update(self, resource: R) -> R:
        """Replace an object; see :class:`~nodeobs.store.base.Store`.

        Only what differs from the stored object is written: what others keep in it, known to this version or not,
        stays. Status and the rest are two requests where both differ. A finalizer is there before the status that it
        goes with, and leaves after it; when that last step fails, StoreUnavailable tells so though the status is
        written.
        """
        form, kind, data = self._form(type(resource)), type(resource), resource.metadata
        after = checked(resource)[0]
        found = self._read(form, kind, data.name, data.namespace)
        version = metadata_of(found).resource_version
        if data.resource_version != version:
            raise Conflict(
                f"{label_of(resource)} was read at resourceVersion {data.resource_version or '(none)'} and is at "
                f"{version} now: read it again, then change it"
            )
        before = _decode(form, found, label_of(resource))
        return _Write(self._client, form, before, after).run(found)

    def delete(self, kind: type[R], name: str, namespace: str = "", *, uid: str = "") -> None:
        """Delete an object, or mark it; see :class:`~nodeobs.store.base.Store`."""
        form = self._form(kind)
        only = {"preconditions": {"uid": uid}} if uid else None
        try:
            self._client.request("DELETE", form.path.item(*form.locate(name, namespace)), only)
        except (NotFound, Conflict) as error:  # the latter where another has that name
            raise NotFound(f"there is no {label(kind, name, namespace)}") from error

    def watch(self, kind: type[R], since: str, *, stop: threading.Event, seconds: float) -> Iterator[Change[R]]:
        """Changes after revision ``since``; see :class:`~nodeobs.store.base.Store`. Lasts at least a second.

        Raises:
            StoreUnavailable: the watch broke; what was not told yet can be asked for again.
        """
        form, position, deadline = self._form(kind), since, time.monotonic() + seconds
        if not (since.isascii() and since.isdecimal() and len(since) <= _REVISION_DIGITS and int(since) > 0):
            raise WatchExpired(f"{since[:32]!r} is no revision to watch from: list again")
        while not stop.is_set():
            left = deadline - time.monotonic()
            for revision, change in self._watch_once(form, kind, position, stop=stop, seconds=left):
                position = revision
                if change is not None:
                    yield change
            left = deadline - time.monotonic()
            if left <= 0:
                return
            stop.wait(min(left, _PAUSE_SECONDS))  # the server ended it early: it is not to be asked without a pause

    def close(self) -> None:
        """Nothing is held open: the client is closed by whoever made it."""

    def _form(self, kind: type[R]) -> Form[R]:
        return self._forms[kind]

    def _read(self, form: Form[R], kind: type[R], name: str, namespace: str) -> bytes:
        try:
            return self._client.get(form.path.item(*form.locate(name, namespace)))
        except NotFound as error:
            raise NotFound(f"there is no {label(kind, name, namespace)}") from error

    def _exists(self, form: Form[R], resource: R) -> bool:
        try:
            self._read(form, type(resource), resource.metadata.name, resource.metadata.namespace)
        except NotFound:
            return False
        return True

    def _list(self, kind: type[R], only: Mapping[str, str]) -> Snapshot[R]:
        form = self._form(kind)
        for _ in range(_TRIES):
            found, revision = [], ""
            try:
                for page in list_pages(self._client, form.path.collection(), {**form.selector, **only}):
                    revision = page.revision
                    found += [resource for raw in page.items if (resource := _decode_or_log(form, kind, raw))]
            except WatchExpired:
                log.info("a list took too long, beginning again", kind=kind.KIND)
            except (NotFound, InvalidInput) as error:  # the latter for a field that cannot be selected
                raise _not_served(error) from error
            else:
                return Snapshot(tuple(sorted(found, key=_age)), revision)
        raise StoreUnavailable(f"a list of every {kind.KIND} takes longer than the API server keeps it, {_TRIES} times")

    def _watch_once(
        self, form: Form[R], kind: type[R], since: str, *, stop: threading.Event, seconds: float
    ) -> Iterator[tuple[str, Change[R] | None]]:
        """One watch: the revision it has come to, with the change that it came by if that can be read."""
        path = form.path.collection()
        try:
            for event in watch_events(self._client, path, since, params=form.selector, seconds=seconds, stop=stop):
                resource = None if event.type == BOOKMARK else _decode_or_log(form, kind, event.object)
                change = Change(ChangeType(event.type), resource, event.revision) if resource else None
                yield event.revision, change
        except NotFound as error:
            raise _not_served(error) from error


class _Write(Generic[R]):
    """One update: what differs between ``before`` and ``after`` goes to the API server."""

    def __init__(self, client: KubeClient, form: Form[R], before: R, after: R) -> None:
        self._client = client
        self._form = form
        self._before = before
        self._after = after
        self._what = label_of(after)
        self._at = form.locate(after.metadata.name, after.metadata.namespace)

    def run(self, found: bytes) -> R:
        """Write it over the object as it was ``found``; the object as it is stored then."""
        before, after = self._before, self._after
        leaving = set(before.metadata.finalizers) - set(after.metadata.finalizers)
        stored = found
        if not leaving:
            stored = self._put_if(self._form.merge, stored)
        stored = self._put_if(self._form.merge_status, stored, subresource="status")
        if leaving and stored is found:
            stored = self._put_if(self._form.merge, stored)
        elif leaving:
            stored = self._put_after_status(stored)
        return _decode(self._form, stored, self._what)

    def _put_if(self, merge: Callable[[Raw, R, R], bool], stored: bytes, *, subresource: str = "") -> bytes:
        """Write what ``merge`` makes of the object, if that is another; the object as it is stored then."""
        raw = decode(stored, dict[str, Any])
        if not merge(raw, self._before, self._after):
            return stored
        try:
            return self._client.request("PUT", self._form.path.item(*self._at, subresource=subresource), raw)
        except NotFound as error:
            raise NotFound(f"there is no {self._what}") from error
        except Conflict as error:
            raise Conflict(f"{self._what} was written meanwhile: read it again, then change it ({error})") from error

    def _put_after_status(self, stored: bytes) -> bytes:
        """Write the rest. The status was the write that could conflict: this goes with it, whatever others write."""
        fresh = stored
        try:
            for _ in range(_TRIES):
                with suppress(Conflict):
                    return self._put_if(self._form.merge, fresh)
                fresh = self._client.get(self._form.path.item(*self._at))
                if _decode(self._form, fresh, self._what).metadata.uid != self._before.metadata.uid:
                    return stored
        except NotFound:
            return stored
        raise Conflict(f"{self._what} was written by others {_TRIES} times meanwhile: read it again, then change it")


def _decode(form: Form[R], raw: bytes, what: str) -> R:
    try:
        return form.decode(raw)
    except InvalidInput as error:
        raise Unreadable(f"{what} cannot be read: {error}; mend or delete it with kubectl") from error


def _decode_or_log(form: Form[R], kind: type[R], raw: bytes) -> R | None:
    try:
        return form.decode(raw)
    except InvalidInput as error:
        meta = metadata_of(raw)
        log_unreadable(label(kind, meta.name, meta.namespace), error)
        return None


def _age(resource: Resource) -> tuple[datetime, str]:
    return resource.metadata.creation_timestamp or _EPOCH, resource.metadata.uid


def _not_served(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"the API server does not serve the custom resources of this version ({error}): "
        "install them with `nodeobs manifests | kubectl apply --server-side -f -`"
    )
