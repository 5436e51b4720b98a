"""Addresses and links of a cluster: one range for each cluster of the machine, out of 198.18.0.0/15 (RFC 2544).

Control plane, nodes and this machine share one bridge; each node has a range of pod addresses, routed to it. So a test
reaches everything by its address, and needs to enter no namespace.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Final

from tests.lab.errors import LabError

MAX_NODES: Final = 12

_ALL: Final = IPv4Network("198.18.0.0/15")
_BRIDGE: Final = "nodes"


class Network:
    """The network of the cluster with this index."""

    def __init__(self, index: int) -> None:
        ranges = list(list(_ALL.subnets(new_prefix=20))[index].subnets(new_prefix=24))
        self.nodes, self.services, *self._pods = ranges
        self.control_plane = str(self.nodes[1])
        self.machine = str(self.nodes[254])
        """Address of this machine in the cluster's network."""
        self.dns = self.control_plane
        self._link = f"nodeobs{index}"

    def node(self, number: int) -> str:
        """Address of a node, which are counted from 1."""
        return str(self.nodes[10 + number])

    def pods(self, number: int) -> IPv4Network:
        """The pod addresses of a node."""
        return self._pods[number - 1]

    def connect_machine(self, control_plane: int) -> None:
        """Make the bridge in the namespace of that process, and connect this machine to it."""
        ip("link", "add", _BRIDGE, "type", "bridge", of=control_plane)
        _up(_BRIDGE, f"{self.control_plane}/24", of=control_plane)
        ip("link", "add", self._link, "type", "veth", "peer", "name", "machine", "netns", str(control_plane))
        ip("link", "set", "machine", "master", _BRIDGE, "up", of=control_plane)
        _up(self._link, f"{self.machine}/24")
        ip("route", "add", str(self.services), "via", self.control_plane)
        # Services are addresses that nobody has: without a route kube-proxy's rules would never see them.
        ip("route", "add", "default", "dev", _BRIDGE, of=control_plane)
        _forward(control_plane)

    def connect_node(self, number: int, node: int, control_plane: int) -> None:
        """Connect the namespace of process ``node`` to the bridge."""
        port = f"node{number}"
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node), of=control_plane)
        ip("link", "set", port, "master", _BRIDGE, "up", of=control_plane)
        _up("eth0", f"{self.node(number)}/24", of=node)
        ip("route", "add", "default", "via", self.control_plane, of=node)
        _forward(node)

    def route_pods(self, nodes: Sequence[int], control_plane: int) -> None:
        """Let everybody find the pods of each node; ``nodes`` are processes in their namespaces."""
        for number, node in enumerate(nodes, start=1):
            for other in (None, control_plane, *nodes):
                if other != node:
                    ip("route", "add", str(self.pods(number)), "via", self.node(number), of=other)

    def disconnect(self) -> None:
        """Remove what is in this machine's own namespace, if anything is. The rest ends with its namespaces."""
        with suppress(LabError):
            ip("link", "delete", self._link)


def ip(*arguments: str, of: int | None = None) -> None:
    """Run ``ip``, in the network namespace of a process or in this one.

    Raises:
        LabError: it failed.
    """
    argv = [*within(of), "ip", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed: {done.stderr.strip()}")


def within(pid: int | None) -> list[str]:
    """What to put before a command so that it runs in the network namespace of that process."""
    # Not `ip netns exec`, which also gives the command another /sys, without cgroups.
    return [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def _up(link: str, address: str, *, of: int | None = None) -> None:
    ip("address", "add", address, "dev", link, of=of)
    ip("link", "set", link, "up", of=of)
    if of is not None:
        ip("link", "set", "lo", "up", of=of)


def _forward(pid: int) -> None:
    subprocess.run([*within(pid), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)
