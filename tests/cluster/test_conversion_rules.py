"""Conversion as the API server uses it: written in one version, read, changed and deleted in another."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeobs.errors import NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import crds
from nodeobs.model import GROUP, NodeObservability, NodeObservabilityMachineConfig, Run
from nodeobs.model.versions import STORAGE_VERSION, VERSIONS, convert
from tests.api_webhooks import Webhooks, converted, webhooks
from tests.custom_objects import Objects, path
from tests.custom_resources import clear
from tests.lab.apiserver import ApiServer
from tests.structural import values, with_defaults

pytestmark = pytest.mark.cluster

KINDS = (NodeObservability.KIND, Run.KIND, NodeObservabilityMachineConfig.KIND)
SCHEMAS = {
    (crd["spec"]["names"]["kind"], version["name"]): version["schema"]["openAPIV3Schema"]
    for crd in crds(webhook=None)
    for version in crd["spec"]["versions"]
}


@pytest.fixture(scope="module")
def asked() -> Iterator[Webhooks]:
    with webhooks() as found:
        yield found


@pytest.fixture(scope="module")
def admin(api_server: ApiServer, asked: Webhooks) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client, converted(client, asked.webhook):
        yield client


@pytest.fixture(autouse=True)
def emptied(admin: KubeClient) -> Iterator[None]:
    yield
    clear(admin)


def without_rules(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, narrowed to what its rules allow too."""
    narrowed = deepcopy(schema)
    spec = narrowed["properties"]["spec"]["properties"]
    if "durationSeconds" in spec:
        spec["durationSeconds"] |= {"minimum": 1, "maximum": 3600}
    if "via" in spec:
        target = spec["targets"]["items"]["properties"]
        target["url"] = {"type": "string", "enum": ["http://x", "https://$(NODE_IP):2379/debug/pprof"]}
        del target["socket"]
        toleration = spec["tolerations"]["items"]
        toleration["properties"]["operator"]["enum"] = ["Exists"]
        toleration["required"] = ["operator"]
    return narrowed


def parts(kind: str, version: str) -> st.SearchStrategy[tuple[dict[str, Any], dict[str, Any]]]:
    schema = without_rules(SCHEMAS[kind, version])["properties"]
    return st.tuples(values(schema["spec"]), values(schema["status"]))


WRITTEN = st.one_of(
    [st.tuples(st.just(kind), st.just(version), parts(kind, version)) for kind in KINDS for version in VERSIONS]
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(written=WRITTEN)
def test_nothing_is_lost_between_versions(
    admin: KubeClient, namespace: str, written: tuple[str, str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    kind, version, (spec, status) = written
    created = Objects(admin, kind, version, namespace).create(spec)
    at = f"{path(kind, version, namespace)}/x"
    try:
        admin.request("PUT", f"{at}/status", created | {"status": status})
        home = json.loads(admin.get(at))
        schema = SCHEMAS[kind, version]
        wanted = with_defaults({"spec": spec, "status": status}, schema)
        assert {part: home[part] for part in ("spec", "status")} == wanted
        for other in VERSIONS:
            there = f"{path(kind, other, namespace)}/x"
            found = json.loads(admin.get(there))
            assert _meaning(found) == _meaning(convert(home, other))
            # What was read can be written back, and that changes nothing.
            for subresource in ("", "/status"):
                answer = json.loads(admin.request("PUT", there + subresource, found))
                assert answer["metadata"]["resourceVersion"] == home["metadata"]["resourceVersion"]
    finally:
        admin.request("DELETE", at)


def _meaning(obj: dict[str, Any]) -> dict[str, Any]:
    return {key: obj[key] for key in ("apiVersion", "kind", "spec", "status")}


ODD: list[dict[str, Any]] = [
    {},
    {"spec": None, "status": None},
    {"spec": [], "status": "x"},
    {"spec": {"labels": None, "nodeSelector": ["x"], "type": 7}, "status": {"conditions": []}},
    {"spec": {"labels": {"a": 1}}, "status": {"conditions": {"conditions": {"conditions": []}}}},
    {"spec": {"labels": {"a": "b"}, "nodeSelector": {"c": "d"}}, "status": {"conditions": "none", "count": "many"}},
    {"spec": {"nodeObservabilityRef": "cluster", "durationSeconds": -1}, "status": {"phase": "Gone", "agents": {}}},
]


@pytest.mark.parametrize("stored_as", VERSIONS)
@pytest.mark.parametrize("odd", ODD)
def test_whatever_is_stored_can_be_read_and_deleted(
    api_server: ApiServer, admin: KubeClient, odd: dict[str, Any], stored_as: str
) -> None:
    """Put into etcd behind the API server's back, as an earlier schema may have allowed it."""
    body = {
        "apiVersion": f"{GROUP}/{stored_as}",
        "kind": NodeObservability.KIND,
        "metadata": {"name": "odd", "uid": "6f1ed002-ab5c-4ed0-8d1a-3a1fdd3b4c00", "generation": 1},
        **odd,
    }
    _put_into_etcd(api_server, f"/registry/{GROUP}/nodeobservabilities/odd", body)
    for version in VERSIONS:
        at = path(NodeObservability.KIND, version)
        assert json.loads(admin.get(f"{at}/odd"))["apiVersion"] == f"{GROUP}/{version}"
        assert [item["metadata"]["name"] for item in json.loads(admin.get(at))["items"]] == ["odd"]
    oldest = path(NodeObservability.KIND, "v1alpha1")
    admin.request("DELETE", f"{oldest}/odd")
    with pytest.raises(NotFound):
        admin.get(f"{oldest}/odd")


def test_what_upstream_stored_is_served(api_server: ApiServer, admin: KubeClient) -> None:
    """Its storage version was v1alpha2; the next write stores ours."""
    key = f"/registry/{GROUP}/nodeobservabilities/cluster"
    body = {
        "apiVersion": f"{GROUP}/v1alpha2",
        "kind": NodeObservability.KIND,
        "metadata": {"name": "cluster", "uid": "6f1ed002-ab5c-4ed0-8d1a-3a1fdd3b4c01", "generation": 1},
        "spec": {"nodeSelector": {"a": "b"}, "type": "crio-kubelet"},
        "status": {"count": 2, "conditions": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}]}},
    }
    _put_into_etcd(api_server, key, body)
    at = f"{path(NodeObservability.KIND, STORAGE_VERSION)}/cluster"
    found = json.loads(admin.get(at))
    filled = {"nodeSelector": {"a": "b"}, "type": "crio-kubelet", "targets": [], "via": "agents"}
    assert {name: found["spec"][name] for name in filled} == filled
    assert found["status"]["conditions"] == [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]
    admin.request("PUT", at, found)
    assert _get_from_etcd(api_server, key)["apiVersion"] == f"{GROUP}/{STORAGE_VERSION}"


def test_what_is_stored_in_the_storage_version_needs_no_conversion(admin: KubeClient, asked: Webhooks) -> None:
    """The service's own requests do not wait for itself: it can start where nothing answers yet."""
    at = path(NodeObservability.KIND, STORAGE_VERSION)
    asked.away.set()
    try:
        Objects(admin, NodeObservability.KIND, STORAGE_VERSION, "").create({})
        stored = json.loads(admin.get(f"{at}/x"))
        admin.request("PUT", f"{at}/x", stored | {"spec": {"nodeSelector": {"a": "b"}}})
        assert [item["spec"]["nodeSelector"] for item in json.loads(admin.get(at))["items"]] == [{"a": "b"}]
        admin.request("DELETE", f"{at}/x")
    finally:
        asked.away.clear()


def _put_into_etcd(api_server: ApiServer, key: str, document: dict[str, Any]) -> None:
    _etcd(api_server, "put", {"key": _encoded(key), "value": _encoded(json.dumps(document))})


def _get_from_etcd(api_server: ApiServer, key: str) -> dict[str, Any]:
    (found,) = _etcd(api_server, "range", {"key": _encoded(key)})["kvs"]
    return dict(json.loads(base64.b64decode(found["value"])))


def _etcd(api_server: ApiServer, call: str, body: dict[str, str]) -> dict[str, Any]:
    listen = api_server.listen
    with httpx.Client(trust_env=False) as http:
        answer = http.post(f"http://{listen.address}:{listen.etcd}/v3/kv/{call}", json=body)
    return dict(answer.raise_for_status().json())


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
