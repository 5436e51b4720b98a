"""TLS for clients that connect from many threads at once."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path


class SharedContext(ssl.SSLContext):
    """A client's TLS context that never changes once it is made.

    httpcore sets the protocols again for every connection. OpenSSL then frees the list that another thread may be
    copying just then: Python lets go of its lock while OpenSSL makes a connection.
    """

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Nothing: they were set when it was made."""


def shared_context(authority: str | Path | None = None) -> SharedContext:
    """A context that verifies servers by that authority (PEM), or by the system's.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    context = SharedContext(ssl.PROTOCOL_TLS_CLIENT)
    ssl.SSLContext.set_alpn_protocols(context, ["http/1.1"])
    if authority is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(authority)
    return context
