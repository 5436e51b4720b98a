"""NodeObservabilities over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from nodeobs.model import NodeObservability, NodeObservabilitySpec, Run, decode_json, replace
from nodeobs.settings import Settings
from nodeobs.web import create_app
from nodeobs.web.composition import build
from nodeobs.web.services import Services
from tests.web.support import OBSERVABILITIES, assert_problem, make_observability, make_run

ONE = f"{OBSERVABILITIES}/cluster"


def body(name: str = "cluster", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def test_create_get_list(client: FlaskClient, services: Services) -> None:
    answer = client.post(OBSERVABILITIES, json=body(targets=[{"name": "kubelet"}], nodeSelector={"a": "b"}))
    assert answer.status_code == 201
    assert answer.headers["Location"] == ONE
    stored = services.store.get(NodeObservability, "cluster")
    assert decode_json(answer.data, NodeObservability) == stored
    assert client.get(ONE).get_json() == answer.get_json()
    listed = client.get(OBSERVABILITIES).get_json()
    assert listed["kind"] == "NodeObservabilityList"
    assert listed["items"] == [answer.get_json()]
    assert_problem(client.post(OBSERVABILITIES, json=body()), 409)
    assert_problem(client.get(f"{OBSERVABILITIES}/other"), 404)


def test_what_was_read_can_be_changed_and_put_back(client: FlaskClient, observability: NodeObservability) -> None:
    document = client.get(ONE).get_json()
    document["spec"]["targets"] = [{"name": "etcd", "url": "https://10.0.0.1:2379/debug/pprof"}]
    document["metadata"]["labels"] = {"x": "y"}
    answer = client.put(ONE, json=document)
    assert answer.status_code == 200
    changed = answer.get_json()
    assert changed["spec"]["targets"][0]["name"] == "etcd"
    assert changed["metadata"]["labels"] == {"x": "y"}
    assert changed["metadata"]["uid"] == document["metadata"]["uid"]
    assert_problem(client.put(ONE, json=document), 409, "changed since it was read")


def test_the_version_may_be_given_by_if_match(client: FlaskClient, observability: NodeObservability) -> None:
    tag = client.get(ONE).headers["ETag"]
    assert client.put(ONE, json=body(type="scripting"), headers={"If-Match": tag}).status_code == 200
    assert_problem(client.put(ONE, json=body(), headers={"If-Match": tag}), 409)
    assert client.put(ONE, json=body(), headers={"If-Match": "*"}).status_code == 200


def test_a_service_by_itself_has_agents_only(client: FlaskClient, services: Services) -> None:
    words = "needs a cluster, and this service runs by itself (mode standalone): only 'agents' is possible here"
    assert_problem(client.post(OBSERVABILITIES, json=body(via="apiServer")), 422, words)
    old = make_observability()
    services.store.create(replace(old, spec=replace(old.spec, via="apiServer")))  # as an earlier version let pass
    run = {"metadata": {"name": "first"}, "spec": {"nodeObservabilityRef": {"name": "cluster"}}}
    assert_problem(client.post("/api/v1/runs", json=run), 422, f"'cluster': via 'apiServer' {words}")


def test_the_service_is_composed_so(tmp_path: Path) -> None:
    made = build(Settings.load({"NODEOBS_DATA_DIR": str(tmp_path / "data")}))
    client = create_app(made).test_client()
    assert_problem(client.post(OBSERVABILITIES, json=body("other", via="apiServer")), 422, "needs a cluster")
    made.store.create(replace(make_observability("old"), spec=NodeObservabilitySpec(via="apiServer")))
    run = {"metadata": {"name": "first"}, "spec": {"nodeObservabilityRef": {"name": "old"}}}
    assert_problem(client.post("/api/v1/runs", json=run), 422, "needs a cluster")


def test_nothing_is_renamed_or_created_by_put(client: FlaskClient, observability: NodeObservability) -> None:
    assert_problem(client.put(ONE, json=body("other")), 422, "/metadata/name")
    assert_problem(client.put(f"{OBSERVABILITIES}/other", json=body("other")), 404)


def test_delete(client: FlaskClient, services: Services, finished: Run) -> None:
    going = services.store.create(make_run("going"))
    document = assert_problem(client.delete(ONE), 409, "nodeobs/going", "Pending")
    assert document["holder"] == "nodeobs/going"
    services.store.delete(Run, going.metadata.name, "nodeobs")
    assert client.delete(ONE).status_code == 204
    assert_problem(client.delete(ONE), 404)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"targets": [{"name": "a"}, {"name": "a"}]}, "/spec/targets/1/name"),
        ({"targets": [{"name": "a", "url": "https://h/", "socket": "/s"}]}, "/spec/targets/0"),
        ({"targets": [{"name": "a", "url": "file:///etc/passwd"}]}, "/spec/targets/0/url"),
        ({"targets": [{"name": "a", "url": "https://user:secret@h/"}]}, "/spec/targets/0/url"),
        ({"targets": [{"name": "a", "url": "http://["}]}, "/spec/targets/0/url"),
        ({"targets": [{"name": "../a"}]}, "/spec/targets/0/name"),
        ({"targets": [{"name": "a", "socket": "relative"}]}, "/spec/targets/0/socket"),
        ({"type": "other"}, "/spec/type"),
        ({"via": "apiServer"}, "/spec/via"),
        ({"nodeselector": {}}, "/spec/nodeselector"),
    ],
)
def test_a_wrong_document_says_where_and_changes_nothing(
    client: FlaskClient, services: Services, spec: dict[str, Any], pointer: str
) -> None:
    document = assert_problem(client.post(OBSERVABILITIES, json=body(**spec)), 422)
    assert document["errors"][0]["pointer"] == pointer
    assert not services.store.list(NodeObservability)
    services.store.create(make_observability())
    assert_problem(client.put(ONE, json=body(**spec)), 422)


def test_a_namespace_is_refused(client: FlaskClient) -> None:
    document = {"metadata": {"name": "cluster", "namespace": "nodeobs"}, "spec": {}}
    assert_problem(client.post(OBSERVABILITIES, json=document), 422, "/metadata/namespace")
