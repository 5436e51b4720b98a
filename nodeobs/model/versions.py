"""Conversion between the served versions of the custom resources, on plain JSON objects.

``v1beta1`` is stored. The old versions have the same fields but for two shapes of theirs, which is all that a
conversion changes:

- ``spec.nodeSelector`` of a NodeObservability is ``spec.labels`` in ``v1alpha1``;
- ``status.conditions`` of a NodeObservability and of a Run is one level deeper, ``{conditions: […]}``.

So no version holds anything that another cannot, and nothing has to travel in annotations. Nothing here validates:
what the API server holds must be readable and deletable in every version, whatever shape it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from nodeobs.errors import InvalidInput
from nodeobs.model.resources import GROUP

STORAGE_VERSION: Final = "v1beta1"
VERSIONS: Final = ("v1alpha1", "v1alpha2", STORAGE_VERSION)
"""Oldest first; all are served."""

Json = dict[str, Any]


def convert(obj: Json, to_version: str) -> Json:
    """The object in another version, such as ``v1beta1``; what has no other shape there is shared, not copied.

    Never fails: what is not understood is left as it is.
    """
    given = obj.get("apiVersion")
    version = given.rpartition("/")[2] if isinstance(given, str) else ""
    kind = str(obj.get("kind"))
    result = obj | {"apiVersion": f"{GROUP}/{to_version}"}
    if version != to_version:
        for undo in _SHAPES.get((kind, version), ()):
            undo.to_storage(result)
        for shape in _SHAPES.get((kind, to_version), ()):
            shape.from_storage(result)
    return result


def convert_review(review: object) -> Json:
    """Answer to a ConversionReview (``apiextensions.k8s.io/v1``): the same review with a ``response``.

    A version that is not served is refused within the answer, which the API server passes on to its caller.

    Raises:
        InvalidInput: not a ConversionReview with a request; the pointer says where.
    """
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict):
        raise InvalidInput("must be an object: a ConversionReview has a request", pointer="/request")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise InvalidInput("must be the text by which the API server knows its request", pointer="/request/uid")
    objects = request.get("objects")
    if not isinstance(objects, list):
        raise InvalidInput("must be a list of objects", pointer="/request/objects")
    for index, obj in enumerate(objects):
        if not isinstance(obj, dict):
            raise InvalidInput("must be an object", pointer=f"/request/objects/{index}")
    response = {"uid": uid, **_converted(objects, request.get("desiredAPIVersion"))}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}


def _converted(objects: list[Json], desired: object) -> Json:
    group, _, version = desired.rpartition("/") if isinstance(desired, str) else ("", "", "")
    if group != GROUP or version not in VERSIONS:
        message = f"cannot convert to {desired!r}: {GROUP} has the versions {', '.join(VERSIONS)}"
        return {"result": {"status": "Failure", "message": message}, "convertedObjects": []}
    return {"result": {"status": "Success"}, "convertedObjects": [convert(obj, version) for obj in objects]}


class _Shape:
    """Where an old version has another shape than the stored one: how to make it, and how to undo it."""

    def __init__(self, part: str, *, to_storage: Callable[[Json], Json], from_storage: Callable[[Json], Json]) -> None:
        self._part = part
        self._to_storage = to_storage
        self._from_storage = from_storage

    def to_storage(self, obj: Json) -> None:
        """Change ``obj`` (one level of it is ours) from the old shape."""
        self._change(obj, self._to_storage)

    def from_storage(self, obj: Json) -> None:
        """Change ``obj`` (one level of it is ours) to the old shape."""
        self._change(obj, self._from_storage)

    def _change(self, obj: Json, change: Callable[[Json], Json]) -> None:
        part = obj.get(self._part)
        if isinstance(part, dict):
            obj[self._part] = change(part)


def _rename(part: Json, old: str, new: str) -> Json:
    if old not in part:
        return part
    return {key: value for key, value in part.items() if key not in (old, new)} | {new: part[old]}


def _wrap(status: Json) -> Json:
    if not isinstance(status.get("conditions"), list):
        return status
    return status | {"conditions": {"conditions": status["conditions"]}}


def _unwrap(status: Json) -> Json:
    wrapped = status.get("conditions")
    if not isinstance(wrapped, dict):
        return status
    if "conditions" in wrapped:
        return status | {"conditions": wrapped["conditions"]}
    return {key: value for key, value in status.items() if key != "conditions"}


_LABELS: Final = _Shape(
    "spec",
    to_storage=lambda spec: _rename(spec, "labels", "nodeSelector"),
    from_storage=lambda spec: _rename(spec, "nodeSelector", "labels"),
)
_WRAPPED_CONDITIONS: Final = _Shape("status", to_storage=_unwrap, from_storage=_wrap)

_SHAPES: Final[Mapping[tuple[str, str], tuple[_Shape, ...]]] = {
    ("NodeObservability", "v1alpha1"): (_LABELS, _WRAPPED_CONDITIONS),
    ("NodeObservability", "v1alpha2"): (_WRAPPED_CONDITIONS,),
    ("NodeObservabilityRun", "v1alpha1"): (_WRAPPED_CONDITIONS,),
    ("NodeObservabilityRun", "v1alpha2"): (_WRAPPED_CONDITIONS,),
}
