"""What it takes to call an API server, wherever it was read; and the pod's service account as the nearest source."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from nodeobs.errors import ConfigurationError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """Where the API server is, how it is verified, and who we are to it."""

    server: str
    """``https://host:port``, perhaps with a path; without a slash at its end."""
    server_name: str = ""
    """Name that its certificate carries where that is not its address."""
    proxy: str = ""
    """URL of a proxy that the source names."""
    authority: str = ""
    """File with the authority that signed its certificate; empty: those that the system trusts."""
    certificate: str = ""
    key: str = ""
    """Files with our client certificate and its key; or empty."""
    verify: bool = True
    authorization: str = ""
    """Value of the Authorization header; or empty."""
    expires: datetime | None = None
    """When the authorization ends, where loading again can renew it."""

    def __repr__(self) -> str:
        return f"Access(server={self.server!r})"  # never the token


class Source(Protocol):
    """Where access is read from."""

    namespace: str
    """Of the service account, or of the kubeconfig's context."""

    @property
    def files(self) -> tuple[Path, ...]:
        """When one of them changes, a new source is to be opened."""

    def load(self) -> Access:
        """Access as it is now; what is about to expire is renewed.

        Raises:
            ConfigurationError: it cannot be used; says why.
        """


class ServiceAccount:
    """The pod's service account (``folder`` is where the kubelet keeps its token)."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._token = folder / "token"
        self._authority = folder / "ca.crt"
        self._environ = environ
        try:
            self.namespace = (folder / "namespace").read_text(encoding="utf-8").strip()
        except OSError:
            self.namespace = "default"

    @property
    def files(self) -> tuple[Path, ...]:
        """The token, which the kubelet renews long before it expires."""
        return (self._token,)

    def load(self) -> Access:
        """Access with the token that is in the file now.

        Raises:
            ConfigurationError: a file or variable is missing, or wrong.
        """
        host, port = (self._environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
        if not host or not port.isdecimal():
            raise ConfigurationError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not name the API server")
        token = header_token(self._token)
        if not self._authority.is_file():
            raise ConfigurationError(f"the pod's service account has no authority: {self._authority} is missing")
        return Access(
            server=f"https://{_bracketed(host)}:{port}",
            authority=str(self._authority),
            authorization=f"Bearer {token}",
        )


def header_token(path: Path) -> str:
    """The bearer token in a file.

    Raises:
        ConfigurationError: it cannot be read, or is no token; the message never shows it.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not ASCII"
        raise ConfigurationError(f"the token file {path} cannot be used: {why}") from None
    if not token or not token.isprintable() or " " in token:
        raise ConfigurationError(f"the token file {path} must hold one token, without spaces in it")
    return token


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
