"""What whoever installs nodeobs decides about all agents; a NodeObservability cannot go beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from nodeobs.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How agents are deployed.

    Raises:
        ConfigurationError: a socket folder that no agent may have.
    """

    namespace: str
    """Where they run."""
    image: str
    """The service's own."""
    command: tuple[str, ...] = ("nodeobs", "agent")
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in ``namespace``."""
    socket_folders: tuple[str, ...] = ("/run/containerd", "/run/crio")
    """Folders of nodes whose sockets a target may name; ``/var/run`` is the same as ``/run``."""
    url_hosts: tuple[str, ...] = ("$(NODE_IP)",)
    """Hosts that a target's URL may name, as it is written there."""
    host_network: bool = False
    """Whether agents may have their node's network, which a URL of the node's loopback needs."""
    openshift: bool = False
    """Whether the cluster is OpenShift: its kubelets' authority is there, and SELinux is to let agents at sockets."""
    storage_bytes: int = 512 << 20
    """Profiles that an agent keeps."""

    def __post_init__(self) -> None:
        for folder in self.socket_folders:
            parts = _canonical(folder).parts
            if len(parts) < 3 or parts[0] != "/" or ".." in parts:
                raise ConfigurationError(
                    f"socket folder {folder!r}: must be a whole path such as /run/containerd, without '..'; agents get "
                    "neither / nor a folder directly below it"
                )

    def allows_socket(self, path: str) -> bool:
        """Whether a target may name the socket at that path."""
        socket = PurePosixPath(path)
        return ".." not in socket.parts and _canonical(socket.parent) in map(_canonical, self.socket_folders)

    def allows_host(self, host: str) -> bool:
        """Whether a target's URL may name that host."""
        return host.lower() in (allowed.lower() for allowed in self.url_hosts)


def _canonical(folder: str | PurePosixPath) -> PurePosixPath:
    parts = PurePosixPath(folder).parts
    return PurePosixPath("/", *parts[2:]) if parts[:3] == ("/", "var", "run") else PurePosixPath(folder)
