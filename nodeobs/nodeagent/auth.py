"""Who may call: the bearer tokens of a file, which is read again when it changes; and who keeps access meanwhile."""

from __future__ import annotations

import hmac
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nodeobs.errors import AccessUnknown, ConfigurationError, Unauthenticated
from nodeobs.kube.reviews import PathRight, digest

logger = logging.getLogger(__name__)

_SCHEME: Final = "bearer "
_STARTERS: Final = 256
"""So many collections are kept at most."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and with which token."""

    user: str
    digest: bytes
    """Of the token."""


class Access(Protocol):
    """A way to find out who may call."""

    async def check(self, authorization: str, right: PathRight | None) -> Caller:
        """Accept or refuse the value of an Authorization header, for ``right`` where one is needed.

        Raises:
            Unauthenticated: no token, or one that is not accepted.
            Forbidden: a known caller without the right.
            AccessUnknown: that cannot be found out now.
        """


class Starters:
    """Who started which collection: they keep access to it while callers cannot be checked. In memory, bounded."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, Caller] = OrderedDict()

    def remember(self, collection: str, caller: Caller) -> None:
        """The caller, checked, has started the collection, or asked for it again with a newer token."""
        known = self._callers.get(collection)
        if known is None or known.user == caller.user:
            self._callers[collection] = caller
        if len(self._callers) > _STARTERS:
            self._callers.popitem(last=False)

    def renew(self, collection: str, caller: Caller) -> None:
        """The caller was checked once more: tokens rotate while a collection goes."""
        if collection in self._callers:
            self.remember(collection, caller)

    def started(self, collection: str, authorization: str) -> bool:
        """Whether the collection was started by the one whose token this is."""
        known = self._callers.get(collection)
        return known is not None and hmac.compare_digest(known.digest, digest(bearer_token(authorization)))

    def forget(self, collection: str) -> None:
        """The collection is gone."""
        self._callers.pop(collection, None)


def bearer_token(authorization: str) -> str:
    """The token in the value of an Authorization header.

    Raises:
        Unauthenticated: there is none.
    """
    token = authorization[len(_SCHEME) :].strip() if authorization.lower().startswith(_SCHEME) else ""
    if not token:
        raise Unauthenticated("a bearer token is needed")
    return token


class TokenFile:
    """Tokens, one a line; blank lines and those that begin with ``#`` do not count. Only digests are kept.

    Raises:
        ConfigurationError: it cannot be read, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._digests = self._read()

    async def check(self, authorization: str, _: PathRight | None) -> Caller:
        """Whoever has one of the tokens may do everything; see :class:`Access`."""
        presented = digest(bearer_token(authorization))
        # Every digest is compared, so that the time taken tells nothing.
        if not sum(hmac.compare_digest(presented, known) for known in self._current()):
            raise Unauthenticated("the token is not one that this agent accepts")
        return Caller(presented.hex(), presented)

    def _current(self) -> tuple[bytes, ...]:
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._digests = self._read()
                self._stamp = stamp
                logger.info("read %d tokens from %s", len(self._digests), self._path)
        except ConfigurationError as error:
            logger.warning("callers cannot be checked: %s", error)
            raise AccessUnknown("callers cannot be checked now: the agent's token file cannot be read") from error
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
            tokens.append(digest(token))
        if not tokens:
            raise ConfigurationError(f"--tokens-file {self._path}: it holds no token: write one a line")
        return tuple(tokens)
