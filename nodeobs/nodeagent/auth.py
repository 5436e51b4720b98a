"""Who may call: the bearer tokens of a file, which is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path
from typing import Final

from nodeobs.errors import ConfigurationError, Unauthenticated
from nodeobs.nodeagent.web import HttpError

logger = logging.getLogger(__name__)

_SCHEME: Final = "bearer "


class TokenFile:
    """Tokens, one a line; blank lines and those that begin with ``#`` do not count. Only digests are kept.

    Raises:
        ConfigurationError: it cannot be read, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._digests = self._read()

    def check(self, authorization: str) -> None:
        """Accept or refuse the value of an Authorization header.

        Raises:
            Unauthenticated: no token, or one that is not in the file.
            HttpError: 503, the file cannot be read now.
        """
        if not authorization.lower().startswith(_SCHEME):
            raise Unauthenticated("a bearer token is needed")
        presented = hashlib.sha256(authorization[len(_SCHEME) :].strip().encode()).digest()
        # Every digest is compared, so that the time taken tells nothing.
        if not sum(hmac.compare_digest(presented, digest) for digest in self._current()):
            raise Unauthenticated("the token is not one that this agent accepts")

    def _current(self) -> tuple[bytes, ...]:
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._digests = self._read()
                self._stamp = stamp
                logger.info("read %d tokens from %s", len(self._digests), self._path)
        except ConfigurationError as error:
            logger.warning("callers cannot be checked: %s", error)
            raise HttpError(503, "callers cannot be checked now: the agent's token file cannot be read") from error
        return self._digests

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigurationError(
                f"--tokens-file {self._path}: cannot be read: {error.strerror or error}"
            ) from error
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> tuple[bytes, ...]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(f"--tokens-file {self._path}: cannot be read: {detail}") from error
        tokens = []
        for number, line in enumerate(lines, start=1):
            token = line.strip()
            if not token or token.startswith("#"):
                continue
            if not (token.isascii() and token.isprintable()) or " " in token:
                raise ConfigurationError(
                    f"--tokens-file {self._path}, line {number}: a token is one word of ASCII characters"
                )
            tokens.append(hashlib.sha256(token.encode()).digest())
        if not tokens:
            raise ConfigurationError(f"--tokens-file {self._path}: it holds no token: write one a line")
        return tuple(tokens)
