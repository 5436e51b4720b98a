"""Which of a service and a cluster is meant, and how files come out of one: authority, name, token, forwarding."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.kube.client import CONCURRENT_RUN
from nodeobs.model import API_VERSION, Phase, Run, replace, to_builtins
from tests.builders import make_observability, make_run
from tests.cli.conftest import Answer as ServiceAnswer
from tests.cli.conftest import FakeService, as_problem
from tests.cli.kubectl import FakeKubectl
from tests.cli.outputs import RUN as OUTPUT_OF
from tests.cli.outputs import serve_output, whole_archive
from tests.fakes.api_server import Answer, FakeApiServer, Request, status
from tests.processes import wait_for

RUNS = f"/apis/{API_VERSION}/namespaces/here/nodeobservabilityruns"
AUTHORITY = "/api/v1/namespaces/nodeobs/configmaps/nodeobs-ca"
TOKENS = "/api/v1/namespaces/nodeobs/serviceaccounts/{}/token"
TOKEN = "a-short-lived-one"

Invoke = Callable[..., Result]


class World:
    """An API server that answers what is in ``answers``, by method and path; a service behind a forwarded port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[tuple[str, str], Answer] = {}
        self.api = FakeApiServer(self._answer)
        self.kubectl = FakeKubectl(folder / "bin")
        self.authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("nodeobs.nodeobs.svc").configure_cert(context)
        self.service = FakeService(tls=context)
        self.kubectl.forwards_to(self.service.port)
        self.publish(self.authority.cert_pem.bytes().decode())

    def publish(self, authority: str) -> None:
        self.answers["GET", AUTHORITY] = Answer(body={"data": {"ca.crt": authority}})

    def gives_tokens(self, account: str) -> None:
        self.answers["POST", TOKENS.format(account)] = Answer(201, {"status": {"token": TOKEN}})

    def kubeconfig(self, **user: object) -> Path:
        return self.api.kubeconfig(self.folder / "kubeconfig", user=user or None)

    def environ(self, **more: str) -> dict[str, str | None]:
        nothing = dict.fromkeys(("NODEOBS_SERVER", "NODEOBS_TOKEN_FILE", "NODEOBS_CA_FILE", "NODEOBS_NAMESPACE"))
        known = {"PATH": self.kubectl.path, "KUBECONFIG": str(self.kubeconfig()), "HOME": str(self.folder)}
        return nothing | known | more

    def _answer(self, request: Request) -> Answer:
        found = self.answers.get((request.method, request.path))
        return found or Answer(404, status(404, "NotFound", f"{request.path} not found"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path)
    try:
        with made.api:
            yield made
    finally:
        made.service.close()


@pytest.fixture
def nodeobs(world: World) -> Invoke:
    """``nodeobs`` in an environment in which there is a kubeconfig; ``called`` is the program's name."""

    def invoke(*arguments: str, called: str = "nodeobs", env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(
            main, arguments, prog_name=called, env=world.environ(**(env or {})), catch_exceptions=False
        )

    return invoke


def document(run: Run, *, version: str = "7") -> dict[str, Any]:
    run = replace(run, metadata=replace(run.metadata, resource_version=version))
    return {"apiVersion": API_VERSION, "kind": Run.KIND, **to_builtins(run)}


def listing(*runs: Run) -> Answer:
    return Answer(body={"metadata": {"resourceVersion": "9"}, "items": [document(run) for run in runs]})


# --- which world


@pytest.mark.parametrize(
    ("arguments", "called", "env"),
    [
        (["--context", "fake"], "nodeobs", {}),
        (["--kubeconfig", "kubeconfig"], "nodeobs", {}),
        ([], "kubectl-nodeobs", {}),
        (["--context", "fake"], "nodeobs", {"NODEOBS_SERVER": "http://127.0.0.1:1"}),
    ],
)
def test_a_cluster_is_meant(
    world: World, nodeobs: Invoke, arguments: list[str], called: str, env: dict[str, str]
) -> None:
    world.answers["GET", RUNS] = listing(make_run(namespace="here"))
    result = nodeobs("run", "list", *arguments, called=called, env=env)
    assert result.exit_code == 0, result.output
    assert "run-1" in result.stdout


@pytest.mark.parametrize("called", ["nodeobs", "kubectl-nodeobs"])
def test_a_service_is_meant_where_a_server_is_named(
    world: World, nodeobs: Invoke, service: FakeService, called: str
) -> None:
    service.lists(make_run())
    assert nodeobs("run", "list", "--server", service.url, called=called).exit_code == 0
    assert nodeobs("run", "list", called=called, env={"NODEOBS_SERVER": service.url}).exit_code == 0
    assert len(service.asked) == 2
    assert world.api.requests == []


def test_both_are_wrong_usage(world: World, nodeobs: Invoke) -> None:
    result = nodeobs("run", "list", "--server", "http://127.0.0.1:1", "--context", "fake")
    assert result.exit_code == 2
    assert "give one" in result.stderr


def test_who_has_a_kubeconfig_is_told_of_clusters(world: World, nodeobs: Invoke) -> None:
    # Should somebody run a service on the usual port, it is not what this is about.
    result = nodeobs("run", "list")
    if result.exit_code == 6:
        assert "--context or --kubeconfig names a cluster" in result.stderr
    assert world.api.requests == []
    assert "--context" not in nodeobs("run", "list", "--server", "http://127.0.0.1:1").stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--kubeconfig", "nosuch"], "nosuch"),
        (["--context", "nosuch"], "Error: there is no context 'nosuch' in the kubeconfig "),
        (["--kubeconfig", "bad"], "bad"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(world: World, nodeobs: Invoke, arguments: list[str], text: str) -> None:
    (world.folder / "bad").write_text("{")
    result = nodeobs("run", "list", *arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "kubectl config get-contexts" in result.stderr


# --- Runs


def test_a_run_is_created_with_what_was_wished(world: World, nodeobs: Invoke) -> None:
    world.answers["POST", RUNS] = Answer(201, document(make_run("cluster-x7", namespace="here")))
    result = nodeobs("run", "start", "--context", "fake", "--no-wait", "--node-selector", "zone=a", "--profile", "heap")
    assert result.exit_code == 0, result.output
    (asked,) = world.api.asked("POST", RUNS)
    sent = json.loads(asked.body)
    assert sent["metadata"] == {"namespace": "here", "generateName": "cluster-"}
    assert (sent["apiVersion"], sent["kind"]) == (API_VERSION, "NodeObservabilityRun")
    assert (sent["spec"]["nodeSelector"], sent["spec"]["profiles"]) == ({"zone": "a"}, ["heap"])
    assert asked.query["fieldValidation"] == "Strict"
    assert "`nodeobs run wait here/cluster-x7 --context fake`" in result.stdout


def denied(code: int, reason: str, message: str, *causes: dict[str, str]) -> Answer:
    return Answer(code, status(code, reason, message) | {"details": {"causes": list(causes)}})


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (denied(401, "Unauthorized", "Unauthorized"), 6, "log in again"),
        (denied(403, "Forbidden", 'User "eve" cannot create'), 6, "Hint: ask for the role nodeobs-viewer"),
        (denied(404, "NotFound", "the server could not find the requested resource"), 5, "docs/install.md"),
        (denied(409, "AlreadyExists", "it exists"), 4, "it exists"),
        (denied(422, "Invalid", "durationSeconds must be 1 to 3600"), 2, "durationSeconds must be 1 to 3600"),
        (
            Answer(404, b"404 page not found\n"),
            5,
            "does not know nodeobs' resources: 404 page not found\nHint: nodeobs is not installed",
        ),
        (denied(500, "InternalError", "failed calling webhook"), 6, "`kubectl get pods --namespace nodeobs`"),
        (Answer(201, b"[]"), 6, "cannot be read"),
        (
            denied(409, "Conflict", "denied", {"reason": CONCURRENT_RUN, "message": "busy", "field": "other/r"}),
            4,
            "`nodeobs run cancel other/r --context fake`",
        ),
    ],
)
def test_refusals(world: World, nodeobs: Invoke, answer: Answer, code: int, text: str) -> None:
    world.answers["POST", RUNS] = answer
    result = nodeobs("run", "start", "--context", "fake")
    assert result.exit_code == code
    assert text in result.stderr


def test_a_cluster_that_is_away(world: World, nodeobs: Invoke) -> None:
    world.api.respond = lambda _: Answer(0, then="close")
    result = nodeobs("run", "get", "run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "cannot be reached" in result.stderr


def test_what_cannot_be_read_is_left_out_of_lists(world: World, nodeobs: Invoke) -> None:
    bad = {"metadata": {"name": "bad\x1b[31m"}, "spec": {"durationSeconds": "long"}}
    good = document(make_run(namespace="here"))
    world.answers["GET", RUNS] = Answer(body={"metadata": {"resourceVersion": "9"}, "items": [bad, good]})
    result = nodeobs("run", "list", "--context", "fake")
    assert result.exit_code == 0
    assert "run-1" in result.stdout
    assert r"bad\x1b[31m is left out" in result.stderr
    assert "\x1b" not in result.output


def test_who_may_look_in_one_namespace_only_is_told_to_name_it(world: World, nodeobs: Invoke) -> None:
    everywhere = f"/apis/{API_VERSION}/nodeobservabilityruns"
    world.answers["GET", everywhere] = denied(403, "Forbidden", 'User "eve" cannot list runs at the cluster scope')
    result = nodeobs("run", "list", "-A", "--context", "fake")
    assert result.exit_code == 6
    assert "Hint: name the namespace in which you have a role with --namespace, or ask for the role" in result.stderr


@pytest.mark.parametrize("verb", ["get", "wait", "cancel", "delete"])
def test_a_run_that_is_not_there_is_named_with_its_namespace(world: World, nodeobs: Invoke, verb: str) -> None:
    missing = Answer(404, status(404, "NotFound", 'nodeobservabilityruns.example "run-1" not found'))
    world.answers |= {(method, f"{RUNS}/run-1"): missing for method in ("GET", "PATCH", "DELETE")}
    world.answers["GET", RUNS] = listing()
    result = nodeobs("run", verb, "run-1", called="kubectl-nodeobs")
    assert result.exit_code == 5
    assert result.stderr.splitlines() == [
        "Error: there is no Run here/run-1",
        "Hint: see `kubectl nodeobs run list --all-namespaces`",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "A_b"], "Error: 'A_b' is not a Run's name: lower-case letters, digits, '-' and '.'"),
        (["get", "a/b/c"], "Error: 'a/b/c' is not a Run's name: lower-case letters, digits, '-' and '.'"),
        (["get", "latest"], "Error: there is no finished Run yet in namespace here"),
        (["delete", "latest"], "Error: `latest` may be another Run by the time it is deleted"),
    ],
)
def test_a_hint_is_a_command_for_the_same_cluster(
    world: World, nodeobs: Invoke, arguments: list[str], said: str
) -> None:
    world.answers["GET", RUNS] = listing()
    for called, program in (("nodeobs", "nodeobs"), ("kubectl-nodeobs", "kubectl nodeobs")):
        result = nodeobs("run", *arguments, "--context", "fake", called=called)
        assert result.stderr.startswith(said)
        assert f"`{program} run list --context fake" in result.stderr


def test_no_runs_in_one_namespace_are_not_none_at_all(world: World, nodeobs: Invoke) -> None:
    world.answers["GET", RUNS] = Answer(body={"metadata": {"resourceVersion": "9"}, "items": []})
    result = nodeobs("run", "list", "--context", "fake")
    assert (result.stdout, result.stderr) == ("no Runs\n", "in namespace here; --all-namespaces shows those of all\n")


def test_waiting_goes_on_where_it_was_refused_for_a_moment(world: World, nodeobs: Invoke) -> None:
    done = document(make_run(namespace="here", phase=Phase.SUCCEEDED), version="13")
    watches = [
        denied(403, "Forbidden", "roles are not read yet"),
        Answer(503, status(503, "ServiceUnavailable", "starting")),
        Answer(lines=[{"type": "ERROR", "object": status(410, "Expired", "too old")}]),
        Answer(lines=[{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}}}]),
        Answer(lines=[{"type": "MODIFIED", "object": done}]),
    ]

    def respond(request: Request) -> Answer:
        return watches.pop(0) if "watch" in request.query else listing(make_run(namespace="here"))

    world.api.respond = respond
    result = nodeobs("run", "wait", "run-1", "--context", "fake")
    assert result.exit_code == 0, result.output
    asked = [request.query.get("resourceVersion") for request in world.api.requests if "watch" in request.query]
    assert asked[0] == "9"
    assert asked[-1] == "12"
    assert {request.query["fieldSelector"] for request in world.api.requests} == {"metadata.name=run-1"}


def test_a_run_that_is_deleted_is_no_longer_waited_for(world: World, nodeobs: Invoke) -> None:
    run = make_run(namespace="here")

    def respond(request: Request) -> Answer:
        deleted = {"type": "DELETED", "object": document(run)}
        return Answer(lines=[deleted]) if "watch" in request.query else listing(run)

    world.api.respond = respond
    result = nodeobs("run", "wait", "run-1", "--context", "fake")
    assert result.exit_code == 5
    assert "Run here/run-1 was deleted" in result.stderr


def test_names_that_begin_so_are_offered(world: World) -> None:
    world.answers["GET", RUNS] = listing(make_run("alpha", namespace="here"), make_run("beta", namespace="here"))
    observabilities = f"/apis/{API_VERSION}/nodeobservabilities"
    item = {"apiVersion": API_VERSION, "kind": "NodeObservability", **to_builtins(make_observability("edge"))}
    world.answers["GET", observabilities] = Answer(body={"metadata": {"resourceVersion": "1"}, "items": [item]})
    assert completed(world, "nodeobs run get --context fake al") == ["alpha"]
    assert completed(world, "nodeobs run wait --context fake l") == ["latest"]
    assert completed(world, "nodeobs run delete --context fake l") == []
    assert completed(world, "nodeobs run start --context fake --node-observability e") == ["edge"]
    assert completed(world, "nodeobs run get --context nosuch a") == []


def completed(world: World, line: str) -> list[str]:
    environ = world.environ(_NODEOBS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
    found = CliRunner().invoke(main, [], prog_name="nodeobs", env=environ).stdout.split()
    return [name.removeprefix("plain,") for name in found]


# --- files


def test_files_are_asked_for_with_the_kubeconfigs_token(world: World, nodeobs: Invoke) -> None:
    serve_output(world.service)
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert len(list(Path("run-1").rglob("*.pb.gz"))) == 6
    assert {asked.headers["Authorization"] for asked in world.service.asked} == {"Bearer token"}
    (call,) = world.kubectl.calls
    where = ["--context", "fake", "--namespace=nodeobs"]
    assert call.arguments == [
        *where,
        "port-forward",
        "--address=127.0.0.1",
        "--pod-running-timeout=10s",
        "service/nodeobs",
        ":443",
    ]
    wait_for("kubectl has ended", world.kubectl.all_gone)


def test_top_shows_a_file_of_a_cluster(world: World, nodeobs: Invoke) -> None:
    serve_output(world.service)
    result = nodeobs("top", "nodeobs/run-1", "--kubeconfig", "kubeconfig", "-n", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Run nodeobs/run-1: kubelet cpu merged from node-1, node-2\n")
    assert world.kubectl.calls[0].arguments[:2] == ["--kubeconfig", "kubeconfig"]


def test_who_has_no_token_asks_as_a_service_account(world: World, nodeobs: Invoke) -> None:
    serve_output(world.service)
    world.gives_tokens("nodeobs-viewer")
    path = world.api.kubeconfig(world.folder / "certificate", user={"username": "u", "password": "p"})
    result = nodeobs("pull", "nodeobs/run-1", "--kubeconfig", str(path))
    assert result.exit_code == 0, result.output
    assert "ServiceAccount nodeobs/nodeobs-viewer, with a token for 10 minutes" in result.stderr
    assert {asked.headers["Authorization"] for asked in world.service.asked} == {f"Bearer {TOKEN}"}
    (asked,) = world.api.asked("POST")
    assert json.loads(asked.body)["spec"] == {"expirationSeconds": 600}


def test_another_service_account_and_a_token_of_ones_own(world: World, nodeobs: Invoke) -> None:
    serve_output(world.service)
    world.gives_tokens("robot")
    assert nodeobs("pull", "nodeobs/run-1", "--context", "fake", "--service-account", "robot").exit_code == 0
    assert world.service.asked[-1].headers["Authorization"] == f"Bearer {TOKEN}"
    (world.folder / "token").write_text("mine")
    mine = ["--token-file", "token", "--into", "again"]
    assert nodeobs("pull", "nodeobs/run-1", "--context", "fake", *mine).exit_code == 0
    assert world.service.asked[-1].headers["Authorization"] == "Bearer mine"


@pytest.mark.parametrize("body", [b"", b"{}", f'"{TOKEN}"'.encode()])
def test_an_answer_without_a_token_is_not_shown(world: World, nodeobs: Invoke, body: bytes) -> None:
    world.answers["POST", TOKENS.format("robot")] = Answer(201, body)
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake", "--service-account", "robot")
    assert result.exit_code == 6
    assert "gave no token of ServiceAccount nodeobs/robot" in result.stderr
    assert TOKEN not in result.stderr


def test_a_service_account_that_is_not_there(world: World, nodeobs: Invoke) -> None:
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake", "--service-account", "robot")
    assert result.exit_code == 5
    assert "there is no ServiceAccount robot in namespace nodeobs" in result.stderr
    assert "--service-account" in result.stderr


@pytest.mark.parametrize("name", ["../../secrets/x", "A", "a b", ""])
def test_what_is_no_name_is_not_asked_for(world: World, nodeobs: Invoke, name: str) -> None:
    for option in ("--service-account", "--service-namespace"):
        assert nodeobs("pull", "nodeobs/run-1", "--context", "fake", option, name).exit_code == 2
    assert world.api.requests == []


def test_a_service_that_another_authority_vouches_for_gets_no_token(world: World, nodeobs: Invoke) -> None:
    world.publish(trustme.CA().cert_pem.bytes().decode())
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "cannot be verified" in result.stderr
    assert "--ca-file" in result.stderr
    assert world.service.asked == []
    world.authority.cert_pem.write_to_path("ca.pem")
    serve_output(world.service)
    assert nodeobs("pull", "nodeobs/run-1", "--context", "fake", "--ca-file", "ca.pem").exit_code == 0


def test_a_service_of_another_name_gets_no_token(world: World, nodeobs: Invoke) -> None:
    elsewhere = AUTHORITY.replace("/nodeobs/", "/other/")
    world.answers["GET", elsewhere] = world.answers["GET", AUTHORITY]
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake", "--service-namespace", "other")
    assert result.exit_code == 6
    assert "nodeobs.other.svc" in result.stderr
    assert world.service.asked == []


@pytest.mark.parametrize("data", [{}, {"ca.crt": ""}, {"ca.crt": "nonsense"}, None])
def test_an_authority_that_is_none(world: World, nodeobs: Invoke, data: object) -> None:
    world.answers["GET", AUTHORITY] = Answer(body={"data": data})
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "ConfigMap nodeobs-ca of namespace nodeobs holds no certificates under ca.crt" in result.stderr
    assert world.kubectl.calls == []


def test_an_authority_that_is_not_published(world: World, nodeobs: Invoke) -> None:
    del world.answers["GET", AUTHORITY]
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "there is no ConfigMap nodeobs-ca of namespace nodeobs" in result.stderr
    assert "--service-namespace" in result.stderr


def test_who_may_not_get_files_is_told_which_role_that_takes(world: World, nodeobs: Invoke) -> None:
    world.answers["GET", AUTHORITY] = denied(403, "Forbidden", 'configmaps "nodeobs-ca" is forbidden')
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "Hint: files take the role nodeobs-client in namespace nodeobs, beside nodeobs-viewer" in result.stderr
    assert "nodeobs-runner" not in result.stderr


# --- forwarding


def test_no_kubectl(world: World, nodeobs: Invoke) -> None:
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake", env={"PATH": "/nosuch"})
    assert result.exit_code == 6
    assert "no kubectl on the PATH" in result.stderr


def test_what_kubectl_complains_about_is_told(world: World, nodeobs: Invoke) -> None:
    world.kubectl.fails("a warning", 'Error from server (NotFound): services "nodeobs" not found\x1b[31m')
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert (
        "cannot forward a port to Service nodeobs in namespace nodeobs: "
        'Error from server (NotFound): services "nodeobs" not found' in result.stderr
    )
    assert "`kubectl get pods --namespace nodeobs`" in result.stderr
    assert "nodeobs-client" in result.stderr
    assert "--server" in result.stderr
    assert "\x1b" not in result.stderr
    wait_for("kubectl has ended", world.kubectl.all_gone)


def test_a_way_that_breaks_is_told_with_kubectls_words(world: World, nodeobs: Invoke) -> None:
    world.service.on("GET", f"{OUTPUT_OF}/output", ServiceAnswer(200, b"{", cut=True))
    world.kubectl.forwards_to(world.service.port, complaining="error: lost connection to pod")
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "kubectl said: error: lost connection to pod" in result.stderr
    assert "kubectl get pods --namespace nodeobs" not in result.stderr


def test_refusals_of_the_service_are_its_own(world: World, nodeobs: Invoke) -> None:
    world.service.on("GET", f"{OUTPUT_OF}/output", as_problem(403, "eve may not get outputs"))
    result = nodeobs("pull", "nodeobs/run-1", "--context", "fake")
    assert result.exit_code == 6
    assert "eve may not get outputs" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_kubectl_ends_however_the_command_does(world: World, number: signal.Signals) -> None:
    serve_output(world.service)
    held, release = threading.Event(), threading.Event()
    world.service.on("GET", f"{OUTPUT_OF}/output.tar.gz", ServiceAnswer(200, whole_archive(), hold=release, held=held))
    environ = {name: value for name, value in (os.environ | world.environ()).items() if value is not None}
    argv = [sys.executable, "-m", "nodeobs.cli", "pull", "nodeobs/run-1", "--context", "fake"]
    process = subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert held.wait(30)
        # As the terminal does at Ctrl-C: to everybody in the foreground.
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, stderr = process.communicate(timeout=30)
    finally:
        release.set()
        process.kill()
        process.communicate()
    wait_for("kubectl has ended", world.kubectl.all_gone)
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in stderr


def test_a_kubectl_that_says_nothing_is_interrupted(world: World) -> None:
    world.kubectl.hangs()
    environ = {name: value for name, value in (os.environ | world.environ()).items() if value is not None}
    argv = [sys.executable, "-m", "nodeobs.cli", "pull", "nodeobs/run-1", "--context", "fake"]
    process = subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("kubectl was called", lambda: world.kubectl.calls)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, stderr
    wait_for("kubectl has ended", world.kubectl.all_gone)


def test_help_says_what_is_used(nodeobs: Invoke) -> None:
    text = re.sub(r"\s+", " ", nodeobs("pull", "--help").stdout)
    for said in ("http://127.0.0.1:8080, or a cluster when called as kubectl nodeobs", "KUBECONFIG", "nodeobs-viewer"):
        assert said in text
