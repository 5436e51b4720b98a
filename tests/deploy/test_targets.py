"""Which targets agents get, and which they do not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.targets import SOCKETS, Targets, choose
from nodeobs.errors import ConfigurationError
from nodeobs.nodeagent.arguments import CONTAINERD_SOCKET, CRIO_SOCKET
from tests.deploy.documents import config, observability


def chosen(*targets: dict[str, Any], runtimes: tuple[str, ...] = (), given: DeployConfig | None = None) -> Targets:
    return choose(observability(targets=list(targets)).spec, runtimes=runtimes, config=given or config())


def test_the_runtimes_sockets_are_where_the_agent_looks() -> None:
    assert {"crio": str(CRIO_SOCKET), "containerd": str(CONTAINERD_SOCKET)} == SOCKETS


@pytest.mark.parametrize("runtimes", [(), ("crio",), ("containerd",), ("containerd", "crio")])
def test_by_default_the_kubelet_and_what_the_nodes_report(runtimes: tuple[str, ...]) -> None:
    found = chosen(runtimes=runtimes)
    assert found.names == ("kubelet", *runtimes)
    assert not found.problems
    assert not found.notes


def test_a_runtime_whose_folder_is_not_allowed_is_left_out_and_named() -> None:
    found = chosen(runtimes=("containerd", "crio"), given=config(socket_folders=("/run/crio",)))
    assert found.names == ("kubelet", "crio")
    assert "--containerd-socket=" in found.arguments
    (note,) = found.notes
    assert note.startswith("containerd is not profiled: the folder of its socket /run/containerd/debug.sock")


@pytest.mark.parametrize(
    "socket",
    [
        "/run/docker.sock",
        "/run/containerd/../docker/docker.sock",
        "/run/containerd/deeper/debug.sock",
        "/run/debug.sock",
        "/debug.sock",
        "/run/containerd-other/debug.sock",
    ],
)
def test_a_socket_elsewhere_is_not_deployed(socket: str) -> None:
    found = chosen({"name": "kubelet"}, {"name": "own", "socket": socket})
    assert found.names == ("kubelet",)
    assert found.folders == ()
    (problem,) = found.problems
    assert problem.startswith(f"target own is not deployed: the folder of its socket {socket} is not among those")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            "https://etcd.example:2379",
            "its url's host etcd.example is not among those that agents may ask ($(NODE_IP))",
        ),
        ("https://$(NODE_IP).evil.example", "its url's host $(node_ip).evil.example is not"),
        ("https://$(POD_IP):1", "its url's host $(pod_ip) is not"),
        ("https://169.254.169.254", "its url's host 169.254.169.254 is not"),
        ("https://[::1", "its url cannot be read"),
        ("http://127.0.0.1:1", "127.0.0.1 is the node's loopback"),
        ("http://localhost:1", "localhost is the node's loopback"),
    ],
)
def test_a_url_elsewhere_is_not_deployed(url: str, why: str) -> None:
    allowed = ("$(NODE_IP)",) if "loopback" not in why else ("localhost", "127.0.0.1")
    found = chosen({"name": "own", "url": url}, given=config(url_hosts=allowed))
    assert found.names == ()
    (problem,) = found.problems
    assert problem.startswith(f"target own is not deployed: {why}")


def test_hosts_are_compared_as_host_names_are() -> None:
    found = chosen({"name": "etcd", "url": "https://ETCD.example:1"}, given=config(url_hosts=("etcd.Example",)))
    assert found.arguments[-1] == "--target=etcd=https://ETCD.example:1"


def test_only_the_runtimes_and_the_kubelet_need_no_address() -> None:
    (problem,) = chosen({"name": "own"}).problems
    assert problem.startswith("target own is not deployed: it has neither url nor socket")


@pytest.mark.parametrize("folder", ["/", "/run", "/var/run", "run/containerd", "/run/../etc/x", ""])
def test_no_agent_is_given_a_whole_top_folder(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a whole path such as /run/containerd"):
        config(socket_folders=(folder,))


FOLDERS = st.lists(st.sampled_from(["run", "var", "crio", "containerd", "..", ".", "", "etc"]), max_size=5)


@given(FOLDERS)
def test_nothing_but_allowed_folders_is_ever_mounted(steps: list[str]) -> None:
    found = chosen({"name": "own", "socket": "/" + "/".join([*steps, "x.sock"])})
    assert set(found.folders) <= {"/run/containerd", "/run/crio", "/var/run/crio", "/var/run/containerd"}
    assert len(found.names) + len(found.problems) == 1


@pytest.mark.parametrize("url", ["https://$(NODE_IP):31234", "https://$(NODE_IP)", "http://$(NODE_IP):31234/x"])
def test_the_kubelets_token_goes_to_no_other_port_of_the_node(url: str) -> None:
    found = chosen({"name": "kubelet", "url": url})
    assert found.names == ()
    assert "its url's port must be 10250" in found.problems[0]
    assert chosen({"name": "other", "url": url}).names == ("other",)
