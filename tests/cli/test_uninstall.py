"""``nodeobs uninstall`` as a person meets it: what it asks, tells and ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.kube.crds import CRD_NAMES, Webhook, crds
from nodeobs.model import API_VERSION, GROUP
from tests.fakes.api_server import Answer, FakeApiServer, Request, status

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MACHINE_CONFIGS = f"/apis/{API_VERSION}/nodeobservabilitymachineconfigs"

Invoke = Callable[..., Result]


class World:
    """An API server that has what is in ``answers``, several for one request in turn; nothing else is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.asked: list[Request] = []
        self.api = FakeApiServer(self._answer)

    @property
    def written(self) -> list[tuple[str, str]]:
        return [(request.method, request.path) for request in self.asked if request.method != "GET"]

    def has(self, path: str, document: dict[str, Any]) -> None:
        self.answers["GET", path] = [Answer(body=document)]

    def _answer(self, request: Request) -> Answer:
        self.asked.append(request)
        answers = self.answers.get((request.method, request.path))
        if answers:
            return answers[0] if len(answers) == 1 else answers.pop(0)
        if request.method == "GET" and request.path.rpartition("/")[2].endswith("s") and "limit" in request.query:
            return Answer(body={"metadata": {"resourceVersion": "1"}, "items": []})
        return Answer(404, status(404, "NotFound", f"{request.path} not found"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.api:
        yield made


@pytest.fixture
def nodeobs(world: World) -> Invoke:
    kubeconfig = world.api.kubeconfig(world.folder / "kubeconfig")

    def invoke(*arguments: str, **env: str) -> Result:
        known = {"KUBECONFIG": str(kubeconfig), "HOME": str(world.folder)}
        return CliRunner().invoke(main, ["uninstall", *arguments], env=known | env, catch_exceptions=False)

    return invoke


def definition(name: str, **metadata: Any) -> dict[str, Any]:
    found = next(one for one in crds(webhook=Webhook(url="https://x")) if one["metadata"]["name"] == name)
    more = {"resourceVersion": "1", **metadata}
    return found | {"metadata": found["metadata"] | more, "status": {"storedVersions": ["v1beta1"]}}


def test_where_nobody_can_be_asked_nothing_is_done(world: World, nodeobs: Invoke) -> None:
    result = nodeobs()
    assert result.exit_code == 2
    assert "standard input is no terminal" in result.stderr
    assert "--yes" in result.stderr
    assert world.asked == []


@pytest.mark.parametrize(("said", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_on_a_terminal_it_asks(world: World, said: str, code: int) -> None:
    kubeconfig = world.api.kubeconfig(world.folder / "kubeconfig")
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{said}\n".encode())
        argv = [sys.executable, "-m", "nodeobs.cli", "uninstall", "--kubeconfig", str(kubeconfig)]
        done = subprocess.run(argv, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "Stop nodeobs in namespace nodeobs of http://" in done.stderr
    assert bool(world.asked) == (code == 0)


def test_where_nothing_is_there_nothing_is_to_be_done(world: World, nodeobs: Invoke) -> None:
    result = nodeobs("--dry-run")
    assert (result.exit_code, result.stdout) == (0, "There is nothing left to do.\n")
    assert "there is no Deployment nodeobs/nodeobs" in result.stderr
    assert nodeobs("--yes", "--quiet").stderr == ""
    assert world.written == []
    agents = {request.path for request in world.asked if request.path.endswith("/daemonsets")}
    assert agents == {"/apis/apps/v1/namespaces/nodeobs-agents/daemonsets"}


def test_names_of_namespaces(world: World, nodeobs: Invoke) -> None:
    result = nodeobs("--yes", "-o", "json", "--namespace", "profiling", "--agent-namespace", "agents")
    answer = json.loads(result.stdout)
    assert answer == {"namespace": "profiling", "agentNamespace": "agents", "dryRun": False, "changes": []}
    assert result.stderr == ""
    paths = {request.path for request in world.asked}
    assert "/apis/apps/v1/namespaces/profiling/deployments/nodeobs" in paths
    assert "/api/v1/namespaces/agents/secrets" in paths
    assert nodeobs("--namespace", "a/b").exit_code == 2


def test_another_namespace_than_the_services_is_refused(world: World, nodeobs: Invoke) -> None:
    name = CRD_NAMES[1]
    found = next(
        one for one in crds(webhook=Webhook(namespace="there", service="x")) if one["metadata"]["name"] == name
    )
    world.has(f"{DEFINITIONS}/{name}", found)
    result = nodeobs("--yes")
    assert result.exit_code == 4
    assert "the service is in namespace there, not in nodeobs" in result.stderr
    assert "--namespace there" in result.stderr
    assert world.written == []


def test_no_cluster(world: World, nodeobs: Invoke) -> None:
    nowhere = nodeobs("--yes", "--context", "nowhere")
    assert nowhere.exit_code == 2
    assert "kubectl config get-contexts" in nowhere.stderr
    world.answers["GET", f"{DEFINITIONS}/{CRD_NAMES[0]}"] = [Answer(500, status(500, "InternalError", "etcd is away"))]
    failed = nodeobs("--yes", "-o", "json")
    problem = json.loads(failed.stderr)
    assert (failed.exit_code, problem["exitCode"]) == (6, 6)
    assert "etcd is away" in problem["detail"]
    assert "run this again" in problem["hint"]


def test_what_others_write_meanwhile_is_kept(world: World, nodeobs: Invoke) -> None:
    """A finalizer and a definition are written by somebody else between reading and writing."""
    conflict = Answer(409, status(409, "Conflict", "the object has been modified"))
    ours, theirs = f"{GROUP}/machine-configs", "example.com/theirs"
    at = f"{MACHINE_CONFIGS}/cluster"
    before = {"metadata": {"name": "cluster", "resourceVersion": "1", "finalizers": [ours]}}
    world.has(MACHINE_CONFIGS, {"metadata": {}, "items": [before]})
    world.has(at, {"metadata": {"name": "cluster", "resourceVersion": "2", "finalizers": [ours, theirs]}})
    world.answers["PATCH", at] = [conflict, Answer(body={})]
    name = CRD_NAMES[0]
    where = f"{DEFINITIONS}/{name}"
    versions = ("1", "1", "2", "3")  # one for what is stored, then before each write
    world.answers["GET", where] = [Answer(body=definition(name, resourceVersion=version)) for version in versions]
    world.answers["PATCH", where] = [conflict, Answer(body={})]
    result = nodeobs("--yes")
    assert result.exit_code == 0, result.output
    assert (
        f"released nodeobservabilitymachineconfigs cluster\nnarrowed CustomResourceDefinition {name}" in result.stderr
    )
    assert "NodeObservabilityMachineConfig cluster is not turned off: MachineConfig 10-crio-" in result.stderr
    patches = [json.loads(request.body) for request in world.asked if request.method == "PATCH"]
    assert patches[1] == {"metadata": {"resourceVersion": "2", "finalizers": [theirs]}}
    assert [change["value"] for change in patches[3]] == ["2", False, False, {"strategy": "None"}]
    assert world.written.count(("PATCH", at)) == world.written.count(("PATCH", where)) == 2


def test_only_its_own_mark_is_taken_off(world: World, nodeobs: Invoke) -> None:
    """Fields that were changed belong to nobody afterwards: also where an earlier call was ended before that."""
    name = CRD_NAMES[0]
    fields = [{"manager": manager, "operation": "Update"} for manager in ("helm", "nodeobs-uninstall")]
    done = definition(name, managedFields=fields)
    for version in done["spec"]["versions"]:
        version["served"] = version["name"] == "v1beta1"
    done["spec"]["conversion"] = {"strategy": "None"}
    where = f"{DEFINITIONS}/{name}"
    world.has(where, done)
    world.answers["PATCH", where] = [Answer(body={})]
    assert nodeobs("--dry-run").exit_code == 0
    assert world.written == []
    assert nodeobs("--yes").exit_code == 0
    (patch,) = [json.loads(request.body) for request in world.asked if request.method == "PATCH"]
    assert patch[1] == {"op": "replace", "path": "/metadata/managedFields", "value": fields[:1]}


def test_an_unreadable_run_is_let_go_too(world: World, nodeobs: Invoke) -> None:
    runs = f"/apis/{API_VERSION}/nodeobservabilityruns"
    at = f"/apis/{API_VERSION}/namespaces/a/nodeobservabilityruns/broken"
    metadata = {"name": "broken", "namespace": "a", "resourceVersion": "4", "finalizers": [f"{GROUP}/driven"]}
    world.has(runs, {"metadata": {}, "items": [{"metadata": metadata, "spec": {"durationSeconds": "long"}}]})
    world.answers["PATCH", at] = [Answer(body={})]
    result = nodeobs("--yes")
    assert result.exit_code == 0, result.output
    assert "released nodeobservabilityruns a/broken" in result.stderr
    assert result.stdout.startswith("The service can be removed now"), "no log of the parts in it"


def test_agents_in_another_namespace_keep_their_rights_and_are_told(world: World, nodeobs: Invoke) -> None:
    def binding(namespace: str) -> dict[str, Any]:
        subjects = [{"kind": "ServiceAccount", "name": "x", "namespace": namespace}]
        return {"metadata": {"name": f"nodeobs-agent:{namespace}:x", "uid": namespace}, "subjects": subjects}

    everywhere = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    world.has(everywhere, {"metadata": {}, "items": [binding("nodeobs-agents"), binding("profiling")]})
    result = nodeobs("--yes")
    assert result.exit_code == 0, result.output
    assert world.written == [("DELETE", f"{everywhere}/nodeobs-agent:nodeobs-agents:x")]
    assert "ClusterRoleBinding nodeobs-agent:profiling:x stays: it is of agents in namespace profiling" in result.stderr
    assert "`--agent-namespace profiling` deletes these" in result.stderr


def test_a_cancellation_that_a_policy_refuses_does_not_end_it(world: World, nodeobs: Invoke) -> None:
    runs, within = f"/apis/{API_VERSION}/nodeobservabilityruns", f"/apis/{API_VERSION}/namespaces/a"
    at = f"{within}/nodeobservabilityruns/going"
    metadata = {"name": "going", "namespace": "a", "uid": "1", "resourceVersion": "4"}
    run = {"metadata": metadata, "spec": {"nodeObservabilityRef": {"name": "x"}}, "status": {"phase": "Running"}}
    world.has(runs, {"metadata": {}, "items": [run]})
    world.has(at, run)
    world.answers["PUT", f"{at}/status"] = [Answer(body=run)]
    world.answers["PATCH", at] = [Answer(422, status(422, "Invalid", "Runs are not to be changed, says a policy"))]
    lease = {"metadata": {"name": "nodeobs"}, "spec": {"holderIdentity": "one"}}
    gone = Answer(404, status(404, "NotFound", "no such Lease"))
    world.answers["GET", "/apis/coordination.k8s.io/v1/namespaces/nodeobs/leases/nodeobs"] = [Answer(body=lease), gone]
    result = nodeobs("--yes")
    assert result.exit_code == 0, result.output
    assert "Run a/going cannot be cancelled by the service: Runs are not to be changed" in result.stderr
    assert "ended NodeObservabilityRun a/going as Cancelled" in result.stderr


def test_what_goes_while_its_finalizer_is_taken_off_is_gone(world: World, nodeobs: Invoke) -> None:
    """Written by others first, and deleted then."""
    at = f"{MACHINE_CONFIGS}/cluster"
    held = {"metadata": {"name": "cluster", "resourceVersion": "1", "finalizers": [f"{GROUP}/machine-configs"]}}
    world.has(MACHINE_CONFIGS, {"metadata": {}, "items": [held]})
    world.answers["PATCH", at] = [Answer(409, status(409, "Conflict", "the object has been modified"))]
    result = nodeobs("--yes")
    assert result.exit_code == 0, result.output


def test_large_runs_are_read_a_few_at_a_time(world: World, nodeobs: Invoke) -> None:
    """A hundred Runs over 5,000 nodes have 50 MiB, and take several times as much; the chart's job has 256."""
    runs = f"/apis/{API_VERSION}/nodeobservabilityruns"
    at = f"/apis/{API_VERSION}/namespaces/a/nodeobservabilityruns/one"
    name = CRD_NAMES[1]
    old = definition(name) | {"status": {"storedVersions": ["v1alpha1", "v1beta1"]}}
    world.has(f"{DEFINITIONS}/{name}", old)
    world.answers["PATCH", f"{DEFINITIONS}/{name}/status"] = [Answer(body=old)]
    world.answers["PATCH", f"{DEFINITIONS}/{name}"] = [Answer(body=old)]
    run = {"metadata": {"name": "one", "namespace": "a"}, "status": {"phase": "Succeeded"}}
    world.has(runs, {"metadata": {}, "items": [run]})
    world.answers["PUT", at] = [Answer(body=run)]
    assert nodeobs("--yes").exit_code == 0
    pages = [one.query["limit"] for one in world.asked if one.path == runs and "fieldSelector" not in one.query]
    assert len(pages) == 2
    assert all(int(limit) <= 20 for limit in pages)


def test_a_leader_that_was_killed_is_waited_for_longer_than_for_one_that_leads(world: World, nodeobs: Invoke) -> None:
    lease = {"metadata": {"name": "nodeobs"}, "spec": {"holderIdentity": "killed", "leaseDurationSeconds": 2}}
    world.has("/apis/coordination.k8s.io/v1/namespaces/nodeobs/leases/nodeobs", lease)
    result = nodeobs("--yes", "--timeout", "0.1")
    assert result.exit_code == 0, result.output
    assert "waiting for killed, which leads, to end" in result.stderr


def test_the_webhook_of_a_service_elsewhere_is_not_deleted(world: World, nodeobs: Invoke) -> None:
    """Also where definitions do not tell, as after an earlier removal."""
    webhook = {"clientConfig": {"service": {"namespace": "there", "name": "nodeobs"}}}
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    world.has(f"{hooks}/nodeobs", {"metadata": {"name": "nodeobs"}, "webhooks": [webhook]})
    result = nodeobs("--yes")
    assert result.exit_code == 4, result.output
    assert "the service is in namespace there, not in nodeobs: ValidatingWebhookConfiguration nodeobs" in result.stderr
    assert world.written == []


@pytest.mark.parametrize(
    "path",
    [
        f"{DEFINITIONS}/{CRD_NAMES[0]}",
        "/apis/apps/v1/namespaces/nodeobs/deployments/nodeobs",
        "/apis/coordination.k8s.io/v1/namespaces/nodeobs/leases/nodeobs",
        MACHINE_CONFIGS,
    ],
)
def test_a_proxy_that_wants_a_login_is_told(world: World, nodeobs: Invoke, path: str) -> None:
    world.answers["GET", path] = [Answer(body=b"<html>Log in")]
    result = nodeobs("--yes")
    assert result.exit_code == 6
    assert "the API server's answer cannot be read" in result.stderr
    assert "run this again" in result.stderr


@pytest.mark.parametrize(
    ("said", "code", "hint"),
    [
        ("conversion webhook for v1alpha1, Kind=X failed: connection refused", 4, "start the service"),
        ("etcdserver: request timed out", 6, "run this again"),
    ],
)
def test_an_api_server_that_cannot_answer_is_not_taken_for_one_that_cannot_convert(
    world: World, nodeobs: Invoke, said: str, code: int, hint: str
) -> None:
    old = definition(CRD_NAMES[0]) | {"status": {"storedVersions": ["v1alpha1", "v1beta1"]}}
    world.has(f"{DEFINITIONS}/{CRD_NAMES[0]}", old)
    listed = f"/apis/{API_VERSION}/{CRD_NAMES[0].partition('.')[0]}"
    world.answers["GET", listed] = [Answer(500, status(500, "InternalError", said))]
    result = nodeobs("--yes")
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert hint in result.stderr
    assert ("cannot be converted" in result.stderr) == (code == 4)
    assert world.written == []
