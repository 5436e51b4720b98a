"""Which targets the agents of a NodeObservability get, and what an agent's command line says of them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from nodeobs.debugpprof import KUBELET
from nodeobs.deploy.config import DeployConfig
from nodeobs.model import NodeObservabilitySpec, TargetSpec

SOCKETS: Final = {"crio": "/var/run/crio/crio.sock", "containerd": "/run/containerd/debug.sock"}
"""Where each container runtime offers its profiles; the agent looks there by itself."""
RUNTIMES: Final = {"cri-o": "crio", "containerd": "containerd"}
"""Targets by the runtime's name in a node's ``nodeInfo.containerRuntimeVersion``."""

_OPTIONS: Final = {KUBELET: "--kubelet-url", "crio": "--crio-socket", "containerd": "--containerd-socket"}
_NODE: Final = "$(node_ip)"
_KUBELET_PORT: Final = 10250


class _NotDeployed(Exception):
    """Why a target cannot be had."""


@dataclass(frozen=True)
class Part:
    """What one target adds to an agent."""

    name: str
    arguments: tuple[str, ...] = ()
    folder: str = ""
    """Of the node, with the target's socket."""
    loopback: bool = False
    """It is at the node's loopback, so that the agent needs the node's network."""


@dataclass(frozen=True)
class Targets:
    """What the agents profile."""

    parts: tuple[Part, ...]
    problems: tuple[str, ...] = ()
    """Sentences: what was asked for and cannot be."""
    notes: tuple[str, ...] = ()
    """Sentences: what is not profiled, though nobody asked for it by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a Run may name."""
        return tuple(part.name for part in self.parts)

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the node that an agent needs, each once."""
        return tuple(dict.fromkeys(part.folder for part in self.parts if part.folder))

    @property
    def host_network(self) -> bool:
        """Whether an agent needs its node's network."""
        return any(part.loopback for part in self.parts)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Options of ``nodeobs agent``; the agent's own targets that are not wanted are turned off."""
        off = (f"{option}=" for name, option in _OPTIONS.items() if name not in self.names)
        return (*off, *(argument for part in self.parts for argument in part.arguments))


def choose(spec: NodeObservabilitySpec, *, runtimes: Collection[str], config: DeployConfig) -> Targets:
    """The targets that the spec lists, or the kubelet and the nodes' container runtimes, as far as allowed.

    ``runtimes`` are targets of :data:`RUNTIMES`, as the selected nodes report them. Where they differ, each agent
    takes the socket that it finds.
    """
    if spec.targets:
        return _listed(spec.targets, config)
    parts, notes = [Part(KUBELET)], []
    for name in sorted(runtimes):
        if config.allows_socket(SOCKETS[name]):
            parts.append(_runtime(name, SOCKETS[name], everywhere=len(runtimes) == 1))
        else:
            notes.append(f"{name} is not profiled: {_folder_is_not_allowed(SOCKETS[name])}")
    return Targets(tuple(parts), notes=tuple(notes))


def _listed(targets: Iterable[TargetSpec], config: DeployConfig) -> Targets:
    parts, problems = [], []
    for target in targets:
        try:
            parts.append(_part(target, config))
        except _NotDeployed as error:
            problems.append(f"target {target.name} is not deployed: {error}")
    return Targets(tuple(parts), problems=tuple(problems))


def _part(target: TargetSpec, config: DeployConfig) -> Part:
    if target.url:
        return _at_url(target.name, target.url, config)
    path = target.socket or SOCKETS.get(target.name)
    if path:
        if not config.allows_socket(path):
            raise _NotDeployed(_folder_is_not_allowed(path))
        if target.name in SOCKETS:
            return _runtime(target.name, path, everywhere=True)
        off = _off(target.name)
        return Part(target.name, (*off, _argument("--target", f"{target.name}=unix:{path}")), folder=_folder(path))
    if target.name == KUBELET:
        return Part(KUBELET)
    raise _NotDeployed("it has neither url nor socket, and only kubelet, crio and containerd are known without")


def _runtime(name: str, path: str, *, everywhere: bool) -> Part:
    arguments = (_argument(_OPTIONS[name], path),) if everywhere else ()
    return Part(name, arguments, folder=_folder(path))


def _at_url(name: str, url: str, config: DeployConfig) -> Part:
    try:
        # Lower-cased, as host names are compared; "$(NODE_IP)" passes as one.
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _NotDeployed(f"its url cannot be read: {error}") from error
    if not config.allows_host(host):
        raise _NotDeployed(
            f"its url's host {_shown(host)} is not among those that agents may ask ({_listing(config.url_hosts)}): "
            "whoever installed nodeobs can allow it"
        )
    if name == KUBELET and port != _KUBELET_PORT:
        # At another one, a NodePort for instance, somebody else may listen, and would be sent the agent's token.
        raise _NotDeployed(f"its url's port must be {_KUBELET_PORT}, the kubelet's own: agents send their token there")
    loopback = _is_loopback(host)
    if loopback and not config.host_network:
        raise _NotDeployed(
            f"{host} is the node's loopback, which agents reach with the node's network only, and that is not allowed: "
            "whoever installed nodeobs can allow it"
        )
    if name == KUBELET:
        return Part(name, (_argument(_OPTIONS[name], url),), loopback=loopback)
    return Part(name, (*_off(name), _argument("--target", f"{name}={url}")), loopback=loopback)


def _off(name: str) -> tuple[str, ...]:
    """A target that has a name of the agent's own, and is somewhere else."""
    return (f"{_OPTIONS[name]}=",) if name in _OPTIONS else ()


def _argument(option: str, value: str) -> str:
    """As a container's args have it: a kubelet puts variables in the place of ``$(NAME)``, but not of ``$$(NAME)``.

    The agent itself puts the node's address in the place of ``$(NODE_IP)``, and knows no other variable.
    """
    return f"{option}={value.replace('$', '$$')}"


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _folder_is_not_allowed(path: str) -> str:
    return (
        f"the folder of its socket {path} is not among those that agents may have: "
        "whoever installed nodeobs can allow it"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _shown(host: str) -> str:
    return "$(NODE_IP)" if host == _NODE else host


def _listing(hosts: Iterable[str]) -> str:
    return ", ".join(hosts) or "none"
