"""Events on Runs, as the API server keeps them and kubectl shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodeobs.errors import StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.events import MAX_MESSAGE_BYTES, EventRecorder
from nodeobs.kube.paths import EVENTS
from nodeobs.model import Run
from nodeobs.store.kube import KubeStore
from tests.builders import make_run
from tests.custom_resources import install
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client:
        yield client


@pytest.fixture
def run(admin: KubeClient, namespace: str) -> Run:
    install(admin)
    return KubeStore(admin, namespace=namespace).create(make_run(namespace=namespace))


@pytest.fixture
def recorder(admin: KubeClient) -> Iterator[EventRecorder]:
    recorder = EventRecorder(admin, now=utc_now, instance="nodeobs-0")
    recorder.start()
    yield recorder
    recorder.close()


def events(admin: KubeClient, run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(admin.get(EVENTS.collection(run.metadata.namespace)))["items"]
    return sorted(found, key=lambda event: event["reason"])


def test_kubectl_describe_shows_them(
    recorder: EventRecorder, admin: KubeClient, run: Run, api_server: ApiServer
) -> None:
    recorder.record(run, type="Normal", reason="Started", message="profiling 3 agents for 30 s")
    recorder.record(run, type="Warning", reason="AgentFailed", message="worker-c: Unreachable")
    wait_for("both are written", lambda: len(events(admin, run)) == 2)
    shown = api_server.kubectl("describe", "nobr", run.metadata.name, "-n", run.metadata.namespace)
    # Within a second it shows them in no particular order.
    warning, normal = sorted((line.split() for line in shown[shown.index("Events:") :].splitlines()[3:]), reverse=True)
    assert " ".join(warning) == f"Warning AgentFailed {warning[2]} nodeobs worker-c: Unreachable"
    assert " ".join(normal) == f"Normal Started {normal[2]} nodeobs profiling 3 agents for 30 s"


def test_the_same_again_by_any_replica_counts(recorder: EventRecorder, admin: KubeClient, run: Run) -> None:
    recorder.record(run, type="Normal", reason="Started", message="a")
    recorder.record(run, type="Normal", reason="Started", message="b")
    recorder.record(run, type="Normal", reason="Started", message="a")
    wait_for("three are written", lambda: sum(event["count"] for event in events(admin, run)) == 3)
    other = EventRecorder(admin, now=lambda: utc_now() + timedelta(hours=1), instance="nodeobs-1")
    other.record(run, type="Normal", reason="Started", message="a")  # kept until it is started
    other.start()
    other.close(30)
    found = {event["message"]: event for event in events(admin, run)}
    assert {message: event["count"] for message, event in found.items()} == {"a": 3, "b": 1}
    assert found["a"]["firstTimestamp"] < found["a"]["lastTimestamp"]


def test_whatever_the_name_and_message(recorder: EventRecorder, admin: KubeClient, namespace: str) -> None:
    install(admin)
    # Cut where two characters follow that no name may end with.
    name = f"{'a' * 228}--{'b' * 20}"
    run = KubeStore(admin, namespace=namespace).create(make_run(name, namespace=namespace))
    recorder.record(run, type="Normal", reason="Long", message="é" * 5000)
    recorder.record(run, type="Normal", reason="Odd", message="half a surrogate pair \ud800, \0, \n")
    wait_for("both are written", lambda: len(events(admin, run)) == 2)
    long, odd = events(admin, run)
    assert MAX_MESSAGE_BYTES - 2 <= len(long["message"].encode()) <= MAX_MESSAGE_BYTES
    assert long["message"].endswith("é…")
    assert odd["message"] == "half a surrogate pair ?, \0, \n"


class Flaky(KubeClient):
    """Cannot reach the API server for so many requests, or writes nothing in one namespace."""

    def __init__(self, client: KubeClient, *, failures: int = 0, closed: str = "") -> None:
        super().__init__(client.credentials)
        self.failures = failures
        self.closed = closed
        self.asked: list[float] = []

    def request(self, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        self.asked.append(time.monotonic())
        if len(self.asked) <= self.failures or (self.closed and f"/{self.closed}/" in path):
            raise StoreUnavailable("not now")
        return super().request(method, path, *args, **kwargs)


def test_they_wait_for_the_api_server(admin: KubeClient, run: Run) -> None:
    with closing(Flaky(admin, failures=3)) as client, closing(recorder := _started(client)):
        recorder.record(run, type="Normal", reason="Started", message="a")
        recorder.record(run, type="Normal", reason="Finished", message="b")
        wait_for("both are written", lambda: len(events(admin, run)) == 2)
        # Not without a pause: a quarter of a second at first, and twice as much each time.
        assert client.asked[3] - client.asked[0] > 0.25 + 0.5 + 1.0 - 0.01


def test_one_that_cannot_be_written_holds_up_no_other(admin: KubeClient, run: Run) -> None:
    with closing(Flaky(admin, closed="elsewhere")) as client, closing(recorder := _started(client)):
        recorder.record(make_run(namespace="elsewhere"), type="Normal", reason="Started", message="a")
        recorder.record(run, type="Normal", reason="Started", message="b")
        wait_for("the other is written", lambda: len(events(admin, run)) == 1, seconds=10)


def test_nothing_is_waited_for_when_the_api_server_is_gone(api_server: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(api_server.admin_kubeconfig.read_text().replace(api_server.url, "https://127.0.0.1:1"))
    with closing(api_server.client(kubeconfig)) as client:
        recorder = _started(client)
        begun = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            for number in range(1000):
                recorder.record(make_run(), type="Normal", reason=f"R{number}", message="m")
            recorder.close(5)
        assert time.monotonic() - begun < 4
    lost = [entry for entry in logs if entry["event"] == "an Event is not written"]
    assert {entry["reason"] for entry in lost} == {f"R{number}" for number in range(1000)}
    assert len(lost) == 1000


def test_what_the_api_server_refuses_is_told_and_forgotten(admin: KubeClient, run: Run) -> None:
    recorder = _started(admin)
    with structlog.testing.capture_logs() as logs:
        recorder.record(make_run(namespace="no-such-namespace"), type="Normal", reason="Started", message="m")
        recorder.record(make_run(namespace="../.."), type="Normal", reason="Started", message="m")
        recorder.record(run, type="Normal", reason="Started", message="m")
        recorder.close(30)
    assert len([entry for entry in logs if entry["event"] == "an Event is not written"]) == 2
    assert len(events(admin, run)) == 1


def _started(client: KubeClient) -> EventRecorder:
    recorder = EventRecorder(client, now=utc_now, instance="nodeobs-0")
    recorder.start()
    return recorder
