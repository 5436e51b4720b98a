"""Who may call what in a cluster: tokens and rights that the API server knows."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replace_services
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.reviewer import Reviewer
from nodeobs.model import NodeObservability, Run
from nodeobs.web import create_app
from nodeobs.web.access import ClusterAccess
from nodeobs.web.services import Services
from tests.fakes.review_server import ReviewServer
from tests.web.support import OBSERVABILITIES, RUNS, WEBHOOK, assert_problem, bearer, notification, run_body

ADA = "token-of-ada"
RUN = "nodeobservabilityruns"
PARENT = "nodeobservabilities"

START = (("ada", "create", RUN, "nodeobs", ""), ("ada", "use", PARENT, "", "cluster"))


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with ReviewServer() as server:
        server.users[ADA] = "ada"
        yield server


@pytest.fixture
def cluster_app(services: Services, server: ReviewServer, tmp_path: Path) -> Iterator[Flask]:
    credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
    with closing(KubeClient(credentials)) as client:
        yield create_app(replace_services(services, access=ClusterAccess(Reviewer(client))))


@pytest.fixture
def caller(cluster_app: Flask) -> FlaskClient:
    """Client of an application in a cluster, sending no token by itself."""
    return cluster_app.test_client()


CALLS = [
    ("GET", RUNS, None, [("list", RUN, "", "")]),
    ("GET", f"{RUNS}?namespace=prod", None, [("list", RUN, "prod", "")]),
    ("GET", f"{RUNS}/prod/slow", None, [("get", RUN, "prod", "slow")]),
    ("HEAD", f"{RUNS}/prod/slow", None, [("get", RUN, "prod", "slow")]),
    ("GET", f"{RUNS}/prod/slow?wait=1", None, [("get", RUN, "prod", "slow")]),
    ("DELETE", f"{RUNS}/prod/slow", None, [("delete", RUN, "prod", "slow")]),
    ("POST", f"{RUNS}/prod/slow/cancel", None, [("update", RUN, "prod", "slow")]),
    ("POST", RUNS, run_body(), [("create", RUN, "nodeobs", ""), ("use", PARENT, "", "cluster")]),
    (
        "POST",
        RUNS,
        {**run_body(parent="other"), "metadata": {"namespace": "prod"}},
        [("create", RUN, "prod", ""), ("use", PARENT, "", "other")],
    ),
    ("GET", f"{RUNS}/prod/slow/output", None, [("get", f"{RUN}/output", "prod", "slow")]),
    ("GET", f"{RUNS}/prod/slow/output.tar.gz", None, [("get", f"{RUN}/output", "prod", "slow")]),
    ("GET", f"{RUNS}/prod/slow/output/node/file", None, [("get", f"{RUN}/output", "prod", "slow")]),
    ("GET", OBSERVABILITIES, None, [("list", PARENT, "", "")]),
    ("POST", OBSERVABILITIES, {"metadata": {"name": "new"}}, [("create", PARENT, "", "")]),
    ("GET", f"{OBSERVABILITIES}/new", None, [("get", PARENT, "", "new")]),
    ("PUT", f"{OBSERVABILITIES}/new", {"metadata": {"name": "new"}}, [("update", PARENT, "", "new")]),
    ("DELETE", f"{OBSERVABILITIES}/new", None, [("delete", PARENT, "", "new")]),
    ("POST", WEBHOOK, notification(), [("post", WEBHOOK)]),
    ("GET", "/", None, [("get", "/")]),
    ("GET", "/metrics", None, [("get", "/metrics")]),
    ("GET", "/api/openapi.json", None, [("get", "/api/openapi.json")]),
    ("GET", "/debug/pprof/profile?seconds=1", None, [("get", "/debug/pprof/profile")]),
]


@pytest.mark.parametrize(("method", "path", "body", "needed"), CALLS)
def test_every_call_needs_its_rights_and_no_other(
    caller: FlaskClient, server: ReviewServer, method: str, path: str, body: object, needed: list[tuple[str, ...]]
) -> None:
    rights = [("ada", *right) for right in needed]
    server.rights.update(rights)
    answer = caller.open(path, method=method, json=body, headers=bearer(ADA))
    assert answer.status_code not in (401, 403, 503), answer.text
    assert len(server.accesses) == len(rights)
    about = server.accesses[0]
    assert (about["user"], about["uid"], about["groups"]) == ("ada", "uid-of-ada", ["staff"])
    assert about["extra"] == {"scope": ["a", "b"]}


@pytest.mark.parametrize(("method", "path", "body", "needed"), CALLS)
def test_a_call_without_one_of_its_rights_is_refused_by_name(
    caller: FlaskClient, server: ReviewServer, method: str, path: str, body: object, needed: list[tuple[str, ...]]
) -> None:
    for missing in needed:
        user = f"all-but-{missing[0]}"  # refusals are remembered for a while
        server.users[f"token-of-{user}"] = user
        server.rights = {(user, *right) for right in needed if right != missing}
        answer = caller.open(path, method=method, json=body, headers=bearer(f"token-of-{user}"))
        if method == "HEAD":
            assert answer.status_code == 403
        else:
            assert_problem(answer, 403, f"{user} may not {missing[0]}", missing[1])
    assert caller.open(path, method=method, json=body).status_code == 401
    assert caller.open(path, method=method, json=body, headers=bearer("wrong")).status_code == 401


def test_the_calls_above_are_all_there_are(cluster_app: Flask) -> None:
    adapter = cluster_app.url_map.bind("localhost")
    tried = {adapter.match(path.split("?")[0], method=method)[0] for method, path, _, _ in CALLS}
    open_to_all = {"ops.healthz", "ops.readyz", "admission.validate", "admission.convert"}
    assert {rule.endpoint for rule in cluster_app.url_map.iter_rules()} - open_to_all == tried


def test_a_refused_caller_starts_and_changes_nothing(
    caller: FlaskClient, server: ReviewServer, services: Services, observability: NodeObservability
) -> None:
    server.rights.add(START[1])
    assert_problem(caller.post(RUNS, json=run_body("a"), headers=bearer(ADA)), 403, "create", "'nodeobs'")
    server.rights = {START[0]}
    assert_problem(caller.post(RUNS, json=run_body("a"), headers=bearer("token-of-bob")), 401)
    server.failing = 500
    assert_problem(caller.post(RUNS, json=run_body("a"), headers=bearer("token-of-eve")), 503)
    assert not services.store.list(Run)
    assert caller.put(f"{OBSERVABILITIES}/cluster", json={}, headers=bearer("token-of-eve")).status_code == 503
    assert services.store.get(NodeObservability, "cluster") == observability


def test_a_run_says_who_created_it(caller: FlaskClient, server: ReviewServer, observability: NodeObservability) -> None:
    server.rights.update(START)
    answer = caller.post(RUNS, json=run_body("a"), headers=bearer(ADA))
    assert answer.status_code == 201
    annotations = answer.get_json()["metadata"]["annotations"]
    assert annotations == {"nodeobservability.olm.openshift.io/created-by": "ada"}


def test_a_document_that_is_wrong_is_said_to_be_so_before_anyone_is_asked(
    caller: FlaskClient, server: ReviewServer
) -> None:
    assert_problem(caller.post(RUNS, data="{", headers=bearer(ADA)), 400)
    assert server.accesses == []


@pytest.mark.parametrize("failing", [500, 403, b"garbage"])
def test_while_reviews_cannot_be_made_the_answer_is_to_try_again(
    caller: FlaskClient, server: ReviewServer, failing: int | bytes
) -> None:
    server.failing = failing
    with capture_logs() as logged:
        answer = caller.get(RUNS, headers=bearer(ADA))
    assert_problem(answer, 503, "callers cannot be checked")
    assert answer.headers["Retry-After"] == "5"
    assert ADA not in f"{logged} {answer.text}"
    for path in ("/healthz", "/readyz"):
        assert caller.get(path).status_code == 200


def test_credentials_come_as_bearer_token_or_as_password(caller: FlaskClient, server: ReviewServer) -> None:
    server.rights.add(("ada", "get", "/metrics"))
    for scheme, value in (("Bearer", ADA), ("Basic", base64.b64encode(f"prometheus:{ADA}".encode()).decode())):
        assert caller.get("/metrics", headers={"Authorization": f"{scheme} {value}"}).status_code == 200
    assert [review["token"] for review in server.tokens] == [ADA]
    answer = caller.get("/metrics", headers={"Authorization": "Basic !!!"})
    assert_problem(answer, 401, "Bearer TOKEN")
    assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_what_is_not_there_is_told_to_those_who_are_known(caller: FlaskClient, server: ReviewServer) -> None:
    assert_problem(caller.get("/nothing", headers=bearer(ADA)), 404)
    assert_problem(caller.get("/nothing"), 401)
    assert_problem(caller.patch(RUNS, headers=bearer(ADA)), 405)
    assert server.accesses == []


def test_a_view_added_without_a_thought_needs_the_right_to_its_path(cluster_app: Flask, server: ReviewServer) -> None:
    cluster_app.add_url_rule("/forgotten/<name>", "forgotten", lambda name: "", methods=["POST"])
    client = cluster_app.test_client()
    assert_problem(client.post("/forgotten/x", headers=bearer(ADA)), 403, "post the path /forgotten/<name>")
    server.rights.add(("bob", "post", "/forgotten/<name>"))
    server.users["token-of-bob"] = "bob"
    assert client.post("/forgotten/y", headers=bearer("token-of-bob")).status_code == 200


def test_any_host_is_answered_but_no_page_of_another_site(caller: FlaskClient, server: ReviewServer) -> None:
    server.rights.update({("ada", "get", "/metrics"), *START})
    host = {"Host": "nodeobs.nodeobs.svc"}
    assert caller.get("/metrics", headers={**bearer(ADA), **host}).status_code == 200
    answer = caller.post(RUNS, json=run_body(), headers={**bearer(ADA), **host, "Origin": "https://evil.example"})
    assert_problem(answer, 403, "another site")
