"""The agent's own certificate, read again when its files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from nodeobs.errors import ConfigurationError

logger = logging.getLogger(__name__)


class ServerCertificate:
    """An SSL context for the listener; connections made after a change get the new certificate.

    Raises:
        ConfigurationError: the files cannot be used.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self.context = _new_context()
        try:
            self._stamp = self._look()
            # With a password, or OpenSSL would ask the terminal for one.
            self.context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"--tls-cert-file {cert_file}, --tls-key-file {key_file}: cannot be used: {error}; "
                "they must be a PEM certificate and its unencrypted key"
            ) from error

    def reload(self) -> None:
        """Take the new certificate if the files have changed; one that cannot be used is logged and not taken."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            # Tried first: a certificate that does not fit its key would break the context that is in use.
            _new_context().load_cert_chain(self._cert_file, self._key_file, password="")
            self.context.load_cert_chain(self._cert_file, self._key_file, password="")
        except (OSError, ValueError) as error:
            logger.warning("the new certificate in %s is not used: %s", self._cert_file, error)
            return
        self._stamp = stamp
        logger.info("read the new certificate in %s", self._cert_file)

    def _look(self) -> tuple[object, ...]:
        return tuple(
            (found.st_mtime_ns, found.st_ino, found.st_size)
            for found in (self._cert_file.stat(), self._key_file.stat())
        )


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
