"""What a NodeObservability stands for: the least that its targets need."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.deploy.children import agent_name, common_name
from nodeobs.kube.rbac import AGENT, rbac
from nodeobs.model import DnsName, from_builtins
from nodeobs.nodeagent.arguments import CONTAINERD_SOCKET, CRIO_SOCKET, read_settings
from tests.deploy.documents import NAMESPACE, config, made

NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?){0,5}\Z").filter(
    lambda name: len(name) <= 253
)


def pod(children: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = children["DaemonSet"]["spec"]["template"]["spec"]
    return found


def agent(children: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (found,) = pod(children)["containers"]
    return dict(found)


def settings(children: dict[str, dict[str, Any]]) -> Any:
    """What the agent makes of its command line, on a node whose address is 10.0.0.7."""
    variables = {"NODE_NAME": "node-1", "NODE_IP": "10.0.0.7", "POD_IP": "10.1.0.7"}

    def expand(text: str) -> str:
        # As a kubelet does (k8s.io/kubernetes/third_party/forked/golang/expansion).
        return re.sub(r"\$(\$|\((\w+)\))", lambda at: variables.get(at[2] or "", at[0] if at[2] else "$"), text)

    arguments = [expand(argument) for argument in agent(children)["args"]]
    environ = variables | {"KUBERNETES_SERVICE_HOST": "10.2.0.1"}
    return read_settings(arguments, environ)


@given(NAMES, NAMES)
def test_names_are_bounded_labels_and_unique(one: str, other: str) -> None:
    from_builtins(one, DnsName)
    for name in (one, other):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", agent_name(name))
    assert (agent_name(one) == agent_name(other)) == (one == other)


def test_the_one_called_cluster_has_upstreams_names() -> None:
    children = made()
    assert agent_name("cluster") == "node-observability-agent" == AGENT
    for kind in ("DaemonSet", "Service", "ServiceAccount"):
        assert children[kind]["metadata"]["name"] == AGENT
    assert pod(children)["serviceAccountName"] == AGENT


def test_all_go_with_it() -> None:
    for document in made("other", kubelet_ca="pem").values():
        (owner,) = document["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("NodeObservability", "uid-of-other", True)
        # It would need a right on the owner's finalizers, where OwnerReferencesPermissionEnforcement is on.
        assert "blockOwnerDeletion" not in owner


def test_the_service_and_the_daemon_set_select_these_agents_alone() -> None:
    children, others = made("one"), made("other")
    labels = children["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    foreign = others["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        children["Service"]["spec"]["selector"],
        children["DaemonSet"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= foreign.items()
    assert children["Service"]["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in children["Service"]["spec"]["ports"]] == [8443]


def test_the_binding_is_to_the_agents_role() -> None:
    binding = made("one")["ClusterRoleBinding"]
    roles = [
        one["metadata"]["name"] for one in rbac(namespace="x", agent_namespace="y") if one["kind"] == "ClusterRole"
    ]
    assert binding["roleRef"]["name"] in roles
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": agent_name("one"), "namespace": NAMESPACE}]


def test_an_agent_with_a_socket_is_root_without_any_capability_and_has_its_folder_only() -> None:
    children = made(given=config(openshift=True))
    assert pod(children)["securityContext"]["runAsUser"] == 0
    security = agent(children)["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seLinuxOptions"] == {"type": "spc_t"}
    (path,) = [volume["hostPath"]["path"] for volume in pod(children)["volumes"] if "hostPath" in volume]
    assert path == "/run/containerd"
    (mount,) = [mount for mount in agent(children)["volumeMounts"] if mount["name"].startswith("socket")]
    assert (mount["mountPath"], mount["readOnly"]) == (path, True)


def test_an_agent_without_a_socket_is_nobody_and_has_nothing_of_its_node() -> None:
    children = made(targets=[{"name": "kubelet"}], given=config(openshift=True))
    assert pod(children)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "seLinuxOptions" not in agent(children)["securityContext"]
    assert [volume["name"] for volume in pod(children)["volumes"]] == ["storage", "tls"]
    assert "hostNetwork" not in pod(children)


@pytest.mark.parametrize("runtimes", [(), ("crio",), ("containerd",), ("crio", "containerd")])
def test_every_agent_has_a_read_only_root_and_no_way_up(runtimes: tuple[str, ...]) -> None:
    children = made(runtimes=runtimes)
    security = agent(children)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert pod(children)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_agents_understand_their_command_line() -> None:
    found = settings(made(kubelet_ca="pem"))
    assert (found.host, found.port) == ("10.1.0.7", 8443)
    assert found.api_server.url == "https://10.2.0.1:443"
    assert {target.name for target in found.targets} == {"kubelet", "containerd"}
    kubelet = next(target for target in found.targets if target.name == "kubelet")
    assert kubelet.url == "https://10.0.0.7:10250/debug/pprof"
    assert (kubelet.server_name, kubelet.any_certificate) == ("node-1", False)
    assert not next(iter(settings(made(targets=[{"name": "kubelet"}])).targets)).ca_file


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([{"name": "crio"}], {"crio": f"unix:{CRIO_SOCKET}"}),
        ([{"name": "containerd"}], {"containerd": f"unix:{CONTAINERD_SOCKET}"}),
        ([{"name": "crio", "socket": "/run/crio/other.sock"}], {"crio": "unix:/run/crio/other.sock"}),
        ([{"name": "own", "socket": "/run/crio/a=b.sock"}], {"own": "unix:/run/crio/a=b.sock"}),
        ([{"name": "etcd", "url": "https://$(NODE_IP):2379/debug/pprof"}], {"etcd": "https://10.0.0.7:2379"}),
        ([{"name": "kubelet", "url": "https://$(NODE_IP):10250/"}], {"kubelet": "https://10.0.0.7:10250"}),
        ([{"name": "crio", "url": "http://$(NODE_IP):9"}], {"crio": "http://10.0.0.7:9"}),
        ([{"name": "kubelet", "socket": "/run/crio/k.sock"}], {"kubelet": "unix:/run/crio/k.sock"}),
    ],
)
def test_what_is_listed_is_what_an_agent_profiles(targets: list[dict[str, str]], expected: dict[str, str]) -> None:
    assert {target.name: target.endpoint for target in settings(made(targets=targets)).targets} == expected


def test_no_variable_but_the_nodes_address_is_put_into_a_target() -> None:
    children = made(targets=[{"name": "own", "socket": "/run/crio/$(POD_IP)-$(NODE_NAME)-$$.sock"}])
    (target,) = settings(children).targets
    assert target.endpoint == "unix:/run/crio/$(POD_IP)-$(NODE_NAME)-$$.sock"


def test_where_runtimes_differ_both_folders_are_there_and_the_agent_looks() -> None:
    children = made(runtimes=("crio", "containerd"))
    folders = [volume["hostPath"]["path"] for volume in pod(children)["volumes"] if "hostPath" in volume]
    assert sorted(folders) == sorted(str(socket.parent) for socket in (CONTAINERD_SOCKET, CRIO_SOCKET))
    assert not [one for one in agent(children)["args"] if one.startswith(("--crio-socket", "--containerd-socket"))]


def test_the_certificate_is_for_the_service_and_for_what_all_agents_are_called() -> None:
    secret = made("other")["Secret"]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    listed = names.get_values_for_type(x509.DNSName)
    assert listed[0] == f"{agent_name('other')}.{NAMESPACE}.svc"
    assert common_name(NAMESPACE) in listed
    volume = next(one for one in pod(made("other"))["volumes"] if one["name"] == "tls")
    assert [item["key"] for item in volume["secret"]["items"]] == ["tls.crt", "tls.key"]


def test_loopback_needs_the_nodes_network_and_gets_it_where_it_is_allowed() -> None:
    target = {"name": "proxy", "url": "http://127.0.0.1:10249"}
    allowed = config(url_hosts=("127.0.0.1",), host_network=True)
    found = pod(made(targets=[target], given=allowed))
    assert (found["hostNetwork"], found["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert "hostNetwork" not in pod(made(given=allowed))


def test_what_whoever_installs_decides_is_in_the_daemon_set() -> None:
    decided = config(image_pull_secrets=("registry",), storage_bytes=1 << 30)
    children = made(given=decided)
    found = pod(children)
    assert f"--max-bytes={1 << 30}" in agent(children)["args"]
    (storage,) = [volume["emptyDir"] for volume in found["volumes"] if volume["name"] == "storage"]
    assert storage == {"sizeLimit": "1344Mi"}
    assert children["ServiceAccount"]["imagePullSecrets"] == [{"name": "registry"}]


def test_what_the_nodeobservability_says_of_its_agents_is_in_the_daemon_set() -> None:
    equal = {"key": "b", "operator": "Equal", "value": "c", "tolerationSeconds": 5}
    tolerations = [{"key": "a", "operator": "Exists"}, equal]
    children = made(
        nodeSelector={"role": "worker"},
        priorityClassName="system-node-critical",
        tolerations=tolerations,
        resources={"limits": {"memory": "1Gi"}},
    )
    found = pod(children)
    assert found["priorityClassName"] == "system-node-critical"
    assert found["tolerations"] == tolerations
    assert found["nodeSelector"] == {"role": "worker", "kubernetes.io/os": "linux"}
    requests = {"cpu": "10m", "memory": "64Mi"}
    assert agent(children)["resources"] == {"requests": requests, "limits": {"memory": "1Gi"}}


def test_what_it_does_not_say_has_defaults() -> None:
    children = made()
    assert pod(children)["tolerations"] == [{"operator": "Exists"}]
    assert "priorityClassName" not in pod(children)
    assert agent(children)["resources"]["limits"] == {"memory": "256Mi"}
