"""How each kind is kept at the API server: a custom resource, or for trigger records, a ConfigMap. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Final, Generic, Protocol

import msgspec

from nodeobs.kube.paths import CONFIG_MAPS, ResourcePath
from nodeobs.model import (
    API_VERSION,
    GROUP,
    AnsweredRecord,
    Document,
    Metadata,
    OwnerReference,
    TriggerRecord,
    decode_json,
    encode_json,
    replace,
    to_builtins,
)
from nodeobs.store.base import R

RECORD_KEY: Final = "record.json"
RECORD_LABEL: Final = f"{GROUP}/trigger-record"
MAX_RECORD_BYTES: Final = 900_000
"""The API server refuses a ConfigMap with more than 1 MiB of data."""

_LONGEST_NAME = 253

Raw = dict[str, Any]
"""An object as the API server has it, with what the model does not know."""


class Form(Protocol[R]):
    """One kind at the API server."""

    path: ResourcePath
    selector: Mapping[str, str]
    """Query parameters that lists and watches need to see this kind only."""

    def locate(self, name: str, namespace: str) -> tuple[str, str]:
        """Name and namespace of the object there."""

    def decode(self, raw: bytes) -> R:
        """The object.

        Raises:
            InvalidInput: it cannot be read.
        """

    def encode(self, resource: R) -> Raw:
        """A new object. Its status is left out, as the API server ignores it in a creation."""

    def merge(self, raw: Raw, before: R, after: R) -> bool:
        """Change in ``raw`` what differs between the two, but for the status; tell whether anything does."""

    def merge_status(self, raw: Raw, before: R, after: R) -> bool:
        """Put the status into ``raw`` if it differs; tell whether it does."""


class CustomResources(Generic[R]):
    """Runs and NodeObservabilities: the custom resources of the same names."""

    selector: Mapping[str, str] = {}

    def __init__(self, kind: type[R], path: ResourcePath) -> None:
        self.path = path
        self._kind = kind

    def locate(self, name: str, namespace: str) -> tuple[str, str]:
        """The object's own."""
        return name, namespace

    def decode(self, raw: bytes) -> R:
        """The object; see :class:`Form`."""
        return decode_json(raw, self._kind)

    def encode(self, resource: R) -> Raw:
        """A new object; see :class:`Form`."""
        document = _encoded(resource)
        return {
            "apiVersion": API_VERSION,
            "kind": self._kind.KIND,
            "metadata": _new_metadata(resource.metadata),
            "spec": document["spec"],
        }

    def merge(self, raw: Raw, before: R, after: R) -> bool:
        """Change the metadata and the spec's keys that differ; see :class:`Form`."""
        metadata = _merge_metadata(raw["metadata"], before.metadata, after.metadata)
        return _merge_keys(raw.setdefault("spec", {}), _encoded(before)["spec"], _encoded(after)["spec"]) or metadata

    def merge_status(self, raw: Raw, before: R, after: R) -> bool:
        """Put the whole status there if it differs; see :class:`Form`."""
        wanted = _encoded(after)["status"]
        if _encoded(before)["status"] == wanted:
            return False
        raw["status"] = wanted
        return True


class _Record(Document, frozen=True, kw_only=True):
    """What a trigger record's ConfigMap holds."""

    trigger: str
    answered: tuple[AnsweredRecord, ...] = ()


class _ConfigMap(Document, frozen=True, kw_only=True):
    metadata: Metadata
    data: dict[str, str] = msgspec.field(default_factory=dict)


class TriggerRecords:
    """Trigger records: ConfigMaps in the service's namespace."""

    path = CONFIG_MAPS
    selector: Mapping[str, str] = {"labelSelector": f"{RECORD_LABEL}=true"}

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def locate(self, name: str, namespace: str) -> tuple[str, str]:  # noqa: ARG002 - records have no namespace
        """A name that no other trigger's record has."""
        plain = f"nodeobs-trigger-{name}"
        if len(plain) <= _LONGEST_NAME:
            return plain, self._namespace
        return f"nodeobs-long-trigger-{hashlib.sha256(name.encode()).hexdigest()}", self._namespace

    def decode(self, raw: bytes) -> TriggerRecord:
        """The record; see :class:`Form`."""
        stored = decode_json(raw, _ConfigMap)
        record = decode_json(stored.data.get(RECORD_KEY, ""), _Record)
        return TriggerRecord(
            metadata=replace(stored.metadata, name=record.trigger, namespace=""), answered=record.answered
        )

    def encode(self, resource: TriggerRecord) -> Raw:
        """A new ConfigMap; see :class:`Form`."""
        name, namespace = self.locate(resource.metadata.name, "")
        metadata = _new_metadata(resource.metadata) | {"name": name, "namespace": namespace}
        metadata["labels"] = metadata.get("labels", {}) | {RECORD_LABEL: "true"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": _data(resource)}

    def merge(self, raw: Raw, before: TriggerRecord, after: TriggerRecord) -> bool:
        """Change the metadata and the data that differ; see :class:`Form`."""
        metadata = _merge_metadata(raw["metadata"], before.metadata, after.metadata)
        return _merge_keys(raw.setdefault("data", {}), _data(before), _data(after)) or metadata

    def merge_status(self, raw: Raw, before: TriggerRecord, after: TriggerRecord) -> bool:  # noqa: ARG002
        """A record has no status."""
        return False


def _data(record: TriggerRecord) -> dict[str, str]:
    """The newest answers that fit."""
    sizes = accumulate(len(encode_json(answer)) + 1 for answer in reversed(record.answered))
    fitting = sum(size <= MAX_RECORD_BYTES for size in sizes)
    answered = record.answered[len(record.answered) - fitting :]
    return {RECORD_KEY: encode_json(_Record(trigger=record.metadata.name, answered=answered)).decode()}


def _new_metadata(metadata: Metadata) -> Raw:
    """What of the metadata is the creator's to give."""
    given = replace(metadata, uid="", resource_version="", creation_timestamp=None, deletion_timestamp=None)
    return {key: value for key, value in _encoded(given).items() if value}


def _merge_metadata(raw: Raw, before: Metadata, after: Metadata) -> bool:
    changed = False
    for key, old, new in (
        ("labels", before.labels, after.labels),
        ("annotations", before.annotations, after.annotations),
    ):
        changed |= _merge_keys(raw.setdefault(key, {}), old, new)
    if set(before.finalizers) != set(after.finalizers):
        kept = [name for name in raw.get("finalizers", ()) if name not in before.finalizers or name in after.finalizers]
        raw["finalizers"] = [*kept, *(name for name in after.finalizers if name not in kept)]
        changed = True
    return _merge_owners(raw, before.owner_references, after.owner_references) or changed


def _merge_owners(raw: Raw, before: Iterable[OwnerReference], after: Iterable[OwnerReference]) -> bool:
    owners = {owner["uid"]: owner for owner in raw.get("ownerReferences", ())}
    changed = _merge_keys(
        owners, {owner.uid: _encoded(owner) for owner in before}, {owner.uid: _encoded(owner) for owner in after}
    )
    if changed:
        raw["ownerReferences"] = list(owners.values())
    return changed


def _merge_keys(raw: Raw, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Change in ``raw`` the keys whose values differ; tell whether there are any."""
    gone = before.keys() - after.keys()
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    for key in gone:
        raw.pop(key, None)
    raw.update(changed)
    return bool(gone or changed)


def _encoded(document: msgspec.Struct) -> Raw:
    """The document as JSON has it, without nulls: the API server removes them from some objects and not from others."""
    encoded: Raw = _without_nulls(to_builtins(document))
    return encoded


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(inner) for inner in value]
    return value
