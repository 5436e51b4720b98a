"""Whatever comes in, the answer is a clear refusal or a defined outcome, never a 500, and nothing is written."""

from __future__ import annotations

import bisect
import json
import sys
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeobs.model import NodeObservability, Run, TriggerRecord
from nodeobs.web.services import Services
from tests.web.support import OBSERVABILITIES, RUNS, WEBHOOK, notification, run_body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = (
    ("POST", RUNS, run_body("name", profiles=["cpu"], targets=["kubelet"], nodes=["n"], nodeSelector={"a": "b"})),
    ("POST", OBSERVABILITIES, {"metadata": {"name": "x"}, "spec": {"targets": [{"name": "a", "url": "http://h"}]}}),
    ("PUT", f"{OBSERVABILITIES}/cluster", {"metadata": {"name": "cluster"}, "spec": {"type": "scripting"}}),
    ("POST", WEBHOOK, notification("node-1", "node-2")),
)
NAMES = (
    "../../etc/passwd",
    "a/../b",
    "..",
    "a\x00b",
    "a\nb",
    "\x1b[31mred",
    "x" * 300,
    "x" * 1_000_000,
    "ü",
    "UPPER",
    "\u202e",
    "",
)
QUIET = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def state(services: Services) -> tuple[object, ...]:
    return tuple(services.store.list(kind) for kind in (Run, NodeObservability, TriggerRecord))


def assert_refused(answer: Any, services: Services, before: tuple[object, ...]) -> None:
    assert answer.status_code in (400, 404, 409, 413, 422), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert state(services) == before


@pytest.mark.parametrize(("method", "path", "document"), DOCUMENTS)
@given(data=st.data())
@QUIET
def test_any_json(
    client: FlaskClient, services: Services, method: str, path: str, document: dict[str, Any], data: st.DataObject
) -> None:
    before = state(services)
    answer = client.open(path, method=method, data=json.dumps(data.draw(JSON)))
    assert_refused(answer, services, before)


@pytest.mark.parametrize(("method", "path", "document"), DOCUMENTS)
@given(data=st.data())
@QUIET
def test_truncated_and_damaged_documents(
    client: FlaskClient, services: Services, method: str, path: str, document: dict[str, Any], data: st.DataObject
) -> None:
    before = state(services)
    whole = json.dumps(document).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    assert_refused(client.open(path, method=method, data=whole[:place]), services, before)
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    assert client.open(path, method=method, data=bytes(damaged)).status_code < 500


@pytest.mark.parametrize(("method", "path", "document"), DOCUMENTS)
@pytest.mark.parametrize("wrong", [None, True, -1, 1e300, "text", "\ud800", [], {}, [[]], {"": {}}])
def test_a_wrong_type_in_each_place(
    client: FlaskClient, services: Services, method: str, path: str, document: dict[str, Any], wrong: object
) -> None:
    for place in places(document):
        answer = client.open(path, method=method, data=json.dumps(changed(document, place, wrong)))
        assert answer.status_code < 500, (place, answer.text)


@pytest.mark.parametrize(("method", "path", "document"), DOCUMENTS[:3])
def test_an_unknown_field_in_each_place(
    client: FlaskClient, services: Services, method: str, path: str, document: dict[str, Any]
) -> None:
    before = state(services)
    for place in [(), *places(document)]:
        if isinstance(at(document, place), dict) and place[-1:] not in (("nodeSelector",), ("labels",)):
            answer = client.open(path, method=method, json=changed(document, (*place, "surprise"), 1))
            assert_refused(answer, services, before)
            assert "surprise" in answer.text


def test_a_document_nested_just_so_deep_that_it_can_be_decoded(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    before = state(services)

    def create(depth: int) -> int:
        nested = '{"a":' * depth + "1" + "}" * depth
        answer = client.post(OBSERVABILITIES, data=f'{{"metadata":{{"name":"cluster"}},"status":{nested}}}')
        assert_refused(answer, services, before)
        return answer.status_code

    # Fit to be taken (but for its name, which is), or too deep: around where the one becomes the other.
    edge = bisect.bisect_left(range(sys.getrecursionlimit()), True, key=lambda depth: create(depth) == 400)
    for depth in range(edge - 5, edge + 5):
        create(depth)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_would_be_paths(client: FlaskClient, services: Services, name: str) -> None:
    before = state(services)
    bodies = (run_body(name or "-"), run_body(parent=name), run_body(nodes=[name]), run_body(targets=[name]))
    for body in bodies:
        assert_refused(client.post(RUNS, json=body), services, before)
    body = run_body()
    body["metadata"] = {"namespace": name or "-"}
    assert_refused(client.post(RUNS, json=body), services, before)
    assert_refused(client.post(OBSERVABILITIES, json={"metadata": {"name": name}}), services, before)


@given(text=st.text(max_size=40))
@settings(QUIET, max_examples=60)
def test_any_path_and_query(client: FlaskClient, services: Services, text: str) -> None:
    before = state(services)
    name = quote(text, safe="")
    for path in (f"/{name}", f"{RUNS}/{name}/x", f"{RUNS}/a/{name}/output", f"{OBSERVABILITIES}/{name}"):
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = client.open(path, method=method, query_string={text: text})
            assert answer.status_code < 500
    assert state(services) == before


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to everything in a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    found: list[tuple[Any, ...]] = []
    for key, value in items:
        found += [(*here, key), *places(value, (*here, key))]
    return found


def at(document: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        document = document[step]
    return document


def changed(document: Any, place: tuple[Any, ...], value: object) -> Any:
    """A copy with another value in one place."""
    copy = json.loads(json.dumps(document))
    at(copy, place[:-1])[place[-1]] = value
    return copy
