"""Whether an object in the cluster still is what was applied, told without writing. Pure.

The digest of what was applied is kept in an annotation. Server-side apply records which fields are ours and takes the
record away when somebody else writes another value there, or removes the field; so whoever still owns every field that
was applied finds them as they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from nodeobs.model import GROUP

Json = dict[str, Any]

MANAGER: Final = "nodeobs"
"""Field manager of what is applied."""
APPLIED: Final = f"{GROUP}/applied"
"""Annotation with the digest of what was applied."""


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what is read of an object; what is absent may also be null."""


class Owner(_Read, frozen=True):
    """One ownerReference."""

    uid: str = ""


class _ManagedFields(_Read, frozen=True):
    manager: str = ""
    operation: str = ""
    fields_v1: dict[str, Any] | None = msgspec.field(default=None, name="fieldsV1")


class HeldMetadata(_Read, frozen=True):
    """As much of an object's metadata as tells whose it is, and what became of it."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] | None = None
    managed_fields: tuple[_ManagedFields, ...] | None = None


class RollOut(_Read, frozen=True):
    """Status of a DaemonSet."""

    observed_generation: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0


class Held(_Read, frozen=True):
    """An object as the cluster has it."""

    metadata: HeldMetadata
    data: dict[str, str] | None = None
    """Of a Secret or ConfigMap."""
    status: RollOut = RollOut()

    @property
    def owners(self) -> frozenset[str]:
        """Uids of its owners."""
        return frozenset(owner.uid for owner in self.metadata.owner_references or ())

    def is_as(self, document: Json) -> bool:
        """Whether ``document``, as :func:`stamped` made it, was applied and nobody has changed it since."""
        annotations = self.metadata.annotations or {}
        if annotations.get(APPLIED) != digest_of(document):
            return False
        ours = [
            entry.fields_v1 or {}
            for entry in self.metadata.managed_fields or ()
            if (entry.manager, entry.operation) == (MANAGER, "Apply")
        ]
        return any(_owns(fields, _fields_of(document)) for fields in ours)


def stamped(document: Json) -> Json:
    """The document with its digest."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    metadata = document["metadata"]
    return document | {"metadata": metadata | {"annotations": metadata.get("annotations", {}) | {APPLIED: digest}}}


def digest_of(document: Json) -> str:
    """The digest that it was stamped with."""
    digest: str = document["metadata"]["annotations"][APPLIED]
    return digest


def _fields_of(document: Json) -> Json:
    """What of a document has owners: not what names it."""
    rest = {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")}
    named = {key: value for key, value in document["metadata"].items() if key not in ("name", "namespace")}
    return rest | {"metadata": named}


def _owns(fields: Mapping[str, Any], wanted: object) -> bool:
    """Whether ``fields`` (metav1.FieldsV1) has everything in ``wanted``; what is atomic has nothing within."""
    if isinstance(wanted, Mapping):
        return all(_has(fields.get(f"f:{key}"), value) for key, value in wanted.items())
    keyed = {path.removeprefix("k:"): inner for path, inner in fields.items() if path.startswith("k:")}
    if not keyed or not isinstance(wanted, Iterable):
        return True
    return all(any(_is_key_of(key, item) and _has(inner, item) for key, inner in keyed.items()) for item in wanted)


def _has(inner: Mapping[str, Any] | None, wanted: object) -> bool:
    return inner is not None and (not inner or _owns(inner, wanted))


def _is_key_of(key: str, item: Mapping[str, Any]) -> bool:
    """Whether ``key`` is the one of that item of a list; the API server adds default values to keys."""
    return all(name not in item or item[name] == value for name, value in json.loads(key).items())
