from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import InvalidInput
from nodeobs.kube.crds import crds
from nodeobs.model import GROUP, NodeObservability, NodeObservabilityMachineConfig, Run, from_builtins
from nodeobs.model.versions import STORAGE_VERSION, VERSIONS, convert, convert_review
from tests.structural import values, with_defaults

MODELS = {kind.KIND: kind for kind in (NodeObservability, Run, NodeObservabilityMachineConfig)}
SCHEMAS = {
    (crd["spec"]["names"]["kind"], version["name"]): version["schema"]["openAPIV3Schema"]
    for crd in crds(webhook=None)
    for version in crd["spec"]["versions"]
}


def held(kind: str, version: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects as the API server holds them: of that schema, with its defaults."""
    schema = SCHEMAS[kind, version]
    parts = {name: values(schema["properties"][name]) for name in ("spec", "status")}
    known = {
        "apiVersion": st.just(f"{GROUP}/{version}"),
        "kind": st.just(kind),
        "metadata": st.fixed_dictionaries({"name": st.just("x"), "uid": st.uuids().map(str)}),
    }
    return st.fixed_dictionaries({**known, **parts}).map(lambda found: with_defaults(found, schema))


HELD = st.one_of([held(*at) for at in SCHEMAS])

KEYS = ["conditions", "labels", "nodeSelector", "spec", "status", "apiVersion", "kind", "x"]
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["conditions", "labels", "nodeSelector", "spec", "status", "apiVersion", "kind", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(HELD, st.lists(st.sampled_from(VERSIONS), max_size=4))
def test_a_tour_through_the_versions_loses_nothing(obj: dict[str, Any], tour: list[str]) -> None:
    before = deepcopy(obj)
    home = obj["apiVersion"].rpartition("/")[2]
    there = obj
    for version in (*tour, home):
        there = convert(there, version)
    assert there == before
    assert obj == before


@given(HELD, st.sampled_from(VERSIONS))
def test_what_comes_out_is_what_the_versions_schema_holds(obj: dict[str, Any], version: str) -> None:
    converted = convert(obj, version)
    assert converted["apiVersion"] == f"{GROUP}/{version}"
    schema = SCHEMAS[obj["kind"], version]
    for part in ("spec", "status"):
        assert set(converted[part]) <= set(schema["properties"][part]["properties"])
    assert with_defaults(converted, schema) == converted


@given(HELD)
def test_the_model_reads_what_any_version_holds(obj: dict[str, Any]) -> None:
    if obj["kind"] == Run.KIND:
        obj["spec"]["durationSeconds"] = 30  # a rule bounds it, not the schema
    from_builtins(convert(obj, STORAGE_VERSION), MODELS[obj["kind"]])


def test_labels_are_the_node_selector_and_conditions_are_wrapped() -> None:
    condition = {"type": "Ready", "status": "True"}
    old = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "NodeObservability",
        "metadata": {"name": "cluster"},
        "spec": {"labels": {"a": "b"}, "type": "crio-kubelet"},
        "status": {"count": 3, "conditions": {"conditions": [condition]}},
    }
    new = convert(old, "v1beta1")
    assert new["spec"] == {"nodeSelector": {"a": "b"}, "type": "crio-kubelet"}
    assert new["status"] == {"count": 3, "conditions": [condition]}
    between = convert(old, "v1alpha2")
    assert (between["spec"], between["status"]) == (new["spec"], old["status"])
    assert convert(new, "v1alpha1") == old


def test_machine_configs_have_flat_conditions_in_every_version() -> None:
    obj = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "NodeObservabilityMachineConfig",
        "spec": {"labels": {}, "nodeSelector": {}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert convert(obj, "v1beta1") == obj | {"apiVersion": f"{GROUP}/v1beta1"}


@pytest.mark.parametrize("wrapped", [{}, {"conditions": None}])
def test_upstreams_empty_wrapper_is_no_condition(wrapped: dict[str, Any]) -> None:
    obj = {"apiVersion": f"{GROUP}/v1alpha2", "kind": "NodeObservabilityRun", "status": {"conditions": wrapped}}
    assert not convert(obj, "v1beta1")["status"].get("conditions")


@given(
    st.dictionaries(
        st.sampled_from(["apiVersion", "kind", "metadata", "spec", "status"]),
        json_values | st.sampled_from([*MODELS, *(f"{GROUP}/{version}" for version in VERSIONS)]),
    ),
    st.sampled_from(VERSIONS),
)
def test_nothing_is_too_odd_to_be_read(obj: dict[str, Any], version: str) -> None:
    before = deepcopy(obj)
    converted = convert(obj, version)
    assert converted["apiVersion"] == f"{GROUP}/{version}"
    assert converted.get("metadata") == before.get("metadata")
    assert obj == before


def review(*objects: Any, desired: Any = f"{GROUP}/v1beta1") -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "request": {"uid": "u-1", "desiredAPIVersion": desired, "objects": list(objects)},
    }


def test_a_review_is_answered_in_its_order() -> None:
    runs = [{"apiVersion": f"{GROUP}/v1alpha1", "kind": Run.KIND, "metadata": {"name": f"r{i}"}} for i in range(500)]
    answer = convert_review(review(*runs))
    assert answer["kind"] == "ConversionReview"
    assert answer["apiVersion"] == "apiextensions.k8s.io/v1"
    response = answer["response"]
    assert response["uid"] == "u-1"
    assert response["result"] == {"status": "Success"}
    assert [obj["metadata"]["name"] for obj in response["convertedObjects"]] == [f"r{i}" for i in range(500)]
    assert {obj["apiVersion"] for obj in response["convertedObjects"]} == {f"{GROUP}/v1beta1"}


@pytest.mark.parametrize("desired", [f"{GROUP}/v2", "v1beta1", "other/v1beta1", None, 7])
def test_a_version_that_is_not_served_is_refused_within_the_answer(desired: Any) -> None:
    response = convert_review(review({"kind": Run.KIND}, desired=desired))["response"]
    assert response["uid"] == "u-1"
    assert response["result"]["status"] == "Failure"
    assert "v1alpha1, v1alpha2, v1beta1" in response["result"]["message"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], "/request"),
        ({}, "/request"),
        ({"request": None}, "/request"),
        ({"request": {"objects": []}}, "/request/uid"),
        ({"request": {"uid": "", "objects": []}}, "/request/uid"),
        ({"request": {"uid": "u", "objects": {}}}, "/request/objects"),
        ({"request": {"uid": "u", "objects": [{}, "x"]}}, "/request/objects/1"),
    ],
)
def test_what_is_no_review_is_refused(body: Any, pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        convert_review(body)
    assert refused.value.pointer == pointer


@given(json_values)
def test_no_body_is_a_fault(body: Any) -> None:
    for found in (body, {"request": body}, {"request": {"uid": "u", "objects": body}}):
        with suppress(InvalidInput):
            msgspec.json.encode(convert_review(found))
