"""What is kept: custom resources that nothing holds, stored and served in one version alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from nodeobs.deploy.machineconfigs import FINALIZER
from nodeobs.deploy.readiness import READY
from nodeobs.errors import Conflict, InvalidInput, NotFound, RemovalRefused, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.kube.migration import STORAGE_VERSION, Migration
from nodeobs.kube.paths import MACHINE_CONFIGS, OBSERVABILITIES, RUNS, ResourcePath
from nodeobs.kube.publication import DEFINITIONS
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_POOL
from nodeobs.kube.watch import list_pages
from nodeobs.model import API_VERSION, GROUP, NodeObservability, Phase, Run, decode_json, replace
from nodeobs.removal.changes import MANAGER, Action, Changes
from nodeobs.removal.place import Webhook, check_place
from nodeobs.runs import results
from nodeobs.store.kube import KubeStore
from nodeobs.typed import decode

_JSON_PATCH: Final = "application/json-patch+json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_MESSAGE: Final = "nodeobs was uninstalled before the Run finished"
_NOT_TURNED_OFF: Final = (
    f"NodeObservabilityMachineConfig {{name}} is not turned off: MachineConfig {MACHINE_CONFIG}, MachineConfigPool "
    f"{MACHINE_POOL} and the nodes' labels stay; docs/machine-configs.md says how to take them away by hand"
)
_NO_AGENTS: Final = "nodeobs was uninstalled: there are no agents, and nobody looks after this"
_NOBODY_CONVERTS: Final = "conversion webhook for"
"""How the API server begins where the service does not answer it."""
_OURS: Final = f"{GROUP}/"
_PAGE: Final = 20
"""A Run has up to a mebibyte, and the job that removes the service 256 for all that it holds of a page."""
_TRIES: Final = 5


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    resource_version: str = ""
    namespace: str = ""
    finalizers: tuple[str, ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()


class _Head(msgspec.Struct, frozen=True):
    metadata: _Meta


class _Version(msgspec.Struct, frozen=True):
    name: str
    served: bool


class _Conversion(msgspec.Struct, frozen=True):
    strategy: str = "None"
    webhook: Webhook = Webhook()


class _Spec(msgspec.Struct, frozen=True):
    versions: tuple[_Version, ...]
    conversion: _Conversion = _Conversion()


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    stored_versions: tuple[str, ...] = ()


class _Definition(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec
    status: _Status = _Status()


class Resources:
    """The custom resources and their definitions."""

    def __init__(self, client: KubeClient, *, namespace: str, changes: Changes, now: Callable[[], datetime]) -> None:
        self._client = client
        self._namespace = namespace
        self._changes = changes
        self._now = now
        self._store = KubeStore(client, namespace=namespace)

    def migrate(self) -> None:
        """See to it that everything is stored in the storage version, which nobody has to convert.

        Raises:
            RemovalRefused: something is not, and cannot be converted; it would be lost. Or the service is in another
                namespace.
        """
        for name in CRD_NAMES:
            definition = self._definition(name)
            if definition is None:
                self._changes.note(f"there is no CustomResourceDefinition {name}")
                continue
            check_place(definition.spec.conversion.webhook, definition.metadata.name, namespace=self._namespace)
            old = [version for version in definition.status.stored_versions if version != STORAGE_VERSION]
            if old:
                plural = name.partition(".")[0]
                what = f"{plural} that are stored as {' or '.join(old)}"
                if definition.spec.conversion.strategy != "Webhook" and self._any(plural):
                    raise _not_converted(what, "their definition has no conversion webhook")
                self._changes.make(Action.REWRITE, what, partial(self._rewrite, plural, what))

    def release(self) -> None:
        """Let nothing hold a Run, or what a Run holds: the unfinished end as Cancelled, and finalizers go."""
        for raw in self._all(RUNS):
            try:
                run = decode_json(raw, Run)
            except InvalidInput:
                self._release(RUNS, raw)
            else:
                self._end(run)
        for raw in self._all(MACHINE_CONFIGS):
            meta = decode(raw, _Head).metadata
            if FINALIZER in meta.finalizers:
                self._changes.note(_NOT_TURNED_OFF.format(name=meta.name))
            self._release(MACHINE_CONFIGS, raw)

    def retract(self) -> None:
        """Have no NodeObservability say that it is Ready: its agents are gone, and nobody would take that back."""
        for raw in self._all(OBSERVABILITIES):
            with suppress(InvalidInput):
                found = decode_json(raw, NodeObservability)
                if _retracted(found, now=self._now()) is not found:
                    what = f"NodeObservability {found.metadata.name} as not Ready"
                    self._changes.make(Action.MARK, what, partial(self._retract, found))

    def narrow(self) -> None:
        """Have the storage version served alone and never converted, so that nobody has to answer for it."""
        for name in CRD_NAMES:
            for _ in range(_TRIES):
                try:
                    self._narrow(name)
                except Conflict:
                    continue
                break
            else:
                raise StoreUnavailable(
                    f"CustomResourceDefinition {name} was written by others {_TRIES} times meanwhile"
                )

    def _definition(self, name: str) -> _Definition | None:
        try:
            return decode(self._client.get(DEFINITIONS.item(name)), _Definition)
        except NotFound:
            return None

    def _any(self, plural: str) -> bool:
        page = next(list_pages(self._client, f"/apis/{API_VERSION}/{plural}", limit=1))
        return bool(page.items)

    def _rewrite(self, plural: str, what: str) -> None:
        migration = Migration(self._client, [plural])
        try:
            migration.migrate(plural, threading.Event())
        except StoreUnavailable as error:
            if _NOBODY_CONVERTS not in str(error):
                raise
            raise _not_converted(what, str(error)) from error
        if migration.left:
            raise _not_converted(what, "; ".join(migration.left))

    def _all(self, path: ResourcePath) -> list[bytes]:
        """Of each object its name and what it takes to release it, or all of it where it is a Run."""
        try:
            return [
                item
                for page in list_pages(self._client, path.collection(), limit=_PAGE)
                for item in page.items
                if path is not RUNS or _concerns(item)
            ]
        except NotFound:
            return []

    def _end(self, run: Run) -> None:
        what = f"NodeObservabilityRun {run.key}"
        if run.finished:
            self._changes.make(Action.RELEASE, what, lambda: self._update(run))
        else:
            self._changes.make(Action.END, f"{what} as Cancelled", lambda: self._update(run))

    def _update(self, run: Run) -> None:
        """Write the Run's end, and take the finalizer away; whoever wrote or deleted it meanwhile is heeded."""
        for _ in range(_TRIES):
            try:
                self._store.update(self._ended(run))
            except NotFound:
                return
            except Conflict:
                try:
                    run = self._store.get(Run, run.metadata.name, run.metadata.namespace)
                except NotFound:
                    return
                continue
            return
        raise StoreUnavailable(f"Run {run.key} was written by others {_TRIES} times meanwhile")

    def _ended(self, run: Run) -> Run:
        finalizers = tuple(name for name in run.metadata.finalizers if not name.startswith(_OURS))
        status, phase = run.status, Phase.CANCELLED
        if not run.finished:
            status = results.finished(status, phase, reason=phase.value, message=_MESSAGE, now=self._now())
        return replace(run, metadata=replace(run.metadata, finalizers=finalizers), status=status)

    def _retract(self, found: NodeObservability) -> None:
        name = found.metadata.name
        for _ in range(_TRIES):
            try:
                with suppress(Conflict):
                    self._store.update(_retracted(found, now=self._now()))
                    return
                found = self._store.get(NodeObservability, name)
            except NotFound:
                return
        raise StoreUnavailable(f"NodeObservability {name} was written by others {_TRIES} times meanwhile")

    def _release(self, path: ResourcePath, raw: bytes) -> None:
        meta = decode(raw, _Head).metadata
        if any(name.startswith(_OURS) for name in meta.finalizers):
            what = f"{path.plural} {meta.namespace}/{meta.name}" if meta.namespace else f"{path.plural} {meta.name}"
            self._changes.make(Action.RELEASE, what, lambda: self._take_finalizers(path, meta))

    def _take_finalizers(self, path: ResourcePath, meta: _Meta) -> None:
        at = path.item(meta.name, meta.namespace)
        for _ in range(_TRIES):
            kept = [name for name in meta.finalizers if not name.startswith(_OURS)]
            patch = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": kept}}
            try:
                with suppress(Conflict):
                    self._client.request("PATCH", at, patch, content_type=_MERGE_PATCH)
                    return
                meta = decode(self._client.get(at), _Head).metadata
            except NotFound:
                return
        raise StoreUnavailable(f"{path.plural} {meta.name} was written by others {_TRIES} times meanwhile")

    def _narrow(self, name: str) -> None:
        definition = self._definition(name)
        if definition is None:
            return
        changes: list[dict[str, Any]] = [
            {"op": "replace", "path": f"/spec/versions/{index}/served", "value": False}
            for index, version in enumerate(definition.spec.versions)
            if version.name != STORAGE_VERSION and version.served
        ]
        if definition.spec.conversion.strategy != "None":
            changes.append({"op": "replace", "path": "/spec/conversion", "value": {"strategy": "None"}})
        if changes:
            what = f"CustomResourceDefinition {name} to {STORAGE_VERSION}"
            self._changes.make(Action.NARROW, what, lambda: self._patch(definition.metadata, changes))
        if not self._changes.dry_run:
            self._disown(name)

    def _disown(self, name: str) -> None:
        """Leave the changed fields to nobody, so that whoever applies the definition again gets them unopposed."""
        definition = self._definition(name)
        if definition is None:
            return
        owners = definition.metadata.managed_fields
        others = [entry for entry in owners if entry.get("manager") != MANAGER]
        if others and len(others) < len(owners):
            self._patch(definition.metadata, [{"op": "replace", "path": "/metadata/managedFields", "value": others}])

    def _patch(self, metadata: _Meta, changes: list[dict[str, Any]]) -> None:
        version = {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata.resource_version}
        self._client.request(
            "PATCH",
            DEFINITIONS.item(metadata.name),
            [version, *changes],
            params={"fieldManager": MANAGER},
            content_type=_JSON_PATCH,
        )


class _RunHead(msgspec.Struct, frozen=True):
    metadata: _Meta
    status: dict[str, Any] = {}


def _concerns(raw: bytes) -> bool:
    """Whether the Run is unfinished, or something of ours holds it."""
    head = decode(raw, _RunHead)
    finished = head.status.get("phase") in {phase.value for phase in Phase if phase.final}
    return not finished or any(name.startswith(_OURS) for name in head.metadata.finalizers)


def _retracted(found: NodeObservability, *, now: datetime) -> NodeObservability:
    """The very one where it does not say that it is Ready."""
    ready = next((one for one in found.status.conditions if one.type == READY and one.status == "True"), None)
    if ready is None:
        return found
    over = replace(ready, status="False", reason="Uninstalled", message=_NO_AGENTS, last_transition_time=now)
    conditions = tuple(over if one is ready else one for one in found.status.conditions)
    return replace(found, status=replace(found.status, count=0, conditions=conditions, last_updated=now))


def _not_converted(what: str, why: str) -> RemovalRefused:
    return RemovalRefused(
        f"{what} cannot be converted to {STORAGE_VERSION}, and would be lost: {why}",
        hint="start the service, wait until it is ready, and run this again; nothing was stopped or deleted yet",
    )
