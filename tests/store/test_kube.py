"""The store at the API server: what it writes, what it leaves alone, and what it makes of refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodeobs.errors import AlreadyExists, Conflict, InvalidInput, NotFound, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import CONFIG_MAPS, RUNS
from nodeobs.model import (
    AgentRef,
    AnsweredRecord,
    Metadata,
    NodeObservability,
    OwnerReference,
    Phase,
    Run,
    TriggerRecord,
    replace,
)
from nodeobs.store.base import ChangeType
from nodeobs.store.kube import KubeStore
from tests.builders import make_observability, make_run
from tests.custom_resources import release
from tests.lab.apiserver import ApiServer

pytestmark = pytest.mark.cluster

NS = "nodeobs"
FINALIZER = "nodeobs.example/driven"


@pytest.fixture
def store(admin: KubeClient, custom_resources: None) -> KubeStore:
    return KubeStore(admin, namespace=NS)


def raw(admin: KubeClient, name: str = "run-1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(admin.get(RUNS.item(name, NS)))
    return found


def patch(admin: KubeClient, document: dict[str, Any], name: str = "run-1") -> None:
    admin.request("PATCH", RUNS.item(name, NS), document, content_type="application/merge-patch+json")


def in_phase(run: Run, phase: Phase, *finalizers: str) -> Run:
    return replace(
        run,
        metadata=replace(run.metadata, finalizers=finalizers),
        status=replace(run.status, phase=phase, agents=(AgentRef(name="worker-a", ip="10.0.0.1", port=8443),)),
    )


class TestUpdate:
    def test_of_a_status_is_one_read_and_one_write(self, store: KubeStore, api_server: ApiServer) -> None:
        run = store.create(make_run())
        before = len(api_server.requests("admin"))
        store.update(in_phase(run, Phase.RUNNING))
        asked = [(request.verb, request.uri) for request in api_server.requests("admin")[before:]]
        assert asked == [("get", RUNS.item("run-1", NS)), ("update", RUNS.item("run-1", NS, subresource="status"))]

    def test_leaves_what_the_model_does_not_know(self, store: KubeStore, admin: KubeClient) -> None:
        owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u-1", "blockOwnerDeletion": True}
        store.create(make_run())
        patch(admin, {"metadata": {"ownerReferences": [owner], "labels": {"theirs": "1"}}})
        run = store.get(Run, "run-1", NS)
        ours = OwnerReference(api_version="v1", kind="ConfigMap", name="c", uid="u-2")
        metadata = replace(
            run.metadata, owner_references=(*run.metadata.owner_references, ours), annotations={"ours": "2"}
        )
        stored = store.update(replace(run, metadata=metadata))
        assert stored.metadata.owner_references[1] == ours
        found = raw(admin)["metadata"]
        assert found["ownerReferences"][0] == owner
        assert (found["labels"], found["annotations"]) == ({"theirs": "1"}, {"ours": "2"})
        stored = store.update(replace(stored, metadata=replace(stored.metadata, owner_references=(ours,), labels={})))
        assert stored.metadata.owner_references == (ours,)
        assert stored.metadata.labels == {}

    def test_sends_no_nulls(self, store: KubeStore, admin: KubeClient) -> None:
        run = store.update(in_phase(store.create(make_run()), Phase.RUNNING))
        status = raw(admin)["status"]
        assert status["phase"] == "Running"
        assert None not in status.values()
        assert "summary" not in status
        assert store.get(Run, "run-1", NS) == run

    def test_a_finalizer_is_there_before_the_status_and_leaves_after_it(self, store: KubeStore) -> None:
        since = store.snapshot(Run).revision
        run = store.create(make_run())
        run = store.update(in_phase(run, Phase.RUNNING, FINALIZER))
        run = store.update(in_phase(run, Phase.SUCCEEDED))
        seen = [change.object for change in store.watch(Run, since, stop=threading.Event(), seconds=0)]
        assert [(seen.status.phase, seen.metadata.finalizers) for seen in seen] == [
            (Phase.PENDING, ()),
            (Phase.PENDING, (FINALIZER,)),
            (Phase.RUNNING, (FINALIZER,)),
            (Phase.SUCCEEDED, (FINALIZER,)),
            (Phase.SUCCEEDED, ()),
        ]
        assert seen[-1] == run

    def test_the_last_write_of_a_deleted_object_tells_its_status_first(self, store: KubeStore) -> None:
        run = store.update(in_phase(store.create(make_run()), Phase.RUNNING, FINALIZER))
        since = store.snapshot(Run).revision
        store.delete(Run, "run-1", NS)
        run = store.update(in_phase(store.get(Run, "run-1", NS), Phase.CANCELLED))
        assert (run.status.phase, run.metadata.finalizers) == (Phase.CANCELLED, ())
        seen = list(store.watch(Run, since, stop=threading.Event(), seconds=0))
        assert [(change.type, change.object.status.phase) for change in seen] == [
            (ChangeType.MODIFIED, Phase.RUNNING),
            (ChangeType.MODIFIED, Phase.CANCELLED),
            (ChangeType.DELETED, Phase.CANCELLED),
        ]

    def test_a_spec_keeps_what_may_not_be_changed(self, store: KubeStore) -> None:
        run = store.create(make_run(duration_seconds=5))
        cancelled = store.update(replace(run, spec=replace(run.spec, cancel=True)))
        assert cancelled.spec.cancel
        with pytest.raises(InvalidInput, match="cannot be changed"):
            store.update(replace(cancelled, spec=replace(cancelled.spec, duration_seconds=6)))
        assert store.get(Run, "run-1", NS) == cancelled

    def test_a_nodeobservability_takes_all_of_its_spec(self, store: KubeStore) -> None:
        before = store.create(make_observability("cluster", "kubelet", node_selector={"a": "b"}))
        wanted = make_observability("cluster", "kubelet", "crio", via="apiServer").spec
        after = store.update(replace(before, spec=wanted))
        assert after.spec == wanted
        assert after.metadata.generation == before.metadata.generation + 1


class Meddling(KubeClient):
    """Another writer is quick: after each write of a status something else happens to the Run."""

    def __init__(self, client: KubeClient, meddle: Any) -> None:
        super().__init__(client.credentials)
        self.meddle = meddle

    def request(self, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        answer = super().request(method, path, *args, **kwargs)
        if path.endswith("/status"):
            self.meddle()
        return answer


class TestSomebodyElseWrites:
    @pytest.fixture
    def going(self, store: KubeStore) -> Run:
        return store.update(in_phase(store.create(make_run()), Phase.RUNNING, FINALIZER))

    def test_before_the_status_it_is_a_conflict(self, store: KubeStore, admin: KubeClient, going: Run) -> None:
        patch(admin, {"metadata": {"labels": {"theirs": "1"}}})
        with pytest.raises(Conflict):
            store.update(in_phase(going, Phase.SUCCEEDED))
        assert store.get(Run, "run-1", NS).status.phase is Phase.RUNNING

    def test_after_the_status_the_finalizer_leaves_all_the_same(self, admin: KubeClient, going: Run) -> None:
        meddle = [lambda: patch(admin, {"metadata": {"labels": {"theirs": "1"}}})]
        with closing(Meddling(admin, lambda: meddle.pop()())) as client:
            stored = KubeStore(client, namespace=NS).update(in_phase(going, Phase.SUCCEEDED))
        assert (stored.status.phase, stored.metadata.finalizers) == (Phase.SUCCEEDED, ())
        assert stored.metadata.labels == {"theirs": "1"}

    def test_an_object_that_is_gone_after_its_status_is_written_is_fine(self, admin: KubeClient, going: Run) -> None:
        def delete() -> None:
            admin.request("DELETE", RUNS.item("run-1", NS))
            release(admin, RUNS, "run-1", NS)
            assert KubeStore(admin, namespace=NS).create(make_run()).metadata.uid != going.metadata.uid

        with closing(Meddling(admin, delete)) as client:
            stored = KubeStore(client, namespace=NS).update(in_phase(going, Phase.SUCCEEDED))
        assert stored.metadata.uid == going.metadata.uid
        assert stored.status.phase is Phase.SUCCEEDED
        assert raw(admin)["status"]["phase"] == "Pending"


class TestRefusals:
    def test_a_name_that_leads_elsewhere_is_no_name(self, store: KubeStore) -> None:
        store.create(make_run())
        for name in ("run-1/status", "../../namespaces/nodeobs", "..", "run-1?x=y", "run-1%2fstatus", "", "rün"):
            with pytest.raises(NotFound):
                store.get(Run, name, NS)
            with pytest.raises(NotFound):
                store.delete(Run, name, NS)
        with pytest.raises(NotFound):
            store.get(Run, "run-1", "nodeobs/nodeobservabilityruns")

    def test_a_namespace_that_is_not_there(self, store: KubeStore) -> None:
        with pytest.raises(InvalidInput, match="no namespace nowhere") as caught:
            store.create(make_run(namespace="nowhere"))
        assert caught.value.pointer == "/metadata/namespace"

    def test_the_api_servers_own_rules(self, store: KubeStore) -> None:
        run = make_run()
        with pytest.raises(InvalidInput, match="annotations"):
            store.create(replace(run, metadata=replace(run.metadata, annotations={"not a key": "x"})))

    def test_an_api_server_that_is_gone(self, api_server: ApiServer, tmp_path: Path, closed_port: int) -> None:
        kubeconfig = tmp_path / "kubeconfig"
        document = api_server.admin_kubeconfig.read_text()
        kubeconfig.write_text(document.replace(api_server.url, f"https://127.0.0.1:{closed_port}"))
        with closing(api_server.client(kubeconfig)) as client:
            store = KubeStore(client, namespace=NS)
            attempts: list[Callable[[], object]] = [
                lambda: store.get(Run, "run-1", NS),
                lambda: store.list(Run, unfinished=True),
                lambda: store.snapshot(NodeObservability),
                lambda: store.create(make_run()),
                lambda: store.create(make_run(), admit=lambda reader: None),
                lambda: store.update(make_run()),
                lambda: store.delete(Run, "run-1", NS),
                lambda: list(store.watch(Run, "1", stop=threading.Event(), seconds=0)),
            ]
            for attempt in attempts:
                with pytest.raises(StoreUnavailable, match="cannot be reached"):
                    attempt()


def answer(number: int, text: str = "x") -> AnsweredRecord:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return AnsweredRecord(fingerprint=f"{number}", starts_at=at, run=f"nodeobs/{text}", answered_at=at)


class TestTriggerRecords:
    @pytest.fixture(autouse=True)
    def emptied(self, admin: KubeClient, store: KubeStore) -> Iterator[None]:
        yield
        admin.request("DELETE", CONFIG_MAPS.collection(NS))

    def test_are_kept_as_config_maps(self, store: KubeStore, admin: KubeClient) -> None:
        first = store.create(TriggerRecord(metadata=Metadata(name="kubelet-slow"), answered=(answer(1),)))
        assert first.metadata.name == "kubelet-slow"
        assert first.metadata.namespace == ""
        assert admin.get(CONFIG_MAPS.item("nodeobs-trigger-kubelet-slow", NS))
        second = store.update(replace(first, answered=(*first.answered, answer(2))))
        assert store.get(TriggerRecord, "kubelet-slow") == second
        assert second.answered == (answer(1), answer(2))
        with pytest.raises(Conflict):
            store.update(first)
        with pytest.raises(AlreadyExists):
            store.create(first)
        assert store.update(second) == second
        store.create(TriggerRecord(metadata=Metadata(name="other")))
        admin.request("POST", CONFIG_MAPS.collection(NS), {"metadata": {"name": "not-ours"}})
        assert {record.metadata.name for record in store.list(TriggerRecord)} == {"kubelet-slow", "other"}
        store.delete(TriggerRecord, "kubelet-slow")
        with pytest.raises(NotFound, match="TriggerRecord kubelet-slow"):
            store.get(TriggerRecord, "kubelet-slow")

    def test_no_name_is_too_long(self, store: KubeStore) -> None:
        names = ["a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * last for last in (45, 46, 60, 61)]
        for name in names:
            store.create(TriggerRecord(metadata=Metadata(name=name), answered=(answer(len(name)),)))
        for name in names:
            assert store.get(TriggerRecord, name).answered == (answer(len(name)),)

    def test_forget_the_oldest_rather_than_be_refused(self, store: KubeStore) -> None:
        answers = tuple(answer(number, "x" * 2000) for number in range(1000))
        record = store.create(TriggerRecord(metadata=Metadata(name="t"), answered=answers))
        assert 300 < len(record.answered) < 1000
        assert record.answered == answers[-len(record.answered) :]
        record = store.update(replace(record, answered=(*record.answered, answer(1001, "y"))))
        assert record.answered[-1] == answer(1001, "y")

    @pytest.mark.parametrize("data", [None, {"record.json": "{"}, {"record.json": '{"trigger": "t", "answered": [1]}'}])
    def test_that_cannot_be_read_are_left_out_and_can_be_deleted(
        self, store: KubeStore, admin: KubeClient, data: dict[str, str] | None
    ) -> None:
        good = store.create(TriggerRecord(metadata=Metadata(name="good")))
        broken = store.create(TriggerRecord(metadata=Metadata(name="t")))
        since = store.snapshot(TriggerRecord).revision
        path = CONFIG_MAPS.item("nodeobs-trigger-t", NS)
        admin.request("PATCH", path, {"data": data}, content_type="application/merge-patch+json")
        with structlog.testing.capture_logs() as logs:
            assert store.list(TriggerRecord) == (good,)
            good = store.update(replace(good, answered=(answer(1),)))
            seen = store.watch(TriggerRecord, since, stop=threading.Event(), seconds=0)
            assert [change.object for change in seen] == [good]
        assert "nodeobs-trigger-t" in str(logs)
        with pytest.raises(StoreUnavailable, match="TriggerRecord t cannot be read"):
            store.get(TriggerRecord, "t")
        with pytest.raises(Conflict):
            store.update(broken)
        store.delete(TriggerRecord, "t")
