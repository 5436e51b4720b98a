"""Telling from an object whether it is as it was applied."""

from __future__ import annotations

from typing import Any

import pytest

from nodeobs.deploy.drift import APPLIED, MANAGER, Held, digest_of, stamped
from nodeobs.model import from_builtins

DOCUMENT = stamped(
    {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agents", "labels": {"a": "b"}, "ownerReferences": [{"uid": "u", "name": "cluster"}]},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "tolerations": [{"operator": "Exists"}],
            "ports": [{"port": 8443, "name": "https"}],
        },
    }
)


def owned() -> dict[str, Any]:
    """Everything, as the API server records it."""
    return {
        "f:metadata": {
            "f:annotations": {f"f:{APPLIED}": {}},
            "f:labels": {"f:a": {}},
            "f:ownerReferences": {'k:{"uid":"u"}': {".": {}, "f:uid": {}, "f:name": {}}},
        },
        "f:spec": {
            "f:selector": {},
            "f:tolerations": {},
            "f:ports": {'k:{"port":8443,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}}},
        },
    }


def without(fields: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """As the API server takes a field away: what nothing is left of goes as well."""
    first, *rest = path
    left = without(fields[first], tuple(rest)) if rest else {}
    return {**fields, first: left} if left else {key: value for key, value in fields.items() if key != first}


def held(fields: dict[str, Any], *, manager: str = MANAGER, operation: str = "Apply", digest: str = "") -> Held:
    entry = {"manager": manager, "operation": operation, "fieldsV1": fields}
    annotations = {APPLIED: digest or digest_of(DOCUMENT)}
    return from_builtins({"metadata": {"name": "agents", "annotations": annotations, "managedFields": [entry]}}, Held)


def test_whoever_owns_all_finds_it_as_it_was() -> None:
    assert held(owned()).is_as(DOCUMENT)


@pytest.mark.parametrize(
    "path",
    [
        ("f:spec",),
        ("f:spec", "f:selector"),
        ("f:spec", "f:ports"),
        ("f:spec", "f:ports", 'k:{"port":8443,"protocol":"TCP"}', "f:name"),
        ("f:metadata", "f:labels", "f:a"),
        ("f:metadata", "f:annotations", f"f:{APPLIED}"),
        ("f:metadata", "f:ownerReferences", 'k:{"uid":"u"}', "f:name"),
    ],
)
def test_a_field_that_somebody_else_wrote_is_missed(path: tuple[str, ...]) -> None:
    assert not held(without(owned(), path)).is_as(DOCUMENT)


def test_an_item_of_a_list_that_is_gone_is_missed() -> None:
    fields = owned()
    fields["f:spec"]["f:ports"] = {'k:{"port":1,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}}}
    assert not held(fields).is_as(DOCUMENT)


def test_only_our_own_record_counts() -> None:
    assert not held(owned(), manager="kubectl").is_as(DOCUMENT)
    assert not held(owned(), operation="Update").is_as(DOCUMENT)


def test_another_wish_is_another_digest() -> None:
    assert not held(owned(), digest="0").is_as(DOCUMENT)
    other = stamped({"kind": "DaemonSet", "metadata": {"name": "agents"}, "spec": {"a": 1}})
    assert digest_of(other) != digest_of(DOCUMENT)
    assert digest_of(stamped({"spec": {"a": 1}, "metadata": {"name": "agents"}, "kind": "DaemonSet"})) == digest_of(
        other
    )


def test_nothing_is_known_of_an_object_without_records() -> None:
    assert not from_builtins({"metadata": {"name": "agents"}}, Held).is_as(DOCUMENT)
    assert not from_builtins(
        {"metadata": {"name": "agents", "annotations": None, "managedFields": None, "ownerReferences": None}}, Held
    ).is_as(DOCUMENT)
