"""A NodeObservability becomes agents: its children at the real API server, kept with the least rights."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodeobs.agents.reload import read_authority
from nodeobs.agents.rosters import ClusterRosters
from nodeobs.deploy.certificates import AgentAuthorities
from nodeobs.deploy.children import PATHS, agent_name, common_name
from nodeobs.errors import AlreadyExists, NodeobsError
from nodeobs.kube import identity
from nodeobs.kube.authority import KEPT_FOR, LIFETIME, PUBLISHED_FOR, RENEW_BEFORE
from nodeobs.kube.crds import Webhook
from nodeobs.kube.manifests import Part, manifests
from nodeobs.kube.paths import CONFIG_MAPS, ENDPOINT_SLICES, OBSERVABILITIES, PODS, ResourcePath
from nodeobs.kube.rbac import Features
from tests.cluster.deploying import Deploying
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

NAME = "node-observability-agent"
NAMESPACES = ResourcePath("/api/v1", "namespaces")
KINDS = ("ServiceAccount", "Secret", "Service", "DaemonSet")


@pytest.fixture
def world(api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Deploying]:
    with closing(Deploying(api_server, namespace, tmp_path)) as made:
        yield made


def container(daemon_set: dict[str, Any]) -> dict[str, Any]:
    (found,) = daemon_set["spec"]["template"]["spec"]["containers"]
    return dict(found)


def settled(world: Deploying) -> list[tuple[str, str]]:
    """What was written, once nothing more is."""
    before: list[tuple[str, str]] = []

    def steady() -> bool:
        nonlocal before
        now = world.writes()
        same, before = now == before, now
        return same

    wait_for("nothing more is written", steady, seconds=40, every=3.0)
    return before


def test_it_becomes_agents_and_nothing_is_written_again(world: Deploying) -> None:
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    found = world.wait_ready("Ready")
    assert found["status"] == "True"
    assert found["message"].startswith("agents are ready on 1 of 1 nodes. the certificates of the kubelets")
    status = world.status()
    assert (status["count"], status["targets"]) == (1, ["kubelet", "containerd"])
    assert status["observedGeneration"] == 1
    for kind in KINDS:
        made = world.child(kind, f"{NAME}-tls" if kind == "Secret" else NAME)
        assert made is not None, kind
        assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == ["cluster"]
    assert world.child("ClusterRoleBinding", f"nodeobs-agent:{world.namespace}:{NAME}") is not None
    written = settled(world)
    assert sorted({verb for verb, _ in written}) == ["patch", "update"]
    assert len([path for verb, path in written if verb == "patch"]) == 5, written
    # Another leader finds all as it should be, and from then on is told what changes.
    world.stop()
    world.start()
    assert settled(world) == written
    asked = world.asked()
    status = world.status()
    time.sleep(8)  # rounds go on: what waits is tried every five seconds
    assert world.asked() == asked
    assert world.status() == status


def test_what_others_change_is_put_right_and_what_they_add_stays(world: Deploying) -> None:
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    world.wait_ready("Ready")
    daemon_set, service = world.at("DaemonSet", NAME), world.at("Service", NAME)
    world.patch(daemon_set, {"metadata": {"annotations": {"own": "yes"}, "labels": {"team": "a"}}})
    written = settled(world)
    change = {"spec": {"template": {"spec": {"tolerations": None, "nodeSelector": {"kubernetes.io/os": "windows"}}}}}
    world.patch(daemon_set, change)
    world.admin.request("DELETE", service)
    secret = world.child("Secret", f"{NAME}-tls")
    world.admin.request("DELETE", world.at("Secret", f"{NAME}-tls"))
    world.patch(world.at("ServiceAccount", NAME), {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}})

    def mended() -> bool:
        found = world.child("DaemonSet")
        spec = found["spec"]["template"]["spec"] if found else {}
        return "tolerations" in spec and spec["nodeSelector"]["kubernetes.io/os"] == "linux"

    wait_for("the DaemonSet is put right", mended)
    world.wait_child("Service")
    restored = world.wait_child("Secret", f"{NAME}-tls")
    assert secret is not None
    assert restored["data"] == secret["data"], "agents that run have its certificate"
    label = "app.kubernetes.io/managed-by"
    wait_for("the label is back", lambda: world.wait_child("ServiceAccount")["metadata"]["labels"][label] == "nodeobs")
    found = world.wait_child("DaemonSet")["metadata"]
    assert (found["annotations"]["own"], found["labels"]["team"]) == ("yes", "a")
    more = [path for verb, path in settled(world)[len(written) :] if verb == "patch"]
    assert sorted(more) == sorted(
        [daemon_set, service, world.at("Secret", f"{NAME}-tls"), world.at("ServiceAccount", NAME)]
    )


def test_a_change_waits_for_a_run_that_has_agents(world: Deploying) -> None:
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    world.wait_ready("Ready")
    world.run("not-yet", "Pending")
    run = world.run("going", "Running")
    world.run("elsewhere", "Running", parent="other")
    world.change(targets=[{"name": "kubelet"}])
    world.wait_ready("Progressing", f"a change of the agents waits until Run {world.namespace}/going is over")
    assert container(world.wait_child("DaemonSet"))["args"][-1] != "--containerd-socket="
    world.patch(f"{run}/status", {"status": {"phase": "Succeeded"}})
    wait_for(
        "the change is made", lambda: container(world.wait_child("DaemonSet"))["args"][-1] == "--containerd-socket="
    )
    world.roll_out()
    world.wait_ready("Ready")
    assert world.status()["targets"] == ["kubelet"]


def test_it_says_what_is_missing(world: Deploying) -> None:
    one, two = world.node("a"), world.node("b")
    world.node("asleep", ready=False)
    world.observability(targets=[{"name": "kubelet"}, {"name": "etcd", "url": "https://elsewhere.example"}])
    world.start()
    made = world.wait_child("DaemonSet")
    world.wait_ready("Failed", f"{one}: has no pod of the DaemonSet yet; {two}: has no pod")
    assert "target etcd is not deployed: its url's host elsewhere.example is not among" in world.ready()["message"]
    world.change(targets=[{"name": "kubelet"}])
    world.roll_out()
    status = {"name": "agent", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    world.pod(made, two, ready=False, containerStatuses=[status | {"state": waiting}])
    found = world.wait_ready("Progressing", "no such image")
    assert found["message"].startswith(f"agents are ready on 2 of 3 nodes; {two}: its pod ")
    assert world.status()["count"] == 2
    assert "asleep" not in found["message"]


def test_two_live_side_by_side_and_say_where_they_meet(world: Deploying) -> None:
    shared = world.node("a")
    world.node("b", only="one")
    world.observability()
    world.observability("other.name")
    world.observability("third", nodeSelector={"test": world.namespace, "only": "one"})
    world.start()
    for name in ("cluster", "other.name"):
        world.roll_out(name)
    found = world.wait_ready("Ready", name="other.name")["message"]
    assert f"NodeObservability cluster selects {shared}; b-" in found
    assert "Runs of both at once can fail there with ProfilerInUse" in found
    agents = agent_name("other.name")
    selectors = [world.wait_child("Service", name)["spec"]["selector"] for name in (NAME, agents)]
    assert selectors[0] != selectors[1]
    assert world.child("Secret", f"{agents}-tls") is not None
    assert world.status("third")["conditions"][0]["reason"] == "Progressing"


def test_each_has_the_agents_of_its_own_service(world: Deploying) -> None:
    node = world.node("a")
    other = agent_name("other")
    for service, address in ((NAME, "10.1.0.1"), (other, "10.1.0.2")):
        slices = {
            "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "nodeName": node, "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        }
        world.create(ENDPOINT_SLICES.collection(world.namespace), slices)
    rosters = ClusterRosters(world.admin, namespace=world.namespace, service_of=agent_name)
    found = {name: next(one for one in rosters.agents(name) if one.name == node) for name in ("cluster", "other")}
    assert {name: agent.host for name, agent in found.items()} == {"cluster": "10.1.0.1", "other": "10.1.0.2"}
    for agent in found.values():
        assert rosters.locate(agent) == agent


def test_runtimes_that_differ_have_both_folders(world: Deploying) -> None:
    world.node("a")
    world.observability()
    world.start()
    world.wait_child("DaemonSet")
    world.node("b", runtime="cri-o://1.33.0")

    def folders() -> list[str]:
        volumes = world.wait_child("DaemonSet")["spec"]["template"]["spec"]["volumes"]
        return [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume]

    wait_for("both folders are there", lambda: folders() == ["/run/containerd", "/var/run/crio"])
    wait_for("both are targets", lambda: world.status()["targets"] == ["kubelet", "containerd", "crio"])


def test_through_the_api_server_there_are_no_agents(world: Deploying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_LACKED_SECONDS", 0.0)
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    world.wait_ready("Ready")
    run = world.run("going", "Retrieving")
    world.change(via="apiServer")
    world.wait_ready("Failed", "a change of the agents waits until Run")
    assert world.child("DaemonSet") is not None
    world.admin.request("DELETE", run)
    world.wait_ready("Failed", "nodes/proxy")
    world.grant(Features(via_api_server=True))
    world.wait_ready("Ready", "the kubelets of 1 nodes are profiled through the API server, without agents")
    assert (world.status()["count"], world.status()["targets"]) == (0, ["kubelet"])
    for kind in KINDS:
        wait_gone(world, kind, f"{NAME}-tls" if kind == "Secret" else NAME)
    world.change(via="agents")
    world.wait_child("DaemonSet")
    world.change(type="scripting")
    world.wait_ready("Failed", "type scripting is not supported: these agents run no scripts")
    wait_gone(world, "DaemonSet", NAME)


def test_openshifts_authority_is_copied_and_followed(world: Deploying) -> None:
    world.node("a")
    with openshift(world, "first"):
        world.observability()
        world.start(openshift=True)
        world.roll_out()
        assert "not verified" not in world.wait_ready("Ready")["message"]
        name = f"{NAME}-kubelet-ca"
        assert world.wait_child("ConfigMap", name)["data"] == {"ca-bundle.crt": "first"}
        made = world.wait_child("DaemonSet")
        assert "--kubelet-ca-file=/etc/nodeobs/kubelet-ca/ca.crt" in container(made)["args"]
        path = CONFIG_MAPS.item("kubelet-serving-ca", "openshift-config-managed")
        world.patch(path, {"data": {"ca-bundle.crt": "second"}})
        wait_for("it is copied", lambda: world.wait_child("ConfigMap", name)["data"] == {"ca-bundle.crt": "second"})
        # Agents read it again for each profile.
        assert world.wait_child("DaemonSet")["metadata"]["generation"] == made["metadata"]["generation"]
        written = settled(world)
        world.patch(path, {"data": None})
        assert settled(world) == written, "agents do not take any certificate while it is away"


def test_elsewhere_the_authority_is_as_configured(world: Deploying) -> None:
    world.node("a")
    file = world.folder / "kubelet-ca.crt"
    world.observability()
    world.start(kubelet_ca_file=file)
    world.wait_ready("Failed", f"the authority of the kubelets' certificates cannot be read from {file}")
    file.write_text("\n")
    world.wait_ready("Failed", f"the authority of the kubelets' certificates is not in {file}")
    assert world.child("DaemonSet") is None, "no agent may take any certificate for want of it"
    file.write_text("own")
    assert world.wait_child("ConfigMap", f"{NAME}-kubelet-ca")["data"] == {"ca-bundle.crt": "own"}
    world.wait_ready("Progressing")
    world.roll_out()
    world.wait_ready("Ready")
    file.unlink()
    world.admin.request("DELETE", world.at("Service", NAME))
    world.wait_child("Service")
    found = world.wait_ready("Failed", f"the authority of the kubelets' certificates cannot be read from {file}")
    assert "has no pod" not in found["message"]
    assert world.status()["count"] == 1, "those that run are there all the same"


def test_somebody_elses_object_is_left_alone(world: Deploying) -> None:
    world.node("a")
    world.create(PATHS["ServiceAccount"].collection(world.namespace), {"metadata": {"name": NAME}})
    world.observability()
    world.start()
    found = world.wait_ready("Failed", f"ServiceAccount {NAME} cannot be written: somebody else's object has its name")
    assert "delete or rename that one" in found["message"]
    assert "ownerReferences" not in world.wait_child("ServiceAccount")["metadata"]
    world.admin.request("DELETE", world.at("ServiceAccount", NAME))
    world.roll_out()
    world.wait_ready("Ready")


def test_what_the_manifests_made_is_taken_over(world: Deploying) -> None:
    documents = manifests(
        namespace="nodeobs",
        agent_namespace=world.namespace,
        webhook=Webhook(),
        parts=[Part.SERVICES],
        features=Features(deploy_agents=False),
    )
    world.create(PATHS["Service"].collection(world.namespace), documents[1])
    world.node("a")
    world.observability()
    world.start()
    world.roll_out()
    world.wait_ready("Ready")
    service = world.wait_child("Service")
    assert service["spec"]["selector"]["app.kubernetes.io/instance"] == NAME
    assert service["metadata"]["ownerReferences"]


def test_what_the_api_server_refuses_is_told(world: Deploying) -> None:
    world.node("a")
    world.observability(nodeSelector={"no label": "x"})
    world.start()
    world.wait_ready("Failed", "DaemonSet node-observability-agent cannot be written: ")
    assert "no label" in world.ready()["message"]
    refused = [one for one in world.api.requests(world.user) if one.verb == "patch" and "daemonsets" in one.uri]
    assert len(refused) <= 2, "it is not tried again and again"


def test_a_pod_of_a_kubelets_agent_is_restricted_and_the_other_is_not(world: Deploying) -> None:
    world.node("a")
    world.observability(targets=[{"name": "kubelet"}])
    world.observability("with-socket")
    world.start()
    kubelets, socket = world.wait_child("DaemonSet"), world.wait_child("DaemonSet", agent_name("with-socket"))
    world.patch(
        NAMESPACES.item(world.namespace), {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )

    def dry_run(daemon_set: dict[str, Any]) -> None:
        template = daemon_set["spec"]["template"]
        pod = {"metadata": {"name": "tried", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
        world.admin.request("POST", PODS.collection(world.namespace), pod, params={"dryRun": "All"})

    def enforced() -> bool:
        try:
            dry_run(socket)
        except NodeobsError as error:
            return "violates PodSecurity" in str(error)
        return False

    wait_for("pod security is enforced", enforced)
    dry_run(kubelets)


def test_every_option_is_a_daemon_set_that_the_api_server_takes_and_finds_unchanged(world: Deploying) -> None:
    world.node("a")
    world.observability(
        targets=[{"name": "kubelet"}, {"name": "crio"}, {"name": "loop", "url": "http://127.0.0.1:1"}],
        priorityClassName="system-node-critical",
        tolerations=[{"key": "a", "operator": "Exists", "value": "", "effect": ""}, {"operator": "Exists"}],
        resources={"requests": {"cpu": "0.1", "memory": "0.5Gi"}, "limits": {"memory": "1024Mi"}},
    )
    with openshift(world, "authority"):
        world.start(
            host_network=True, url_hosts=("127.0.0.1",), openshift=True, image_pull_secrets=("registry", "another")
        )
        world.wait_child("DaemonSet")
        world.wait_ready("Progressing", "has no pod of the DaemonSet yet")
        assert len([path for verb, path in settled(world) if path == world.at("DaemonSet", NAME)]) == 1
        world.stop()


def test_the_certificate_is_renewed_and_callers_trust_it_all_along(world: Deploying) -> None:
    world.node("a")
    world.observability()
    steps = (timedelta(), LIFETIME - RENEW_BEFORE, PUBLISHED_FOR, KEPT_FOR)
    world.time -= sum(steps, timedelta())  # so that what is made at the end is valid today
    file = world.folder / "ca" / "agents.pem"
    authorities = AgentAuthorities(
        world.client, namespace=world.namespace, file=file, now=lambda: world.time, randomness=Random(2)
    )
    read_authority(file)  # there is one at once, which nobody's certificate is of
    nobody = file.read_bytes()
    authorities.start()
    try:
        world.start()
        served = []
        for passed in steps:
            world.stop()
            world.time += passed
            world.start()
            wait_for("the step is taken", lambda: since(world) == world.time)
            pair = secret_data(world)
            wait_for("callers have the authorities", lambda: file.read_bytes() == secret_data(world)["ca.crt"])
            handshake(pair, file, common_name(world.namespace), world.folder)
            served.append(pair["tls.crt"])
        assert served[0] == served[1] != served[2] == served[3]
        world.admin.request("DELETE", OBSERVABILITIES.item("cluster"))
        world.stop()
        world.admin.request("DELETE", world.at("Secret", f"{NAME}-tls"))
        wait_for("nobody is trusted", lambda: file.read_bytes() == nobody)
    finally:
        authorities.close()


def wait_gone(world: Deploying, kind: str, name: str) -> None:
    wait_for(f"{kind} {name} is gone", lambda: world.child(kind, name) is None)


def since(world: Deploying) -> datetime:
    return datetime.fromisoformat(secret_data(world)["since"].decode())


def secret_data(world: Deploying) -> dict[str, bytes]:
    found = world.wait_child("Secret", f"{NAME}-tls")
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


def handshake(pair: dict[str, bytes], authorities: Path, name: str, folder: Path) -> None:
    """Fails where a caller with these authorities does not take that certificate for one of that name."""
    file = folder / "pair.pem"
    file.write_bytes(pair["tls.key"] + pair["tls.crt"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    calling = read_authority(authorities)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(into, out, server_side=True)
    client = calling.wrap_bio(out, into, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.getpeercert()


@contextmanager
def openshift(world: Deploying, authority: str) -> Iterator[None]:
    """Have what OpenShift has of its kubelets' certificates."""
    namespace, name = "openshift-config-managed", "kubelet-serving-ca"
    with suppress(AlreadyExists):
        world.create(NAMESPACES.collection(), {"metadata": {"name": namespace}})
    world.grant(Features(openshift=True))
    path = CONFIG_MAPS.collection(namespace)
    world.create(path, {"metadata": {"name": name}, "data": {"ca-bundle.crt": authority}})
    try:
        yield
    finally:
        world.admin.request("DELETE", CONFIG_MAPS.item(name, namespace))
