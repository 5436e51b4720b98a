"""The lab in its large size: what other tests rely on."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cluster.test_lab import killed_while_in
from tests.lab import kept, place
from tests.lab.cluster import Cluster, cluster_of
from tests.lab.images import BUSYBOX
from tests.lab.node import DEBUG_SOCKET
from tests.processes import ROOT, wait_for

pytestmark = pytest.mark.cluster

SERVE = "/bin/busybox mkdir /www; echo hello > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www"


def test_all_nodes_are_ready(cluster: Cluster) -> None:
    assert cluster.ready_nodes() == {"node-1", "node-2", "node-3"} == {node.name for node in cluster.nodes}


def test_a_pod_runs_and_it_and_its_service_can_be_reached_from_here(cluster: Cluster, cluster_namespace: str) -> None:
    start_web(cluster, cluster_namespace, node="node-2")
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    create(cluster, cluster_namespace, {"apiVersion": "v1", "kind": "Service", "spec": service}, name="web")
    address = cluster.kubectl("get", "pod", "web", "-n", cluster_namespace, "-o", "jsonpath={.status.podIP}")
    assert wait_for("the pod answers", lambda: body(f"http://{address}:8080/")) == "hello\n"
    address = cluster.kubectl("get", "service", "web", "-n", cluster_namespace, "-o", "jsonpath={.spec.clusterIP}")
    assert wait_for("the Service answers", lambda: body(f"http://{address}/")) == "hello\n"
    # From inside: the node's own kube-proxy, back to a pod of the same node, by a name that CoreDNS knows.
    fetch = ["/bin/busybox", "wget", "-qO-", f"http://web.{cluster_namespace}.svc.cluster.local/"]
    assert cluster.kubectl("exec", "web", "-n", cluster_namespace, "--", *fetch) == "hello\n"


def test_a_kubelets_profiles_need_the_right_to_them(cluster: Cluster, cluster_namespace: str) -> None:
    cluster.kubectl("create", "serviceaccount", "agent", "-n", cluster_namespace)
    token = cluster.token(cluster_namespace, "agent")
    node = cluster.nodes[1]

    def status(token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"https://{node.ip}:10250/debug/pprof/cmdline"
        return httpx.get(url, headers=headers, verify=False, trust_env=False).status_code

    assert status() == 401
    assert status(token) == 403
    user = f"system:serviceaccount:{cluster_namespace}:agent"
    with cluster_role(cluster, cluster_namespace, user):
        wait_for("the kubelet lets the agent in", lambda: status(token) == 200, seconds=90, every=0.5)


def test_one_kubelet_has_a_certificate_of_the_authority_with_its_name_and_the_others_their_own(
    cluster: Cluster,
) -> None:
    context = ssl.create_default_context(cafile=str(cluster.ca_file))

    def handshake(number: int, name: str) -> None:
        with httpx.Client(verify=context, trust_env=False) as client:
            url = f"https://{cluster.nodes[number - 1].ip}:10250/healthz"
            client.get(url, extensions={"sni_hostname": name})

    handshake(1, "node-1")
    with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
        handshake(1, cluster.nodes[0].ip)
    with pytest.raises(httpx.ConnectError, match="self-signed certificate in certificate chain"):
        handshake(2, "node-2")


def test_a_program_in_a_node_sees_the_node(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[2]
    code = (
        "import httpx, os\n"
        f"socket = httpx.Client(transport=httpx.HTTPTransport(uds={DEBUG_SOCKET!r}))\n"
        "print(os.environ['NODE_NAME'], os.environ['NODE_IP'], socket.get('http://c/debug/pprof/cmdline').text[:10])"
    )
    program = node.run("look", [sys.executable, "-c", code])
    assert program.process.wait(30) == 0, program.said()
    assert program.said().split() == ["node-3", node.ip, "containerd"]


def test_a_program_in_a_node_gets_the_signals_itself(cluster: Cluster) -> None:
    told = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('on', flush=True)"
    program = cluster.nodes[0].run("signalled", [sys.executable, "-c", f"{told}; time.sleep(99)"])
    program.wait_until("it is on", lambda: program.said())
    program.terminate()
    assert program.process.returncode == 7


def test_a_kubelet_hangs_goes_on_stops_and_starts(cluster: Cluster) -> None:
    node = cluster.nodes[2]

    def answers() -> bool:
        try:
            return httpx.get(f"https://{node.ip}:10250/healthz", verify=False, trust_env=False, timeout=2).is_error
        except httpx.TransportError:
            return False

    assert answers()
    node.kubelet.pause()
    assert not answers()
    node.kubelet.resume()
    assert answers()
    node.stop_kubelet()
    assert not answers()
    node.start_kubelet()
    wait_for("the kubelet answers", answers)
    wait_for("the node is Ready", lambda: node.name in cluster.ready_nodes())


def test_a_cluster_leaves_nothing_and_removes_what_a_killed_run_left(cluster: Cluster, tmp_path: Path) -> None:
    folder, processes = killed_while_in("tests.lab.cluster", "cluster_of(1)", tmp_path)
    with cluster_of(1) as other:
        assert not processes & set(place.started_in(folder))
        assert other.network.nodes != cluster.network.nodes
        assert other.ready_nodes() == {"node-1"}
        other.add_namespace("n")
        start_web(other, "n", node="node-1")
        started = set(place.started_in(other.folder)) | everything_below(other.nodes[0].init)
        index = other.folder.name
    assert not other.folder.exists()
    assert not traces(index)
    assert not [pid for pid in started if is_running(pid)]
    assert cluster.ready_nodes() == {node.name for node in cluster.nodes}


def test_a_cluster_for_a_person_stays_until_it_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    if kept.find() is not None:
        pytest.skip("somebody has a cluster running: make cluster-down ends it")
    said = lab("up", "--nodes", "1")
    try:
        made = kept.find()
        assert made is not None
        assert f"export KUBECONFIG={made.kubeconfig}" in said
        assert "there is a cluster already" in lab("up", "--nodes", "1", fails=True)
        kubectl = [str(made.programs / "kubectl"), "--kubeconfig", str(made.kubeconfig), "get", "nodes"]
        assert "Ready" in subprocess.run(kubectl, capture_output=True, text=True, check=True).stdout
        lab("load", str(cluster.folder / "busybox.tar"))
        assert BUSYBOX in lab("enter", "node-1", "ctr", "-n", "k8s.io", "images", "list")
        assert lab("enter", "control-plane", "echo", "here") == "here\n"
        assert "only control-plane, node-1" in lab("enter", "node-7", fails=True)
    finally:
        assert "removed" in lab("down")
    assert kept.find() is None
    assert not made.folder.exists()
    assert not traces(made.folder.name)


def start_web(cluster: Cluster, namespace: str, *, node: str) -> None:
    """A pod that serves ``hello`` on port 8080, Ready."""
    container = {"name": "web", "image": BUSYBOX, "command": ["/bin/busybox", "sh", "-c", SERVE]}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    create(cluster, namespace, {"apiVersion": "v1", "kind": "Pod", "spec": spec}, name="web")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "-n", namespace, "--timeout=90s")


def create(cluster: Cluster, namespace: str, document: dict[str, object], *, name: str) -> None:
    metadata = {"name": name, "labels": {"app": name}}
    cluster.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps({**document, "metadata": metadata}))


@contextmanager
def cluster_role(cluster: Cluster, name: str, user: str) -> Iterator[None]:
    """The right to ``nodes/proxy`` for that user."""
    cluster.kubectl("create", "clusterrole", name, "--verb=get", "--resource=nodes/proxy")
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={user}")
    try:
        yield
    finally:
        cluster.kubectl("delete", f"clusterrole/{name}", f"clusterrolebinding/{name}")


def body(url: str) -> str | None:
    try:
        return httpx.get(url, trust_env=False, timeout=2).text
    except httpx.TransportError:
        return None


def traces(index: str = "") -> set[str]:
    """What clusters, or the one with this index, have on this machine outside their folder."""
    links = {path.name for path in Path("/sys/class/net").glob(f"nodeobs{index or '*'}")}
    cgroups = {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/nodeobs-cluster-{index or '*'}-*")}
    mounts = Path("/proc/self/mountinfo").read_text()
    return links | cgroups | ({"mounts"} if f"/nodeobs-cluster-{os.getuid()}/{index}" in mounts else set())


def everything_below(pid: int) -> set[int]:
    """A process and all that came from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(everything_below(int(child)) for child in children))


def is_running(pid: int) -> bool:
    """Whether the process is there, and not just waited for by nobody (as zombies, which have no command line)."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def lab(*arguments: str, fails: bool = False) -> str:
    argv = [sys.executable, "-m", "tests.lab", *arguments]
    # A pipe, as in `make cluster | tee`: it ends when the command does, whatever stays.
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, timeout=200, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout
