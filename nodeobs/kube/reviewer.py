"""Asks the API server who calls and what they may do, for the service: each question once a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Final, TypeVar

import structlog

from nodeobs.errors import Forbidden, NodeobsError, Unauthenticated
from nodeobs.kube.client import KubeClient
from nodeobs.kube.reviews import (
    AUTHENTICATION_PATH,
    AUTHORIZATION_PATH,
    Identity,
    Memory,
    Right,
    Verdict,
    access_review,
    digest,
    may_be_token,
    read_access_review,
    read_token_review,
    token_review,
    unknown,
)

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)

ANSWER_SECONDS: Final = 5.0
AT_ONCE: Final = 20
"""Threads that may wait for reviews: a hanging API server must not hold all of them."""
PATIENCE_SECONDS: Final = 0.5
"""How long others may wait for their turn: many callers at once are no reason to refuse some of them."""


class Reviewer:
    """Reviews, remembered. Safe to be used from many threads; equal questions at the same time are asked once.

    Raises (every call):
        AccessUnknown: the API server cannot be asked now.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        seconds: float = ANSWER_SECONDS,
        at_once: int = AT_ONCE,
        patience: float = PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._seconds = seconds
        self._monotonic = monotonic
        self._at_once = at_once
        self._patience = patience
        self._free = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._tokens: Memory[bytes] = Memory()
        self._rights: Memory[tuple[Identity, Right]] = Memory()
        self._going: dict[Hashable, Future[Verdict]] = {}

    def authenticate(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            Unauthenticated: nobody's, or it has expired.
        """

        def ask() -> Verdict:
            verdict = read_token_review(self._post(AUTHENTICATION_PATH, token_review(token)))
            if not verdict.allowed:
                log.warning("token refused by the API server", reason=verdict.reason)
            return verdict

        found = self._find(self._tokens, digest(token), ask).identity if may_be_token(token) else None
        if found is None:
            raise Unauthenticated(
                "the API server does not accept the token: it must be one of this cluster's, for the API server, and "
                "not have expired"
            )
        return found

    def allows(self, identity: Identity, right: Right) -> Verdict:
        """Whether the user has the right."""
        return self._find(
            self._rights,
            (identity, right),
            lambda: read_access_review(self._post(AUTHORIZATION_PATH, access_review(identity, right))),
        )

    def require(self, identity: Identity, right: Right) -> None:
        """Go on only if the user has the right.

        Raises:
            Forbidden: they have not.
        """
        verdict = self.allows(identity, right)
        if not verdict.allowed:
            raise Forbidden(f"{identity.user} may not {right}" + (f" ({verdict.reason})" if verdict.reason else ""))

    def _find(self, memory: Memory[K], key: K, ask: Callable[[], Verdict]) -> Verdict:
        with self._lock:
            known = memory.get(key, now=self._monotonic())
        if known is not None:
            return known
        if not self._free.acquire(timeout=self._patience):
            raise unknown(f"{self._at_once} wait for the API server to say who they are, which is the most at once")
        try:
            return self._ask_once(memory, key, ask)
        finally:
            self._free.release()

    def _ask_once(self, memory: Memory[K], key: K, ask: Callable[[], Verdict]) -> Verdict:
        asked = self._monotonic()
        with self._lock:
            known = memory.get(key, now=asked)
            if known is not None:
                return known
            going = self._going.get(key)
            if going is None:
                mine = self._going[key] = Future()
        if going is not None:
            return going.result()
        try:
            verdict = ask()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            with self._lock:
                memory.put(key, verdict, asked=asked)
            mine.set_result(verdict)
            return verdict
        finally:
            with self._lock:
                del self._going[key]

    def _post(self, path: str, document: object) -> bytes:
        try:
            return self._client.request("POST", path, document, seconds=self._seconds)
        except NodeobsError as error:
            raise unknown(str(error)) from error
