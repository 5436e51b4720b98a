"""The agent's settings, checked: what it listens on, where it keeps profiles, and what it may profile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nodeobs.errors import ConfigurationError
from nodeobs.nodeagent.target_settings import TargetSettings, is_loopback


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiServerSettings:
    """The cluster's API server, which says who calls."""

    url: str
    """Scheme, host and port; https, or to loopback."""
    token_file: Path
    """The agent's own token there."""
    ca_file: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSettings:
    """Everything the agent is told when it starts."""

    host: str
    port: int
    unix_socket: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    tokens_file: Path | None
    api_server: ApiServerSettings | None
    """Whoever it lets may call; where it and ``tokens_file`` are None, anyone who reaches the port."""
    storage: Path
    max_bytes: int
    max_age: timedelta
    targets: tuple[TargetSettings, ...]
    log_level: str

    @property
    def only_local_callers(self) -> bool:
        """Whether nothing but this machine can connect."""
        return self.unix_socket is not None or is_loopback(self.host)


def check_listener(settings: AgentSettings) -> None:
    """Refuse what would leave the agent open to the network, or its callers' tokens readable there.

    Raises:
        ConfigurationError: says which setting is missing.
    """
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise ConfigurationError("--tls-cert-file and --tls-key-file belong together: give both or none")
    if settings.only_local_callers:
        return
    where = f"--host {settings.host} can be reached from other machines"
    if settings.tokens_file is None and settings.api_server is None:
        raise ConfigurationError(
            f"{where}, and anyone there could profile this node: give --auth kubernetes in a cluster or --tokens-file "
            "elsewhere, or listen on 127.0.0.1"
        )
    if settings.tls_cert_file is None:
        raise ConfigurationError(
            f"{where}, and tokens would cross the network in the clear: "
            "give --tls-cert-file and --tls-key-file, or listen on 127.0.0.1"
        )
