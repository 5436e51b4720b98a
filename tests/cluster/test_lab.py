"""The lab itself: what other tests rely on."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nodeobs.errors import StoreUnavailable, WatchExpired
from nodeobs.kube.client import Status, failure_of
from tests.lab import place
from tests.lab.alone import api_server_alone
from tests.lab.apiserver import ApiServer
from tests.lab.errors import LabError
from tests.processes import Program

pytestmark = pytest.mark.cluster


def test_a_service_account_has_no_more_rights_than_it_is_given_and_its_requests_are_on_record(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    api_server.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    user = f"system:serviceaccount:{namespace}:reader"
    api_server.kubectl("create", "role", "r", "-n", namespace, "--verb=list", "--resource=configmaps")
    api_server.kubectl("create", "rolebinding", "r", "-n", namespace, "--role=r", f"--user={user}")
    api_server.wait_allowed(user, "list", "configmaps", namespace)
    with closing(api_server.client(api_server.kubeconfig_for(namespace, "reader", tmp_path))) as client:
        client.get(f"/api/v1/namespaces/{namespace}/configmaps")
        with pytest.raises(StoreUnavailable, match="cannot list resource"):
            client.get("/api/v1/nodes")
    assert [(request.uri, request.code) for request in api_server.requests(user)] == [
        (f"/api/v1/namespaces/{namespace}/configmaps", 200),
        ("/api/v1/nodes", 403),
    ]


def test_a_token_is_for_its_audience_and_an_expired_one_for_none(api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl("create", "serviceaccount", "caller", "-n", namespace)

    def reviewed(token: str) -> bool:
        body = {"spec": {"token": token, "audiences": ["some-audience"]}}
        with closing(api_server.client()) as client:
            answer = json.loads(client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body))
        return bool(answer["status"].get("authenticated"))

    assert reviewed(api_server.token(namespace, "caller", "some-audience"))
    assert not reviewed(api_server.token(namespace, "caller"))
    assert not reviewed(api_server.expired_token(namespace, "caller", "some-audience"))


def test_after_a_compaction_an_old_revision_is_gone(api_server: ApiServer, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    with closing(api_server.client()) as client:
        revision = json.loads(client.get(path))["metadata"]["resourceVersion"]
        api_server.etcd_compact()
        with client.stream(path, {"watch": "1", "resourceVersion": revision}, silence=10) as stream:
            event = json.loads(next(stream.lines()))
    assert event["type"] == "ERROR"
    assert isinstance(failure_of(Status(message=event["object"]["message"]), event["object"]["code"]), WatchExpired)


def test_a_namespace_is_removed_with_what_holds_on_to_life(api_server: ApiServer) -> None:
    api_server.add_namespace("doomed")
    held = {"metadata": {"name": "held", "finalizers": ["example.com/never"]}, "apiVersion": "v1", "kind": "ConfigMap"}
    api_server.kubectl("apply", "-n", "doomed", "-f", "-", input=json.dumps(held))
    api_server.remove_namespace("doomed")
    assert "doomed" not in api_server.kubectl("get", "configmaps,namespaces", "-A")


def test_the_api_server_comes_back_with_what_it_had(api_server: ApiServer, namespace: str) -> None:
    api_server.stop_api()
    with pytest.raises(LabError, match="refused"):
        api_server.kubectl("get", "namespaces")
    api_server.start_api()
    assert namespace in api_server.kubectl("get", "namespaces")


def test_two_api_servers_side_by_side_do_not_meet(api_server: ApiServer, namespace: str) -> None:
    with api_server_alone() as other:
        folder = other.folder
        assert folder != api_server.folder
        assert namespace not in other.kubectl("get", "namespaces")
    assert not folder.exists()
    assert namespace in api_server.kubectl("get", "namespaces")


def test_what_a_killed_run_left_is_removed_by_the_next(api_server: ApiServer, tmp_path: Path) -> None:
    folder, processes = killed_while_in("tests.lab.alone", "api_server_alone()", tmp_path)
    with api_server_alone() as next_one:
        assert not processes & set(place.started_in(folder))
        assert next_one.kubectl("get", "namespaces")
    assert not folder.exists()


def killed_while_in(module: str, context: str, tmp_path: Path) -> tuple[Path, set[int]]:
    """Folder of a lab whose owner was killed, and what it had started."""
    lines = [f"import {module} as lab, time", f"with lab.{context} as made:", " print(made.folder)", " time.sleep(999)"]
    code = "\n".join(lines)
    with Program("owner", [sys.executable, "-u", "-c", code], log=tmp_path / "owner.log") as owner:
        folder = Path(owner.wait_until("the lab is there", lambda: owner.said().strip(), seconds=150))
        processes = set(place.started_in(folder))
        os.kill(owner.pid, signal.SIGKILL)
    assert processes
    return folder, processes
