"""The command line against a real API server and the real service, and through a real port-forward to a pod."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.kube.paths import RUNS
from nodeobs.pprof import read
from tests.cli.conftest import FakeService
from tests.cli.kubectl import FakeKubectl
from tests.cli.outputs import serve_output
from tests.cluster.world import KubeWorld
from tests.fakes.agent_simulator import Behaviour
from tests.lab.apiserver import ApiServer, write_kubeconfig
from tests.lab.cluster import Cluster
from tests.lab.errors import LabError, Missing
from tests.lab.images import BUSYBOX
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def world(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeWorld]:
    """nodeobs with one replica, two agents, and a namespace ``sre`` beside its own."""
    try:
        made = KubeWorld(api_server, tmp_path_factory.mktemp("world"))
    except Missing as error:
        pytest.skip(str(error))
    with closing(made):
        made.agents(Behaviour(), Behaviour())
        made.start()
        made.observability()
        yield made


@pytest.fixture(scope="module")
def team(world: KubeWorld) -> Iterator[str]:
    """A namespace in which a ServiceAccount ``ada`` may start Runs and reach the service, and ``eve`` nothing."""
    name = f"{world.namespace}-sre"
    api = world.api
    api.add_namespace(name)
    for account in ("ada", "eve"):
        api.kubectl("create", "serviceaccount", account, "-n", name)
    ada = f"--serviceaccount={name}:ada"
    api.kubectl("create", "clusterrolebinding", f"ada-{name}", "--clusterrole=nodeobs-runner", ada)
    api.kubectl("create", "rolebinding", "ada", "-n", world.namespace, "--role=nodeobs-client", ada)
    user = f"system:serviceaccount:{name}:ada"
    wait_for("Ada may start Runs", lambda: may(api, user, "create", "nodeobservabilityruns", name))
    api.wait_allowed(user, "list", "pods", world.namespace)
    yield name
    api.kubectl("delete", "clusterrolebinding", f"ada-{name}")
    api.remove_namespace(name)


def may(api: ApiServer, user: str, verb: str, resource: str, namespace: str) -> bool:
    try:
        return api.kubectl("auth", "can-i", verb, resource, "-n", namespace, "--as", user).strip() == "yes"
    except LabError:
        return False


@pytest.fixture
def kubectl(tmp_path: Path, world: KubeWorld) -> FakeKubectl:
    """A kubectl whose port-forward leads to the replica, as a kubelet's would to its pod."""
    made = FakeKubectl(tmp_path / "bin")
    made.forwards_to(world.replicas[0].port, world.address)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    path = tmp_path / "cwd"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def as_ada(world: KubeWorld, team: str, kubectl: FakeKubectl, folder: Path, tmp_path: Path) -> Invoke:
    """``kubectl nodeobs`` as Ada, whose kubeconfig has a token and the namespace of her team."""
    return invoker(world.api.kubeconfig_for(team, "ada", tmp_path), kubectl, world.namespace)


def invoker(kubeconfig: Path, kubectl: FakeKubectl, service_namespace: str) -> Invoke:
    environ = {"KUBECONFIG": str(kubeconfig), "PATH": kubectl.path}

    def invoke(*arguments: str) -> Result:
        where = ["--service-namespace", service_namespace]
        return CliRunner().invoke(
            main, [*arguments, *where], prog_name="kubectl-nodeobs", env=environ, catch_exceptions=False
        )

    return invoke


def finish(world: KubeWorld, namespace: str) -> None:
    """Let nothing hold the NodeObservability any more."""
    for run in json.loads(world.admin.get(RUNS.collection(namespace)))["items"]:
        world.admin.request("DELETE", RUNS.item(run["metadata"]["name"], namespace))
    wait_for("no Run is left", lambda: not json.loads(world.admin.get(RUNS.collection(namespace)))["items"])


@pytest.fixture(autouse=True)
def no_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "as_ada" in request.fixturenames:
        finish(request.getfixturevalue("world"), request.getfixturevalue("team"))


def test_a_run_from_start_to_files(world: KubeWorld, team: str, as_ada: Invoke, kubectl: FakeKubectl) -> None:
    # Long enough to be seen: the API server breaks watches off for a moment after a definition was written.
    started = as_ada("run", "start", "--duration", "4")
    assert started.exit_code == 0, started.output
    assert "Running: profiling 2 nodes for 4 s" in started.stderr
    run = json.loads(as_ada("run", "get", "latest", "-o", "json").stdout)
    name = run["metadata"]["name"]
    assert (run["metadata"]["namespace"], run["status"]["phase"]) == (team, "Succeeded")
    assert name.startswith("cluster-")
    assert name in as_ada("run", "list").stdout
    assert kubectl.calls == []

    pulled = as_ada("pull", "latest")
    assert pulled.exit_code == 0, pulled.output
    assert "ServiceAccount" not in pulled.stderr
    files = sorted(Path(name).rglob("*.pb.gz"))
    assert [path.parts[1] for path in files] == ["merged", "node-0", "node-1"]
    assert all(read(path.read_bytes()).samples for path in files)
    top = as_ada("top", name, "-o", "json")
    assert top.exit_code == 0, top.output
    assert json.loads(top.stdout)["functions"]
    wait_for("kubectl has ended", kubectl.all_gone)

    deleted = as_ada("run", "delete", name)
    assert deleted.stdout == f"{team}/{name} deleted\n"
    assert as_ada("run", "get", name).exit_code == 5


def test_who_has_a_client_certificate_asks_as_a_service_account(
    world: KubeWorld, as_ada: Invoke, kubectl: FakeKubectl, tmp_path: Path
) -> None:
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 0
    as_bob = invoker(certificate_kubeconfig(world.api, tmp_path), kubectl, world.namespace)
    pulled = as_bob("pull", "latest", "--namespace", f"{world.namespace}-sre")
    assert pulled.exit_code == 0, pulled.output
    account = f"{world.namespace}/nodeobs-viewer"
    assert pulled.stderr == f"Asking the service as ServiceAccount {account}, with a token for 10 minutes.\n"
    missing = as_bob("pull", "latest", "--namespace", f"{world.namespace}-sre", "--service-account", "nosuch")
    assert missing.exit_code == 5
    assert f"there is no ServiceAccount nosuch in namespace {world.namespace}" in missing.stderr


def certificate_kubeconfig(api: ApiServer, folder: Path) -> Path:
    """Of Bob, an admin of the cluster who is known by his certificate alone."""
    pair = api.authority.issue(f"bob-{folder.name}", "bob", common_name="bob", group="system:masters")
    path = folder / "bob.kubeconfig"
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    write_kubeconfig(path, api.url, api.ca_file, user)
    return path


def test_refusals_have_their_exit_codes(world: KubeWorld, team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "start", "first", "--duration", "60", "--no-wait").exit_code == 0
    second = as_ada("run", "start", "--duration", "1")
    assert second.exit_code == 4
    assert f"kubectl nodeobs run wait {team}/first" in second.stderr
    holder = json.loads(as_ada("run", "start", "--duration", "1", "-o", "json").stderr)["holder"]
    assert holder == f"{team}/first"
    assert as_ada("run", "wait", "first", "--timeout", "0.5").exit_code == 124
    assert as_ada("run", "start", "--node", "Not A Name").exit_code == 2
    assert as_ada("run", "start", "--node-observability", "nosuch").exit_code == 2
    assert as_ada("run", "get", "nosuch").exit_code == 5
    assert as_ada("run", "cancel", "nosuch").exit_code == 5
    assert as_ada("run", "delete", "nosuch").exit_code == 5
    assert as_ada("pull", "first").exit_code == 5
    cancelled = as_ada("run", "cancel", "latest")
    assert cancelled.exit_code == 0
    assert f"kubectl nodeobs run wait {team}/first" in cancelled.stdout
    ended = as_ada("run", "wait", "latest")
    assert ended.exit_code == 1
    assert "Cancelled" in ended.stdout
    assert as_ada("run", "cancel", "first").exit_code == 0
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 4


def test_what_has_finished_cannot_be_cancelled(team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "start", "done", "--duration", "1").exit_code == 0
    result = as_ada("run", "cancel", "done")
    assert result.exit_code == 4
    assert f"Run {team}/done has finished already: it is Succeeded" in result.stderr


def test_a_run_that_is_going_is_cancelled_before_it_is_deleted(world: KubeWorld, team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "start", "r", "--duration", "60", "--no-wait").exit_code == 0
    wait_for("it goes", lambda: "finalizers" in json.loads(world.admin.get(RUNS.item("r", team)))["metadata"])
    result = as_ada("run", "delete", "r", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"run": f"{team}/r", "deleted": False}
    gone = as_ada("run", "wait", "r")
    assert gone.exit_code in (1, 5), gone.output
    wait_for("it is gone", lambda: as_ada("run", "get", "r").exit_code == 5)


def test_lists_are_of_the_namespace_that_is_meant(world: KubeWorld, team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "list").stdout == "no Runs\n"
    missing = as_ada("pull", "latest")
    assert missing.exit_code == 5
    assert f"no Run that delivered anything yet in namespace {team}" in missing.stderr
    assert as_ada("run", "start", "elsewhere", "-n", world.namespace, "--duration", "1").exit_code == 0
    try:
        mine = as_ada("run", "list")
        assert mine.stdout == "no Runs\n", mine.stderr
        everywhere = as_ada("run", "list", "-A", "-o", "json").stdout
        assert [run["metadata"]["name"] for run in json.loads(everywhere)["items"]] == ["elsewhere"]
        assert "elsewhere" in as_ada("run", "list", "-n", world.namespace, "--phase", "Succeeded").stdout
        assert as_ada("run", "list", "-A", "--phase", "Failed").stdout == "no Runs\n"
        assert as_ada("run", "list", "-A", "--node-observability", "other").stdout == "no Runs\n"
    finally:
        finish(world, world.namespace)


def test_runs_are_newest_first_and_limited(as_ada: Invoke) -> None:
    for name in ("a", "c", "b"):
        assert as_ada("run", "start", name, "--duration", "1").exit_code == 0
    listed = json.loads(as_ada("run", "list", "--limit", "2", "-o", "json").stdout)["items"]
    assert [run["metadata"]["name"] for run in listed] == ["b", "c"]
    assert json.loads(as_ada("run", "get", "latest", "-o", "json").stdout)["metadata"]["name"] == "b"


def test_who_may_not_is_told_so(
    world: KubeWorld, team: str, as_ada: Invoke, kubectl: FakeKubectl, tmp_path: Path
) -> None:
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 0
    as_eve = invoker(world.api.kubeconfig_for(team, "eve", tmp_path), kubectl, world.namespace)
    for command in (["run", "start"], ["run", "list"], ["run", "get", "first"], ["run", "wait", "first"]):
        result = as_eve(*command)
        assert result.exit_code == 6, result.output
        assert f"{team}:eve" in result.stderr
        assert "nodeobs-viewer" in result.stderr
    assert as_eve("pull", "first").exit_code == 6
    stranger = tmp_path / "stranger.kubeconfig"
    write_kubeconfig(stranger, world.api.url, world.api.ca_file, {"token": "not-a-token"})
    assert invoker(stranger, kubectl, world.namespace)("run", "list").exit_code == 6


def test_the_service_decides_who_gets_files(
    world: KubeWorld, team: str, as_ada: Invoke, kubectl: FakeKubectl, tmp_path: Path
) -> None:
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 0
    eves = world.api.token(team, "eve")
    (tmp_path / "token").write_text(eves)
    result = as_ada("pull", "first", "--token-file", str(tmp_path / "token"))
    assert result.exit_code == 6
    assert "eve" in result.stderr
    assert eves not in result.stderr


def test_waiting_takes_one_watch(world: KubeWorld, team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "start", "r", "--duration", "3", "--no-wait").exit_code == 0
    user = f"system:serviceaccount:{team}:ada"
    before = len(world.api.requests(user))
    assert as_ada("run", "wait", "r").exit_code == 0
    asked = world.api.requests(user)[before:]
    assert asked[0].verb == "list"
    assert {request.verb for request in asked[1:]} == {"watch"}
    assert len(asked) <= 12  # the look at the beginning, and one watch for each change


def waiting(kubeconfig: Path, run: str) -> subprocess.Popen[str]:
    """The command as a real process."""
    argv = [sys.executable, "-m", "nodeobs.cli", "run", "wait", run, "--kubeconfig", str(kubeconfig)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("outage", ["restart", "compaction"])
def test_a_run_is_followed_through_an_outage(
    world: KubeWorld, team: str, as_ada: Invoke, tmp_path: Path, outage: str
) -> None:
    assert as_ada("run", "start", "r", "--duration", "10", "--no-wait").exit_code == 0
    user = f"system:serviceaccount:{team}:ada"
    before = len(world.api.requests(user))
    process = waiting(world.api.kubeconfig_for(team, "ada", tmp_path), "r")
    try:
        wait_for("it watches", lambda: "watch" in {request.verb for request in world.api.requests(user)[before:]})
        if outage == "restart":
            world.api.stop_api(kill=True)
            world.api.start_api()
        else:
            world.api.etcd_compact()
        stdout, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, stderr
    assert "Succeeded" in stdout


def test_a_run_that_is_deleted_while_it_is_waited_for(world: KubeWorld, team: str, as_ada: Invoke) -> None:
    assert as_ada("run", "start", "orphan", "--duration", "60", "--no-wait").exit_code == 0
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(as_ada("run", "wait", "orphan")))
    thread.start()
    finish(world, team)
    thread.join(60)
    assert results[0].exit_code in (1, 5), results[0].output


def test_names_are_completed(team: str, as_ada: Invoke, world: KubeWorld, tmp_path: Path) -> None:
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 0
    config = world.api.kubeconfig_for(team, "ada", tmp_path)
    completed = completions(f"nodeobs run get --kubeconfig {config} fi", 5)
    assert completed == ["plain,first"]
    assert completions(f"nodeobs run start --kubeconfig {config} --node-observability cl", 6) == ["plain,cluster"]


def completions(words: str, position: int) -> list[str]:
    environ = os.environ | {"_NODEOBS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    code = "from nodeobs.cli import main; main(prog_name='nodeobs')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_kubectl_finds_its_plugin(world: KubeWorld, team: str, as_ada: Invoke, tmp_path: Path) -> None:
    assert as_ada("run", "start", "first", "--duration", "1").exit_code == 0
    environ = {
        "KUBECONFIG": str(world.api.kubeconfig_for(team, "ada", tmp_path)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    argv = [str(world.api.programs["kubectl"]), "nodeobs", "run", "list"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "first" in done.stdout


@pytest.fixture
def pod(cluster: Cluster, cluster_namespace: str, tmp_path: Path) -> Iterator[FakeService]:
    """A service with an output, as the Service ``nodeobs`` in front of a pod, which hands connections on to it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(f"nodeobs.{cluster_namespace}.svc").configure_cert(context)
    service = FakeService(tls=context, host=cluster.network.machine)
    try:
        serve_output(service)
        handing_on = ["nc", "-ll", "-p", "8443", "-e", "/bin/busybox", "nc", cluster.network.machine, str(service.port)]
        documents: list[dict[str, Any]] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "nodeobs-ca"},
                "data": {"ca.crt": authority.cert_pem.bytes().decode()},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "nodeobs"},
                "spec": {"selector": {"app": "nodeobs"}, "ports": [{"port": 443, "targetPort": 8443}]},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "nodeobs", "labels": {"app": "nodeobs"}},
                "spec": {"containers": [{"name": "nodeobs", "image": BUSYBOX, "args": handing_on}]},
            },
        ]
        everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        cluster.kubectl("apply", "-n", cluster_namespace, "-f", "-", input=everything)
        cluster.kubectl("wait", "-n", cluster_namespace, "--for=condition=Ready", "pod/nodeobs", "--timeout=90s")
        yield service
    finally:
        service.close()


def test_files_come_through_a_real_port_forward(
    cluster: Cluster, cluster_namespace: str, pod: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{cluster.programs['kubectl'].parent}{os.pathsep}{os.environ['PATH']}")
    where = ["--kubeconfig", str(cluster.admin_kubeconfig), "--service-namespace", cluster_namespace]
    result = CliRunner().invoke(main, ["pull", "nodeobs/run-1", *where], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(list(Path("run-1").rglob("*.pb.gz"))) == 6
    assert {asked.headers["Authorization"][:7] for asked in pod.asked} == {"Bearer "}
    cluster.kubectl("delete", "pod", "-n", cluster_namespace, "nodeobs", "--grace-period=1")
    gone = CliRunner().invoke(main, ["pull", "nodeobs/run-1", "--into", "again", *where], catch_exceptions=False)
    assert gone.exit_code == 6
    assert f"kubectl cannot forward a port to Service nodeobs in namespace {cluster_namespace}: " in gone.stderr
