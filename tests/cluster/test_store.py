"""The store while the API server goes away, comes back and forgets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from nodeobs.errors import StoreUnavailable, WatchExpired
from nodeobs.model import NodeObservability, Phase, Run, replace
from nodeobs.store.base import Change
from nodeobs.store.kube import KubeStore
from tests.builders import make_observability, make_run
from tests.custom_resources import clear, install
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture
def store(api_server: ApiServer, namespace: str) -> Iterator[KubeStore]:
    with closing(api_server.client()) as client:
        install(client)
        clear(client)
        yield KubeStore(client, namespace=namespace)
        clear(client)


def changes(store: KubeStore, since: str) -> list[Change[Run]]:
    """What there is, as soon as an API server that was just started says it."""

    def ask() -> list[list[Change[Run]]]:
        with suppress(StoreUnavailable):
            return [list(store.watch(Run, since, stop=threading.Event(), seconds=0))]
        return []

    return wait_for("changes are told", ask)[0]


def test_a_watch_from_before_a_compaction_asks_for_a_new_list(
    store: KubeStore, namespace: str, api_server: ApiServer
) -> None:
    since = store.snapshot(Run).revision
    run = store.create(make_run(namespace=namespace))
    store.update(replace(run, status=replace(run.status, phase=Phase.RUNNING)))
    api_server.etcd_compact()
    with pytest.raises(WatchExpired):
        changes(store, since)
    snapshot = store.snapshot(Run)
    assert [run.status.phase for run in snapshot.items] == [Phase.RUNNING]
    store.delete(Run, run.metadata.name, namespace)
    assert [change.type for change in changes(store, snapshot.revision)] == ["DELETED"]


def test_an_api_server_that_restarts_is_unavailable_and_then_as_before(
    store: KubeStore, namespace: str, api_server: ApiServer
) -> None:
    run = store.create(make_run(namespace=namespace))
    since = store.snapshot(Run).revision
    watched: list[Exception] = []

    def follow() -> None:
        try:
            for _ in store.watch(Run, since, stop=threading.Event(), seconds=120):
                pass
        except (StoreUnavailable, WatchExpired) as error:
            watched.append(error)

    watcher = threading.Thread(target=follow)
    watcher.start()
    api_server.stop_api(kill=True)
    try:
        watcher.join(30)
        assert [type(error) for error in watched] == [StoreUnavailable]
        with pytest.raises(StoreUnavailable):
            store.get(Run, "run-1", namespace)
        with pytest.raises(StoreUnavailable):
            store.update(replace(run, status=replace(run.status, phase=Phase.RUNNING)))
    finally:
        api_server.start_api()
    snapshot = store.snapshot(Run)
    assert snapshot.items == (run,)
    stored = store.update(replace(run, status=replace(run.status, phase=Phase.RUNNING)))
    assert [change.object for change in changes(store, snapshot.revision)] == [stored]


def test_kubectl_and_the_store_see_the_same(store: KubeStore, namespace: str, api_server: ApiServer) -> None:
    store.create(make_observability("cluster", "kubelet"))
    document = f"""
apiVersion: nodeobservability.olm.openshift.io/v1beta1
kind: NodeObservabilityRun
metadata: {{name: by-hand, namespace: {namespace}}}
spec: {{nodeObservabilityRef: {{name: cluster}}}}
"""
    api_server.kubectl("create", "-f", "-", input=document)
    run = store.get(Run, "by-hand", namespace)
    assert run.spec == make_run().spec
    assert store.list(Run, unfinished=True) == (run,)
    store.update(replace(run, status=replace(run.status, phase=Phase.SUCCEEDED)))
    assert store.list(Run, unfinished=True) == ()
    assert "Succeeded" in api_server.kubectl("get", "nobr", "by-hand", "-n", namespace)
    assert [found.metadata.name for found in store.list(NodeObservability)] == ["cluster"]
