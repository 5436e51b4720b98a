"""Who may call, from a file of bearer tokens.

One caller a line: ``token,user,role`` with a role of viewer, runner or admin. Empty lines and lines that begin with
``#`` are skipped. The file is read again when it changes; while it is wrong, the last good one is in force.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from pathlib import Path

import structlog
from flask import request

from nodeobs.errors import ConfigurationError, Unauthenticated
from nodeobs.web.access import Role, RoleCaller, presented_token

log = structlog.get_logger(__name__)


Callers = tuple[tuple[bytes, RoleCaller], ...]
"""SHA-256 of each token, and whose it is."""


def parse_tokens(text: str, *, source: str) -> Callers:
    """Callers of a token file's text.

    Raises:
        ConfigurationError: a line is wrong; says which, never its token.
    """
    callers: dict[bytes, RoleCaller] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{source}, line {number}"
        token, user, *roles = (part.strip() for part in line.split(",")) if line.count(",") > 1 else ("", "", "")
        if not token or not user or not roles:
            raise ConfigurationError(f"{where}: must be token,user,role with none of them empty")
        digest = _digest(token)
        if digest in callers:
            raise ConfigurationError(f"{where}: the token occurs on an earlier line; each caller has one of its own")
        callers[digest] = RoleCaller(user, max(_role(name, where) for name in roles))
    if not callers:
        raise ConfigurationError(f"{source}: holds no token, so that nobody could call; add a line token,user,role")
    return tuple(callers.items())


class TokensFile:
    """The token file, read again when it changes. Safe to be used from many threads.

    Raises (when made):
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._look()
        self._callers = self._read()

    def authenticate(self) -> RoleCaller:
        """Whose token came along; see :class:`~nodeobs.web.access.Access`."""
        found = self.find(presented_token())
        if found is None:
            log.warning("unknown token", remote=request.remote_addr, path=request.path)
            raise Unauthenticated("the token is not known here; it may have been replaced")
        return found

    def find(self, token: str) -> RoleCaller | None:
        """Whose token this is. Takes as long for a wrong token as for a right one."""
        digest = _digest(token)
        found = None
        for known, caller in self._current():
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _current(self) -> Callers:
        with self._lock:
            look = self._look()
            if look != self._seen:
                self._seen = look
                try:
                    self._callers = self._read()
                    log.info("token file read again", path=str(self._path), callers=len(self._callers))
                except ConfigurationError as error:
                    log.error("token file cannot be used; the last good one stays in force", error=str(error))  # noqa: TRY400 the message is complete
            return self._callers

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> Callers:
        try:
            with self._path.open(encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"NODEOBS_TOKENS_FILE: cannot read {self._path}: {error}") from error
        if mode & stat.S_IROTH:
            log.warning("token file can be read by every user of this machine; chmod 600 it", path=str(self._path))
        return parse_tokens(text, source=str(self._path))


def _role(name: str, where: str) -> Role:
    try:
        return Role[name.upper()]
    except KeyError as error:
        allowed = ", ".join(role.name.lower() for role in Role)
        raise ConfigurationError(f"{where}: there is no role {name!r}; allowed are {allowed}") from error


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
