"""The connections to one endpoint of an API server."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import httpx

from nodeobs import __version__
from nodeobs.errors import ConfigurationError
from nodeobs.kube.proxies import without_password

if TYPE_CHECKING:
    from nodeobs.kube.credentials import Endpoint

_POOL: Final = 64
_KEEP_SECONDS: Final = 30.0
SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A quiet watch whose other end is gone without a word is noticed after 30 s.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Lane:
    """Kept connections to one endpoint, by its proxy where it has one.

    Raises:
        ConfigurationError: the API server's address or the proxy cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.users = 0
        """Requests that are going; counted by whoever uses it."""
        self._extensions: dict[str, Any] = {"sni_hostname": endpoint.server_name} if endpoint.server_name else {}
        try:
            transport = httpx.HTTPTransport(
                verify=endpoint.context,
                limits=httpx.Limits(
                    max_connections=_POOL, max_keepalive_connections=_POOL, keepalive_expiry=_KEEP_SECONDS
                ),
                proxy=endpoint.proxy or None,
                socket_options=SOCKET_OPTIONS,
            )
            self._http = httpx.Client(
                base_url=endpoint.server,
                transport=transport,
                trust_env=False,
                headers={"accept": "application/json", "user-agent": f"nodeobs/{__version__}"},
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            by = f" by the proxy {without_password(endpoint.proxy)}" if endpoint.proxy else ""
            raise ConfigurationError(f"the API server at {endpoint.server} cannot be called{by}: {error}") from error

    def stream(self, method: str, path: str, **options: Any) -> AbstractContextManager[httpx.Response]:
        """Send a request; its answer, unread."""
        return self._http.stream(method, path, extensions=self._extensions, **options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
