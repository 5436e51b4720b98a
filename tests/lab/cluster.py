"""The large size of a lab: a control plane and nodes that run pods. Needs root and Linux."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.lab import apiserver, place
from tests.lab.apiserver import ApiServer, Listen
from tests.lab.errors import LabError, Missing
from tests.lab.images import write_busybox
from tests.lab.network import MAX_NODES, Network, within
from tests.lab.node import Node, Site, kube_proxy
from tests.lab.pki import Authority
from tests.lab.place import Place
from tests.lab.programs import need
from tests.processes import Program, wait_for

KIND: Final = "cluster"
CNI: Final = Path("/usr/lib/cni")
PROGRAMS: Final = (
    *apiserver.PROGRAMS,
    *("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"),
    *("containerd", "ctr", "runc", "busybox", "ip", "iptables", "nsenter", "unshare"),
)


class Cluster(ApiServer):
    """A cluster with its controllers, all nodes Ready once it is made. All its addresses can be reached from here.

    Only ``node-1`` has a kubelet with a certificate of the cluster's authority, with the node's name alone in it; the
    others sign their own.
    """

    def __init__(self, here: Place, nodes: int, programs: Mapping[str, Path]) -> None:
        self.network = Network(here.index)
        self.control_plane_pid = _namespace(here)
        self.network.connect_machine(self.control_plane_pid)
        at = self.network.control_plane
        authority = Authority(here.folder / "pki")
        kubelet_client = authority.issue(*["kubelet-client"] * 2, common_name="kubelet-client", group="system:masters")
        super().__init__(
            here,
            authority,
            Listen(at, api=6443, etcd=2379, peer=2380, services=self.network.services),
            programs,
            flags=[
                "--enable-admission-plugins=NodeRestriction",
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={kubelet_client.certificate}",
                f"--kubelet-client-key={kubelet_client.key}",
            ],
            prefix=within(self.control_plane_pid),
        )
        self._start_controllers()
        self.nodes = self._start_nodes(nodes)

    def spawn(self, name: str, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Program:
        """Start a program in the control plane's network, at ``network.control_plane``; the caller ends it."""
        return self._here.start(name, [*within(self.control_plane_pid), *argv], environ)

    def add_namespace(self, name: str) -> None:
        """Create a namespace; pods can be created in it when this returns."""
        super().add_namespace(name)
        path = f"/api/v1/namespaces/{name}/serviceaccounts"
        wait_for(f"namespace {name} has its ServiceAccount", lambda: json.loads(self._client.get(path))["items"])

    def load_image(self, image: Path) -> None:
        """Import an image (a docker or OCI archive) on every node.

        Raises:
            LabError: it cannot be imported.
        """
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.load(image), self.nodes))

    def ready_nodes(self) -> set[str]:
        """Names of the nodes that are Ready."""
        ready = set()
        for node in json.loads(self._client.get("/api/v1/nodes"))["items"]:
            conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
            if conditions.get("Ready") == "True":
                ready.add(node["metadata"]["name"])
        return ready

    def _start_controllers(self) -> None:
        manager: list[str | Path] = [self.programs["kube-controller-manager"], "--kubeconfig", self.admin_kubeconfig]
        manager += ["--leader-elect=false", "--use-service-account-credentials=true"]
        manager += [f"--service-account-private-key-file={self.service_account_key}", f"--root-ca-file={self.ca_file}"]
        manager += [f"--cluster-signing-cert-file={self.ca_file}", f"--cluster-signing-key-file={self.authority.key}"]
        # A node whose kubelet is stopped is NotReady in 20 s, not 50.
        manager += ["--node-monitor-grace-period=20s", "--node-monitor-period=2s"]
        self.spawn("kube-controller-manager", manager)
        scheduler: list[str | Path] = [self.programs["kube-scheduler"], "--kubeconfig", self.admin_kubeconfig]
        self.spawn("kube-scheduler", [*scheduler, "--leader-elect=false"])
        # It waits for the node whose name it has, and the control plane is none.
        self.spawn("kube-proxy", kube_proxy(self.programs, self.admin_kubeconfig, "node-1"))
        corefile = self.folder / "Corefile"
        corefile.write_text(_COREFILE.format(address=self.network.dns, kubeconfig=self.admin_kubeconfig))
        self.spawn("coredns", [self.programs["coredns"], "-conf", corefile])

    def _start_nodes(self, count: int) -> list[Node]:
        write_busybox(self.programs["busybox"], self.folder / "busybox.tar")
        signed = frozenset({"node-1"})
        cgroup = cgroup_prefix(self._here)
        site = Site(self._here, self.programs, self.network, self.authority, self.url, cgroup=cgroup, signed=signed)
        nodes = [Node(number, site) for number in range(1, count + 1)]
        for node in nodes:
            self.network.connect_node(node.number, node.init, self.control_plane_pid)
        self.network.route_pods([node.init for node in nodes], self.control_plane_pid)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, nodes))
        names = {node.name for node in nodes}
        wait_for(f"{', '.join(sorted(names))} are Ready", lambda: self.ready_nodes() >= names, seconds=120)
        # A kubelet may not give itself this label.
        self.kubectl("label", "nodes", "--all", "node-role.kubernetes.io/worker=")
        return nodes


@contextmanager
def cluster_of(nodes: int) -> Iterator[Cluster]:
    """A cluster of that many nodes, Ready; gone with all it made afterwards.

    Raises:
        Missing: this is not Linux, the user is not root, or a program is not there.
        LabError: it cannot be started.
    """
    programs = requirements(nodes)
    here = place.claim(KIND, clear)
    try:
        with closing(Cluster(here, nodes, programs)) as cluster:
            yield cluster
    finally:
        remove(here)


def requirements(nodes: int) -> dict[str, Path]:
    """The programs of a cluster, where this machine can have one.

    Raises:
        Missing: it cannot.
        LabError: not with so many nodes.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise LabError(f"a cluster has 1 to {MAX_NODES} nodes, not {nodes}")
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Missing("a cluster of several nodes needs Linux and root (its nodes are namespaces)")
    if not CNI.is_dir():
        raise Missing(f"not on this machine: {CNI} (make cluster-tools brings what a lab needs)")
    return need(PROGRAMS)


def clear(here: Place) -> None:
    """End a cluster, and remove what it made outside its folder and in it."""
    place.end_all(here.folder)
    Network(here.index).disconnect()
    wait_for("the cgroups of pods are removed", lambda: not _remove_cgroups(cgroup_prefix(here)))
    here.clear()


def remove(here: Place) -> None:
    """End a cluster, and remove all that it made."""
    clear(here)
    here.leave()


def cgroup_prefix(here: Place) -> str:
    """How the names of that cluster's cgroups begin; in them are the cgroups of pods."""
    return f"nodeobs-cluster-{here.index}-"


def _remove_cgroups(prefix: str) -> list[Path]:
    """Remove these cgroups of every controller; those that are left."""
    root = Path("/sys/fs/cgroup")
    tops = [path for pattern in (f"{prefix}*", f"*/{prefix}*") for path in root.glob(pattern) if path.is_dir()]
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # a process in it is still ending
                Path(folder).rmdir()
    return [top for top in tops if top.exists()]


def _namespace(here: Place) -> int:
    """A process in a new network namespace."""
    holder = here.start("network namespace", ["unshare", "--net", "--", "sleep", "infinity"])
    ours = Path("/proc/self/ns/net").readlink()
    wait_for("the control plane has a namespace", lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != ours)
    return holder.pid


_COREFILE: Final = """.:53 {{
  bind {address}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig} lab
  }}
  errors
}}
"""
