"""The API server's admission reviews: what is refused, how it is said, and what is never in the way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from dataclasses import replace as replace_services
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import RunInProgress
from nodeobs.kube.client import KubeClient, failure
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.reviewer import Reviewer
from nodeobs.model import (
    API_VERSION,
    Condition,
    NodeObservability,
    NodeObservabilityStatus,
    Phase,
    ProfileType,
    Run,
    RunTrigger,
    TriggerKind,
    encode_json,
    from_builtins,
    replace,
    to_builtins,
)
from nodeobs.runs.admission import Admission
from nodeobs.runs.oddities import odd_in_observability, odd_in_run
from nodeobs.runs.rules import CREATED_BY
from nodeobs.store.base import Reader
from nodeobs.store.kube import KubeStore
from nodeobs.store.reflected import ReflectedReader
from nodeobs.store.sqlite import SqliteStore
from nodeobs.web import create_app
from nodeobs.web.bodies import LARGE_BYTES
from nodeobs.web.services import Services
from tests.builders import START, make_observability, make_run
from tests.fakes.review_server import ReviewServer
from tests.web.conftest import now
from tests.web.support import TOKENS, assert_problem

VALIDATE = "/webhooks/validate"
OWN_USER = "system:serviceaccount:nodeobs:nodeobs"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
RUNS, OBSERVABILITIES = "nodeobservabilityruns", "nodeobservabilities"


def manifest(resource: Run | NodeObservability) -> dict[str, Any]:
    """The object as the API server holds it."""
    return {"apiVersion": API_VERSION, "kind": resource.KIND, **to_builtins(resource)}


def question(
    resource: Run | NodeObservability | dict[str, Any],
    /,
    *,
    old: Run | NodeObservability | dict[str, Any] | None = None,
    user: str = "alice",
    **request: Any,
) -> dict[str, Any]:
    """An AdmissionReview: a creation, or a change of ``old``."""
    objects = [found if isinstance(found, dict) or found is None else manifest(found) for found in (resource, old)]
    plural = OBSERVABILITIES if objects[0] and objects[0]["kind"] == "NodeObservability" else RUNS
    body = {
        "uid": UID,
        "resource": {"group": "nodeobservability.olm.openshift.io", "version": "v1beta1", "resource": plural},
        "operation": "CREATE" if old is None else "UPDATE",
        "userInfo": {"username": user, "uid": "1", "groups": ["staff"], "extra": {"scope": ["a"]}},
        "object": objects[0],
        "oldObject": objects[1],
        "dryRun": False,
        "options": {"kind": "CreateOptions"},
        **request,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": body}


@dataclass
class World:
    """An application with the webhook. ``memory`` is what it knows, ``store`` what is; alice may use ``cluster``."""

    services: Services
    memory: SqliteStore
    reviews: ReviewServer
    kube: KubeClient
    published: bool = True
    reader: Reader | None = None
    _client: FlaskClient | None = field(default=None, repr=False)

    @property
    def client(self) -> FlaskClient:
        if self._client is None:
            admission = Admission(
                reader=self.reader or self.memory,
                store=self.services.store,
                reviewer=Reviewer(self.kube, seconds=2.0),
                own_user=lambda: OWN_USER,
                published=lambda: self.published,
                metrics=self.services.metrics,
                now=lambda: START,
            )
            self._client = create_app(replace_services(self.services, admission=admission)).test_client()
        return self._client

    def restart(self) -> None:
        """Make the application anew."""
        self._client = None

    def know(self, *resources: Run | NodeObservability) -> None:
        """Store these, and let the memory have caught up."""
        for store in (self.memory, self.services.store):
            for resource in resources:
                store.create(resource)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response within the answer."""
        answer = self.client.post(VALIDATE, json=body)
        assert answer.status_code == 200, answer.text
        document = answer.get_json()
        assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        response: dict[str, Any] = document["response"]
        assert response["uid"] == UID
        return response

    def allows(self, body: dict[str, Any]) -> None:
        response = self.ask(body)
        assert response["allowed"], response

    def denies(self, body: dict[str, Any], code: int, reason: str, cause: str) -> dict[str, Any]:
        """The status of a denial."""
        before = self.count("false", cause)
        response = self.ask(body)
        assert not response["allowed"]
        status: dict[str, Any] = response["status"]
        assert (status["status"], status["code"], status["reason"]) == ("Failure", code, reason)
        assert status["details"]["causes"][0]["reason"] == cause
        assert self.count("false", cause) == before + 1
        return status

    def count(self, allowed: str, reason: str) -> float:
        labels = {"allowed": allowed, "reason": reason}
        value = self.services.metrics.registry.get_sample_value("nodeobs_admission_requests_total", labels)
        assert value is not None
        return value


@pytest.fixture
def world(services: Services, tmp_path: Path) -> Iterator[World]:
    with ReviewServer() as reviews:
        reviews.rights.add(("alice", "use", OBSERVABILITIES, "", "cluster"))
        kubeconfig = reviews.kubeconfig(tmp_path / "kubeconfig")
        with (
            closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as kube,
            closing(SqliteStore(tmp_path / "memory.db", now=now)) as memory,
        ):
            yield World(services, memory, reviews, kube)


@pytest.fixture
def cluster(world: World) -> NodeObservability:
    """The NodeObservability ``cluster``, with two targets, known to all."""
    observability = make_observability("cluster", "kubelet", "crio")
    world.know(observability)
    return observability


def test_a_run_is_let_pass(world: World, cluster: NodeObservability) -> None:
    world.allows(question(make_run(targets=("kubelet",))))
    assert world.count("true", "") == 1
    duration = {"webhook": "validate"}
    sample = world.services.metrics.registry.get_sample_value("nodeobs_webhook_duration_seconds_count", duration)
    assert sample == 1


@pytest.mark.usefixtures("cluster")
def test_a_second_run_is_a_conflict_that_names_the_holder(world: World) -> None:
    world.know(make_run("first", phase=Phase.RUNNING, age=12))
    status = world.denies(question(make_run("second")), 409, "Conflict", "ConcurrentRun")
    assert status["details"]["name"] == "second"
    assert status["details"]["kind"] == "NodeObservabilityRun"
    for word in ("nodeobs/first", "Running", " s;"):
        assert word in status["message"]
    error = failure(409, json.dumps(status).encode())
    assert isinstance(error, RunInProgress)
    assert error.holder == "nodeobs/first"
    assert str(error) == status["message"]


@pytest.mark.usefixtures("cluster")
def test_asking_reserves_nothing(world: World) -> None:
    for name in ("one", "two"):
        world.allows(question(make_run(name), dryRun=True))
        world.allows(question(make_run(name)))


def test_what_memory_does_not_know_yet_is_looked_up_before_a_run_is_refused(world: World) -> None:
    world.services.store.create(make_observability())
    for name in ("ended", "deleted"):
        world.memory.create(make_run(name))
    world.services.store.create(make_run("ended", phase=Phase.SUCCEEDED))
    world.allows(question(make_run("second")))
    world.know(make_run("going", phase=Phase.RUNNING))
    world.denies(question(make_run("second")), 409, "Conflict", "ConcurrentRun")


@pytest.mark.parametrize(
    ("run", "cause", "field", "words"),
    [
        (make_run(parent="cluster", targets=("etcd",)), "UnknownTarget", "spec.targets", "crio, kubelet"),
        (make_run(profiles=(ProfileType.CPU,) * 2), "Invalid", "spec.profiles", "twice"),
        (make_run(nodes=("a", "a")), "Invalid", "spec.nodes", "twice"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_a_run_that_cannot_mean_what_it_says(world: World, run: Run, cause: str, field: str, words: str) -> None:
    status = world.denies(question(run), 422, "Invalid", cause)
    assert status["details"]["causes"][0]["field"] == field
    assert words in status["message"]


def test_a_missing_nodeobservability_is_named(world: World) -> None:
    status = world.denies(question(make_run()), 422, "Invalid", "MissingNodeObservability")
    assert "'cluster'" in status["message"]
    assert status["details"]["causes"][0]["field"] == "spec.nodeObservabilityRef.name"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"durationSeconds": 0}, "spec.durationSeconds"),
        ({"durationSeconds": 3601}, "spec.durationSeconds"),
        ({"targets": ["kubelet", "../etc"]}, "spec.targets[1]"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_what_the_service_could_not_read_is_not_to_be_stored(world: World, change: dict[str, Any], field: str) -> None:
    body = manifest(make_run())
    body["spec"] |= change
    status = world.denies(question(body), 422, "Invalid", "Invalid")
    assert status["message"].startswith(f"{field}: ")


@pytest.mark.usefixtures("cluster")
def test_another_version_is_a_fault_of_the_configuration(world: World) -> None:
    body = manifest(make_run()) | {"apiVersion": "nodeobservability.olm.openshift.io/v1alpha2"}
    assert "v1beta1" in world.denies(question(body), 422, "Invalid", "Invalid")["message"]


@pytest.mark.usefixtures("cluster")
def test_a_name_that_the_api_server_makes_up(world: World) -> None:
    body = manifest(make_run())
    del body["metadata"]["name"]
    world.allows(question(body, name="run-abc12"))


@pytest.mark.usefixtures("cluster")
def test_creating_a_run_needs_the_right_to_use_its_nodeobservability(world: World) -> None:
    status = world.denies(question(make_run(), user="bob"), 403, "Forbidden", "Forbidden")
    assert "bob may not use nodeobservabilities" in status["message"]
    asked = world.reviews.accesses[-1]
    assert asked["groups"] == ["staff"]
    assert asked["extra"] == {"scope": ["a"]}
    world.allows(question(make_run(), user=OWN_USER))
    world.allows(question(make_run("x")))
    world.allows(question(make_run("y")))
    assert [spec["user"] for spec in world.reviews.accesses] == ["bob", "alice"]


@pytest.mark.usefixtures("cluster")
def test_only_the_service_says_who_or_what_created_a_run(world: World) -> None:
    run = make_run()
    by_alert = replace(run, spec=replace(run.spec, trigger=RunTrigger(kind=TriggerKind.ALERT)))
    by_ada = replace(run, metadata=replace(run.metadata, annotations={CREATED_BY: "ada"}))
    assert "spec.trigger" in world.denies(question(by_alert), 403, "Forbidden", "Forbidden")["message"]
    assert CREATED_BY in world.denies(question(by_ada), 403, "Forbidden", "Forbidden")["message"]
    world.denies(question(by_ada, old=run), 403, "Forbidden", "Forbidden")
    world.denies(question(run, old=by_ada), 403, "Forbidden", "Forbidden")
    world.allows(question(by_ada, old=by_ada))
    for created in (by_alert, by_ada):
        world.allows(question(created, user=OWN_USER))
    world.allows(question(by_ada, old=run, user=OWN_USER))


def test_a_spec_stays_as_it_is_but_for_its_end(world: World) -> None:
    run = make_run(targets=("kubelet",))

    def changed(**spec: Any) -> Run:
        return replace(run, spec=replace(run.spec, **spec))

    world.allows(question(changed(cancel=True), old=run))
    world.allows(question(changed(ttl_seconds_after_finished=60), old=run))
    for change, name in (({"targets": ()}, "targets"), ({"duration_seconds": 31}, "durationSeconds")):
        status = world.denies(question(changed(**change), old=run), 422, "Invalid", "Invalid")
        assert status["message"].startswith(f"spec.{name}: cannot be changed: ")
        assert "cancel" in status["message"]
    status = world.denies(question(run, old=changed(cancel=True)), 422, "Invalid", "Invalid")
    assert "taken back" in status["message"]


def test_a_change_that_leaves_the_spec_alone_is_never_in_the_way(world: World) -> None:
    odd = {"apiVersion": API_VERSION, "kind": "NodeObservabilityRun", "metadata": {"name": "A_B"}, "spec": {"x": []}}
    held = odd | {"metadata": {"name": "A_B", "finalizers": ["x/y"]}}
    world.allows(question(odd, old=held))
    url = {"apiVersion": API_VERSION, "kind": "NodeObservability", "metadata": {"name": "c"}, "spec": {"targets": 7}}
    world.allows(question(url, old=url))


@pytest.mark.parametrize(
    "request_part",
    [
        {"operation": "DELETE"},
        {"subResource": "status"},
        {"resource": {"group": "", "version": "v1", "resource": "pods"}},
        {"resource": {"group": "nodeobservability.olm.openshift.io", "version": "v1beta1", "resource": "others"}},
    ],
)
def test_what_is_none_of_our_business_passes(world: World, request_part: dict[str, Any]) -> None:
    world.allows(question(make_run(), user="bob", **request_part))


@pytest.mark.parametrize(
    ("targets", "field"),
    [
        ([{"name": "a"}, {"name": "a"}], "spec.targets[1].name"),
        ([{"name": "a", "url": "https://h/", "socket": "/s"}], "spec.targets[0]"),
        ([{"name": "a", "url": "file:///etc/passwd"}], "spec.targets[0].url"),
        ([{"name": "a", "url": "https://user:secret@h/"}], "spec.targets[0].url"),
        ([{"name": "a", "url": "https://h:99999/"}], "spec.targets[0].url"),
    ],
)
def test_a_nodeobservability_whose_targets_cannot_be_asked(world: World, targets: list[Any], field: str) -> None:
    good = make_observability()
    bad = manifest(good) | {"spec": {"targets": targets}}
    for body in (question(bad), question(bad, old=good)):
        status = world.denies(body, 422, "Invalid", "Invalid")
        assert status["details"]["causes"][0]["field"] == field
        assert "secret" not in status["message"]
    world.allows(question(manifest(good) | {"spec": {"targets": [{"name": "etcd", "url": "https://$(NODE_IP):2379"}]}}))


def test_what_is_odd_is_allowed_with_a_warning(world: World) -> None:
    condition = Condition(type="Ready", status="False")
    world.know(replace(make_observability(), status=NodeObservabilityStatus(conditions=(condition,))))
    warnings = world.ask(question(make_run(duration_seconds=600)))["warnings"]
    assert len(warnings) == 2
    assert "600" in warnings[0]
    assert "not Ready" in warnings[1]
    plain = manifest(make_observability()) | {"spec": {"targets": [{"name": "etcd", "url": "http://10.0.0.1:2379"}]}}
    assert "unencrypted" in world.ask(question(plain))["warnings"][0]


def test_what_nothing_acts_on_is_stored_with_a_warning_and_takes_no_run(world: World) -> None:
    observability = make_observability(type="scripting")
    (warning,) = world.ask(question(observability))["warnings"]
    assert "nothing acts on it" in warning
    world.know(observability)
    status = world.denies(question(make_run()), 422, "Invalid", "Invalid")
    assert status["details"]["causes"][0]["field"] == "spec.nodeObservabilityRef.name"


def test_via_the_api_server_only_the_kubelet_can_be_named(world: World) -> None:
    world.allows(question(make_observability("cluster", "kubelet", via="apiServer")))
    status = world.denies(
        question(make_observability("cluster", "kubelet", "crio", via="apiServer")), 422, "Invalid", "Invalid"
    )
    assert status["details"]["causes"][0]["field"] == "spec.targets[1]"
    words = "target crio is not profiled: only the kubelet is, via apiServer; leave it out, or profile by agents"
    assert words in status["message"]
    world.know(make_observability(via="apiServer"))
    world.allows(question(make_run(targets=("kubelet",))))
    status = world.denies(question(make_run(targets=("crio",))), 422, "Invalid", "UnknownTarget")
    assert "no target 'crio'; its targets are kubelet: only the kubelet is profiled, via apiServer" in status["message"]


@pytest.mark.usefixtures("cluster")
def test_a_run_leaves_room_for_its_status(world: World) -> None:
    at_most = 512 * 1024 - len(encode_json(manifest(make_run()))) - len('"a":""')
    for size, user in ((at_most + 1, "alice"), (at_most + 1, OWN_USER)):
        large = make_run()
        large = replace(large, metadata=replace(large.metadata, annotations={"a": "x" * size}))
        status = world.denies(question(large, user=user), 422, "Invalid", "Invalid")
        assert "512 KiB" in status["message"]


def test_what_is_usual_is_allowed_without_one(world: World) -> None:
    world.know(make_observability())
    assert "warnings" not in world.ask(question(make_run()))


@given(
    st.builds(
        make_run,
        duration_seconds=st.sampled_from([1, 3600]),
        cancel=st.booleans(),
        ttl_seconds_after_finished=st.sampled_from([None, 0]),
        profiles=st.just(tuple(ProfileType)),
    ),
    st.from_regex(r"\A[a-z0-9]{63}\Z"),
)
def test_warnings_are_short_enough_to_be_shown(run: Run, name: str) -> None:
    status = NodeObservabilityStatus(conditions=(Condition(type="Ready", status="False"),))
    spec = {"targets": [{"name": name, "url": "http://10.0.0.1/"}], "type": "scripting", "via": "apiServer"}
    observability = from_builtins({"metadata": {"name": "c"}, "spec": spec}, NodeObservability)
    observability = replace(observability, status=status)
    warnings = [*odd_in_run(run, observability=observability), *odd_in_observability(observability)]
    assert warnings
    assert max(map(len, warnings)) <= 120


def test_what_is_not_followed_yet_is_read_and_where_it_cannot_be_nothing_is_decided(world: World) -> None:
    world.know(make_observability(), make_run("first"))
    world.reader = ReflectedReader.of(world.kube, world.services.store, randomness=random.Random(1))
    world.denies(question(make_run("second")), 409, "Conflict", "ConcurrentRun")
    store = KubeStore(world.kube, namespace="nodeobs")  # answers 501 to whoever reads
    world.reader = ReflectedReader.of(world.kube, store, randomness=random.Random(1))
    world.restart()
    answer = world.client.post(VALIDATE, json=question(make_run()))
    assert_problem(answer, 503, "cannot answer")
    assert answer.headers["Retry-After"] == "1"
    assert world.count("false", "Unavailable") == 1
    world.allows(question(make_run("x", cancel=True), old=make_run("x")))


def test_until_the_certificate_is_published_it_decides_nothing_and_is_not_ready(
    world: World, cluster: NodeObservability
) -> None:
    world.published = False
    answer = world.client.post(VALIDATE, json=question(make_run()))
    assert_problem(answer, 503, "certificate")
    assert answer.headers["Retry-After"] == "1"
    assert_problem(world.client.get("/readyz"), 503, "certificate")
    world.published = True
    world.allows(question(make_run()))
    assert world.client.get("/readyz").status_code == 200


@pytest.mark.usefixtures("cluster")
def test_where_rights_cannot_be_found_out_nothing_is_let_pass(world: World) -> None:
    world.reviews.failing = 500
    assert_problem(world.client.post(VALIDATE, json=question(make_run())), 503, "cannot be checked")
    world.reviews.failing = None
    world.allows(question(make_run()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}',
        json.dumps(question(make_run(), uid="")).encode(),
        json.dumps(question(make_run(), object=[])).encode(),
        b'{"request":' + b"[" * 100_000,
    ],
)
def test_what_is_no_review_is_refused(world: World, body: bytes) -> None:
    assert_problem(world.client.post(VALIDATE, data=body), 400, "AdmissionReview")


def test_a_body_is_bounded(world: World) -> None:
    answer = world.client.post(VALIDATE, data=b" " * (7 * 2**20 + 1))
    assert "NODEOBS_MAX_BODY_BYTES" not in assert_problem(answer, 413, "7340032 bytes")["detail"]
    assert world.client.post(VALIDATE, data=b" " * (7 * 2**20)).status_code == 400


def test_many_large_reviews_at_once_are_put_off(world: World) -> None:
    body = question(make_run("x"), old=make_run("x"), padding="x" * LARGE_BYTES)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(world.services.large_reviews.held())
        assert_problem(world.client.post(VALIDATE, json=body), 503, "large reviews")
        world.allows(question(make_run("x"), old=make_run("x")))
    world.allows(body)


def test_the_api_server_needs_no_credentials(world: World, tmp_path: Path) -> None:
    from nodeobs.web.tokens import TokensFile

    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    world.services = replace_services(world.services, access=TokensFile(path))
    world.know(make_observability())
    world.allows(question(make_run()))
    assert world.client.get("/metrics").status_code == 401


def test_there_is_no_webhook_without_a_cluster(client: FlaskClient) -> None:
    assert client.post(VALIDATE, json=question(make_run())).status_code == 404
    assert client.post("/webhooks/convert", json={}).status_code == 404
