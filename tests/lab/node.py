"""A node: containerd and kubelet in network, mount and process namespaces of their own.

All its processes live in one process namespace, so all end, pods included, when its first process does. It sees this
machine's files, but what it writes below /etc, /run and /var is its own, and so are the settings of the kernel that a
kubelet changes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab.apiserver import write_kubeconfig
from tests.lab.errors import LabError
from tests.lab.images import BUSYBOX
from tests.lab.network import Network
from tests.lab.pki import Authority
from tests.lab.place import Place
from tests.processes import ROOT, Program, wait_for

DEBUG_SOCKET: Final = "/run/containerd/debug.sock"
"""containerd's debug socket, inside a node."""

_INIT: Final = """
set -e
cd "$1"
mount -t tmpfs -o mode=755 own own
for top in etc run var; do
  mkdir own/$top own/.$top
  mount -t overlay -o lowerdir=/$top,upperdir=own/$top,workdir=own/.$top $top /$top
done
mkdir -p /var/lib/kubelet /var/lib/containerd /run/containerd
mount --bind kubelet /var/lib/kubelet
mount --make-rshared /var/lib/kubelet
mount --bind containerd /var/lib/containerd
mount --bind containerd-run /run/containerd
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \\
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  copy=own/$(echo $name | tr / -)
  cat /proc/sys/$name > $copy
  mount --bind $copy /proc/sys/$name
done
mkdir own/cgroup
for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
  [ -e $controller/cgroup.procs ] && mountpoint -q $controller || continue
  mkdir -p $controller/$2
  if [ -e $controller/cpuset.mems ]; then # in version 1, nothing can run in a new one before it is told where
    cat $controller/cpuset.cpus > $controller/$2/cpuset.cpus
    cat $controller/cpuset.mems > $controller/$2/cpuset.mems
  fi
  mount --bind $controller/$2 own/cgroup
  umount $controller
  mount --move own/cgroup $controller
done
: > ready
while :; do sleep 3600 & wait $!; done
"""


_NAMESPACES: Final = (
    *("unshare", "--net", "--mount", "--propagation=private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)


@dataclass(frozen=True)
class Site:
    """What the nodes of a cluster have in common."""

    here: Place
    programs: Mapping[str, Path]
    network: Network
    authority: Authority
    url: str
    """Of the API server."""
    cgroup: str
    """Name of the cgroups of nodes, with the node's name to follow: it is all that a node sees of them."""
    signed: frozenset[str]
    """Nodes whose kubelet has a certificate of ``authority``, with only the node's name in it."""


class Inside(Program):
    """A program in a node; ``pid`` is its own, as this machine sees it."""

    def __init__(
        self, name: str, node: int, argv: Sequence[str | Path], *, log: Path, environ: Mapping[str, str]
    ) -> None:
        super().__init__(name, [*inside(node), *argv], log=log, environ=environ)
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        if self._pid is None:
            # nsenter forks to get into the process namespace, and waits for what it started.
            self._pid = self.wait_until(f"{self.name} is started", lambda: child_of(self.process.pid))
        return self._pid

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP), as a hung process."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.process.pid, signal.SIGCONT)  # nsenter stops with what it started


class Node:
    """One node of a cluster."""

    def __init__(self, number: int, site: Site) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.ip = site.network.node(number)
        self.folder = site.here.folder / self.name
        self._site = site
        for name in ("own", "kubelet", "containerd", "containerd-run", "cni"):
            (self.folder / name).mkdir(parents=True)
        holder = site.here.start(
            self.name, [*_NAMESPACES, "sh", "-c", _INIT, "sh", self.folder, f"{site.cgroup}{self.name}"]
        )
        holder.wait_until(f"{self.name} has namespaces", (self.folder / "ready").exists)
        self.init = wait_for(f"{self.name} has a first process", lambda: child_of(holder.pid))

    def run(self, name: str, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Inside:
        """Start a program in this node, with ``NODE_NAME`` and ``NODE_IP`` in its environment; the caller ends it."""
        mine = {"NODE_NAME": self.name, "NODE_IP": self.ip, **self._site.here.environ}
        log = self.folder / f"{name}.log"
        program = Inside(f"{name} on {self.name}", self.init, argv, log=log, environ={**mine, **(environ or {})})
        return self._site.here.keep(program)

    def start(self) -> None:
        """Start containerd, kubelet and kube-proxy; they are running, not ready, when this returns."""
        self.containerd = self.run("containerd", ["containerd", "--config", self._containerd_configuration()])
        socket = self.folder / "containerd-run" / "containerd.sock"
        self.containerd.wait_until(f"{self.name} has a containerd", socket.exists)
        self.load(self._site.here.folder / "busybox.tar")
        self._write_kubeconfig()
        self._kubelet_configuration()
        self.start_kubelet()
        self.run("kube-proxy", kube_proxy(self._site.programs, self._site.here.folder / "admin.kubeconfig", self.name))

    @property
    def kubelet_pid(self) -> int:
        return self.kubelet.pid

    def start_kubelet(self) -> None:
        """Start the kubelet (again)."""
        argv: list[str | Path] = [self._site.programs["kubelet"], "--config", self.folder / "kubelet.json"]
        argv += ["--kubeconfig", self.folder / "kubeconfig", "--hostname-override", self.name, "--node-ip", self.ip]
        self.kubelet = self.run("kubelet", argv)

    def stop_kubelet(self) -> None:
        """Kill the kubelet; pods go on."""
        self.kubelet.kill()

    def load(self, image: Path) -> None:
        """Import an image (a docker or OCI archive) into containerd.

        Raises:
            LabError: it cannot be imported.
        """
        argv = [*inside(self.init), "ctr", "--namespace", "k8s.io", "images", "import", str(image)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{image} cannot be imported on {self.name}: {done.stderr.strip()}")

    def _write_kubeconfig(self) -> None:
        pair = self._site.authority.issue(
            f"{self.name}-client", self.name, common_name=f"system:node:{self.name}", group="system:nodes"
        )
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        path = self.folder / "kubeconfig"
        write_kubeconfig(path, self._site.url, self._site.authority.certificate, user)

    def _kubelet_configuration(self) -> None:
        document: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._site.authority.certificate)},
            },
            # A refusal is remembered for a second, not for 30: tests give a right to whom they had refused.
            "authorization": {"mode": "Webhook", "webhook": {"cacheUnauthorizedTTL": "1s"}},
            "healthzPort": 0,
            "clusterDNS": [self._site.network.dns],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            # However full this machine's disk is: no pod of a test is evicted, no image removed.
            "evictionHard": {"memory.available": "1Mi"},
            "imageGCHighThresholdPercent": 100,
            "nodeLeaseDurationSeconds": 8,
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }
        if self.name in self._site.signed:
            pair = self._site.authority.issue(f"{self.name}-kubelet", self.name)
            document |= {"tlsCertFile": str(pair.certificate), "tlsPrivateKeyFile": str(pair.key)}
        (self.folder / "kubelet.json").write_text(json.dumps(document), encoding="utf-8")

    def _containerd_configuration(self) -> Path:
        pods = self._site.network.pods(self.number)
        addresses: dict[str, Any] = {"type": "host-local", "dataDir": "/run/cni-addresses", "subnet": str(pods)}
        addresses["routes"] = [{"dst": "0.0.0.0/0"}]
        # ptp, not bridge: all is routed, so that a Service may lead back to a pod of the same node.
        plugins = [{"type": "ptp", "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}]
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(network), encoding="utf-8")
        path = self.folder / "containerd.toml"
        path.write_text(
            _CONTAINERD.format(debug=DEBUG_SOCKET, image=BUSYBOX, cni=self.folder / "cni"), encoding="utf-8"
        )
        return path


_CONTAINERD: Final = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  address = "{debug}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  # A process without CAP_SYS_RESOURCE may not lower it, and runc fails trying.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"""


def inside(init: int) -> list[str]:
    """What to put before a command so that it runs in the node with that first process, in the project's folder."""
    return ["nsenter", f"--target={init}", "--mount", "--net", "--pid", "--", "env", f"--chdir={ROOT}"]


def kube_proxy(programs: Mapping[str, Path], kubeconfig: Path, name: str) -> list[str | Path]:
    """Command of a kube-proxy. It leaves this machine's connection tracking as it is."""
    argv: list[str | Path] = [programs["kube-proxy"], "--kubeconfig", kubeconfig, f"--hostname-override={name}"]
    argv += ["--proxy-mode=iptables", "--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"]
    argv += ["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"]
    argv += ["--conntrack-tcp-timeout-close-wait=0s", "--healthz-bind-address=127.0.0.1"]
    return argv


def child_of(pid: int) -> int | None:
    """The child of a process that has one at most."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:  # it ended
        return None
    return int(children[0]) if children else None
