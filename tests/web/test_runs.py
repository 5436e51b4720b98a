"""Runs over HTTP."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as replace_services

import pytest
from flask import Flask
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from nodeobs.errors import StoreUnavailable
from nodeobs.model import DriverClaim, NodeObservability, Phase, Run, RunStatus, decode_json, replace
from nodeobs.web import create_app
from nodeobs.web.services import Services
from nodeobs.web.slots import Slots
from tests.web.support import RUNS, assert_problem, make_run, run_body


def test_a_run_is_created_as_asked(client: FlaskClient, services: Services, observability: NodeObservability) -> None:
    body = run_body("debug", profiles=["cpu", "heap"], durationSeconds=5, nodes=["node-1"])
    body["metadata"]["labels"] = {"team": "sre"}
    answer = client.post(RUNS, json=body)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{RUNS}/nodeobs/debug"
    document = answer.get_json()
    assert document["kind"] == "NodeObservabilityRun"
    assert document["apiVersion"] == "nodeobservability.olm.openshift.io/v1beta1"
    assert document["metadata"]["labels"] == {"team": "sre"}
    assert document["spec"]["trigger"] == {"kind": "api", "name": "", "alerts": []}
    assert document["status"]["phase"] == "Pending"
    assert decode_json(answer.data, Run) == services.store.get(Run, "debug", "nodeobs")


def test_what_curl_d_claims_to_send_is_taken(client: FlaskClient, observability: NodeObservability) -> None:
    body = '{"spec": {"nodeObservabilityRef": {"name": "cluster"}}}'
    answer = client.post(RUNS, data=body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("metadata", "name"),
    [({}, "cluster-00000000"), ({"generateName": "why-"}, "why-00000000"), ({"name": "x", "generateName": "y"}, "x")],
)
def test_a_name_is_made_where_none_is_given(
    client: FlaskClient, observability: NodeObservability, metadata: dict[str, str], name: str
) -> None:
    answer = client.post(RUNS, json={"metadata": metadata, "spec": {"nodeObservabilityRef": {"name": "cluster"}}})
    assert answer.get_json()["metadata"]["name"] == name


def test_a_generated_name_that_is_taken_gives_another(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    services.store.create(make_run("cluster-00000000", parent="other"))
    assert client.post(RUNS, json=run_body()).get_json()["metadata"]["name"] == "cluster-00000001"


def test_a_second_run_is_refused_and_the_holder_named(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    client.post(RUNS, json=run_body("first"))
    answer = client.post(RUNS, json=run_body("second"))
    document = assert_problem(answer, 409, "nodeobs/first", "Pending", "since")
    assert document["holder"] == "nodeobs/first"
    assert document["type"].endswith("run-in-progress")
    assert [run.metadata.name for run in services.store.list(Run)] == ["first"]


def test_a_name_that_is_taken_is_refused(client: FlaskClient, finished: Run) -> None:
    assert "holder" not in assert_problem(client.post(RUNS, json=run_body("done")), 409, "done")


def test_fifty_at_once_give_one_run(app: Flask, services: Services, observability: NodeObservability) -> None:
    start = threading.Barrier(50)

    def create(number: int) -> int:
        client = app.test_client()
        start.wait()
        return client.post(RUNS, json=run_body(f"run-{number}")).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(create, range(50)))
    assert statuses == [201] + [409] * 49
    assert len(services.store.list(Run)) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (run_body(parent="missing"), 422, ["there is no NodeObservability 'missing'"]),
        (run_body(trigger={"kind": "alert"}), 422, ["/spec/trigger"]),
        (run_body(profiles=["cpu", "cpu"]), 422, ["/spec/profiles", "twice"]),
        (run_body(durationSeconds=0), 422, ["/spec/durationSeconds"]),
        (run_body(profiles=["gpu"]), 422, ["/spec/profiles/0", "allowed: ", "goroutine"]),
        (run_body("Upper"), 422, ["/metadata/name", "(Lower-case RFC 1123"]),
        (run_body(durationSeconds="30"), 422, ["/spec/durationSeconds"]),
        (run_body("../../etc"), 422, ["/metadata/name"]),
        (run_body("x" * 300), 422, ["/metadata/name"]),
        (run_body(durationsSecond=3), 422, ["/spec/durationsSecond", "did you mean 'durationSeconds'?"]),
        ({"spec": {}, "status": {}}, 422, []),
        ({**run_body(), "status": {}}, 422, ["/status"]),
        ({**run_body(), "kind": "Pod"}, 422, ["/kind"]),
        ([], 422, []),
        ("text", 422, []),
    ],
)
def test_a_wrong_document_says_where(
    client: FlaskClient,
    services: Services,
    observability: NodeObservability,
    body: object,
    status: int,
    words: list[str],
) -> None:
    assert_problem(client.post(RUNS, json=body), status, *words)
    assert not services.store.list(Run)


@pytest.mark.parametrize("body", [b"", b"{", b'{"spec":', b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}', b"null x"])
def test_what_is_not_json_is_a_bad_request(client: FlaskClient, services: Services, body: bytes) -> None:
    assert_problem(client.post(RUNS, data=body), 400)
    assert not services.store.list(Run)


def test_runs_are_listed_newest_first_and_filtered(client: FlaskClient, services: Services) -> None:
    for number, parent in enumerate(("cluster", "other", "cluster")):
        services.store.create(make_run(f"run-{number}", parent=parent, namespace="a" if number else "b"))
    last = services.store.get(Run, "run-2", "a")
    services.store.update(replace(last, status=RunStatus(phase=Phase.FAILED)))

    def names(query: str) -> list[str]:
        answer = client.get(f"{RUNS}{query}")
        assert answer.status_code == 200
        return [item["metadata"]["name"] for item in answer.get_json()["items"]]

    assert names("") == ["run-2", "run-1", "run-0"]
    assert names("?namespace=a") == ["run-2", "run-1"]
    assert names("?nodeObservability=cluster") == ["run-2", "run-0"]
    assert names("?phase=Pending&namespace=a") == ["run-1"]
    assert names("?limit=1") == ["run-2"]
    assert client.get(f"{RUNS}?limit=1").get_json()["metadata"]["remainingItemCount"] == 2


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("phase=Done", ["Done", "Succeeded"]),
        ("limit=0", ["1 to 1000"]),
        ("limit=٣", ["limit"]),
        ("limit=" + "9" * 5000, ["limit"]),
        ("nodeobservability=x", ["did you mean 'nodeObservability'?"]),
        ("limit=1&limit=2", ["more than once"]),
    ],
)
def test_a_wrong_query_is_refused(client: FlaskClient, query: str, words: list[str]) -> None:
    assert_problem(client.get(f"{RUNS}?{query}"), 400, *words)


def test_one_run_is_got(client: FlaskClient, finished: Run) -> None:
    answer = client.get(f"{RUNS}/nodeobs/done")
    assert decode_json(answer.data, Run) == finished
    assert answer.headers["ETag"] == f'"{finished.metadata.resource_version}"'
    assert_problem(client.get(f"{RUNS}/nodeobs/other"), 404)


def test_a_wait_ends_with_the_next_change(app: Flask, services: Services, observability: NodeObservability) -> None:
    run = services.store.create(make_run("going"))
    version = run.metadata.resource_version
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.test_client().get, f"{RUNS}/nodeobs/going?wait=30&resourceVersion={version}")
        services.store.create(make_run("unrelated", parent="other"))
        services.store.update(replace(run, status=RunStatus(phase=Phase.RUNNING)))
        assert waiting.result(20).get_json()["status"]["phase"] == "Running"


def test_a_wait_for_an_old_state_ends_at_once(client: FlaskClient, finished: Run) -> None:
    answer = client.get(f"{RUNS}/nodeobs/done?wait=30&resourceVersion=1")
    assert answer.get_json()["status"]["phase"] == "Succeeded"


def test_a_wait_without_a_change_gives_what_there_is(client: FlaskClient, finished: Run) -> None:
    version = finished.metadata.resource_version
    answer = client.get(f"{RUNS}/nodeobs/done?wait=1&resourceVersion={version}")
    assert answer.get_json()["metadata"]["resourceVersion"] == version


def test_a_wait_ends_when_the_run_is_deleted(app: Flask, services: Services, finished: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.test_client().get, f"{RUNS}/nodeobs/done?wait=30")
        while not waiting.running():
            pass
        services.store.delete(Run, "done", "nodeobs")
        assert waiting.result(20).status_code == 404


def test_a_wait_ends_when_the_service_stops(app: Flask, services: Services, finished: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.test_client().get, f"{RUNS}/nodeobs/done?wait=30")
        services.stop.set()
        assert waiting.result(10).status_code == 200


def test_too_many_waits_are_refused(services: Services, finished: Run) -> None:
    full = Slots(1, what="long polls")
    full.take()
    client = create_app(replace_services(services, long_polls=full)).test_client()
    answer = client.get(f"{RUNS}/nodeobs/done?wait=5")
    assert_problem(answer, 503, "long polls")
    assert answer.headers["Retry-After"] == "2"
    assert client.get(f"{RUNS}/nodeobs/done").status_code == 200
    full.give_back()
    assert client.get(f"{RUNS}/nodeobs/done?wait=1").status_code == 200


def test_a_run_is_cancelled_once_or_twice_the_same(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    services.store.create(make_run("going"))
    for _ in range(2):
        answer = client.post(f"{RUNS}/nodeobs/going/cancel")
        assert answer.status_code == 202
        assert answer.get_json()["spec"]["cancel"] is True
    run = services.store.get(Run, "going", "nodeobs")
    services.store.update(replace(run, status=RunStatus(phase=Phase.CANCELLED)))
    assert client.post(f"{RUNS}/nodeobs/going/cancel").status_code == 202


def test_a_finished_run_cannot_be_cancelled(client: FlaskClient, services: Services, finished: Run) -> None:
    assert_problem(client.post(f"{RUNS}/nodeobs/done/cancel"), 409, "Succeeded")
    assert services.store.get(Run, "done", "nodeobs") == finished
    assert_problem(client.post(f"{RUNS}/nodeobs/nothing/cancel"), 404)


def test_a_finished_run_is_deleted(client: FlaskClient, services: Services, finished: Run) -> None:
    assert client.delete(f"{RUNS}/nodeobs/done").status_code == 204
    assert not services.store.list(Run)
    assert_problem(client.delete(f"{RUNS}/nodeobs/done"), 404)


def test_a_driven_run_is_marked_for_deletion(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    run = services.store.create(make_run("going"))
    claimed = replace(
        run,
        metadata=replace(run.metadata, finalizers=("nodeobs/driven",)),
        status=RunStatus(phase=Phase.RUNNING, driver=DriverClaim(holder="me", term=1)),
    )
    services.store.update(claimed)
    answer = client.delete(f"{RUNS}/nodeobs/going")
    assert answer.status_code == 202
    assert answer.get_json()["metadata"]["deletionTimestamp"]


def test_a_store_that_is_down_is_worth_a_retry(services: Services) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            raise StoreUnavailable("the disk is full: free some space")

    client = create_app(replace_services(services, store=Down())).test_client()  # type: ignore[arg-type]
    with capture_logs() as logs:
        for answer in (client.get(RUNS), client.post(RUNS, json=run_body()), client.get("/readyz")):
            assert_problem(answer, 503, "the disk is full")
            assert answer.headers["Retry-After"]
    # A probe that asks every few seconds fills no log.
    told = [entry for entry in logs if entry["event"] == "cannot answer"]
    assert [(entry["path"], entry["log_level"]) for entry in told] == [
        (RUNS, "error"),
        (RUNS, "error"),
        ("/readyz", "debug"),
    ]
    assert client.get("/healthz").status_code == 200


def test_who_asked_is_noted_and_cannot_be_forged(
    guarded: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    key = "nodeobservability.olm.openshift.io/created-by"
    body = run_body("mine")
    body["metadata"]["annotations"] = {key: "somebody else", "note": "x"}
    answer = guarded.post(RUNS, json=body, headers={"Authorization": "Bearer runner-token-0123456789"})
    assert answer.get_json()["metadata"]["annotations"] == {key: "rupert", "note": "x"}
