"""The service's own certificate, read again when its files change."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from nodeobs.errors import ConfigurationError

log = structlog.get_logger(__name__)


class ServedCertificate:
    """The TLS context of each new connection.

    Files that cannot be used later are logged, and what was read last is still served.

    Raises:
        ConfigurationError: they cannot be used from the beginning.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files = (cert_file, key_file)
        self._stamp = self._look()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """With the certificate as it is now."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._read()
            except ConfigurationError as error:
                log.warning("the new certificate is not used; the earlier one stays", error=str(error))
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        cert_file, key_file = self._files
        try:
            # With a password, or OpenSSL would ask the terminal for one.
            context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"tls_cert_file {cert_file}, tls_key_file {key_file}: cannot be used: {error}; "
                "they must be a PEM certificate and its unencrypted key"
            ) from error
        return context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
