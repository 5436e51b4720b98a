"""Callers that the cluster's API server knows: TokenReview and SubjectAccessReview, each question once a minute."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from nodeobs.errors import AccessUnknown, AgentError, Forbidden, Unauthenticated
from nodeobs.kube.reviews import (
    AUTHENTICATION_PATH,
    AUTHORIZATION_PATH,
    Identity,
    Memory,
    PathRight,
    Verdict,
    access_review,
    digest,
    may_be_token,
    read_access_review,
    read_token_review,
    token_review,
    unknown,
)
from nodeobs.nodeagent.auth import Caller, bearer_token
from nodeobs.nodeagent.exchange import Address, exchange
from nodeobs.nodeagent.settings import ApiServerSettings

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

AUDIENCE: Final = "nodeobs-agent"
"""Tokens must be made for the agents: those for the API server itself are not to be seen on nodes."""

ANSWER_SECONDS: Final = 3.0
"""For a review as a whole: whoever started a collection is not to wait long for its state."""
_AT_ONCE: Final = 32
_LARGEST_ANSWER: Final = 1 << 20
_WHERE: Final = {
    401: "it does not accept the agent's own token (--api-server-token-file)",
    403: "the agent's service account needs 'create' on tokenreviews and subjectaccessreviews",
}


class ReviewedAccess:
    """Reviews by the API server, remembered; equal questions at the same time are asked once."""

    def __init__(
        self, api_server: ApiServerSettings, *, monotonic: Callable[[], float], seconds: float = ANSWER_SECONDS
    ) -> None:
        self._settings = api_server
        self._seconds = seconds
        self._monotonic = monotonic
        self._tokens: Memory[bytes] = Memory()
        self._rights: Memory[tuple[Identity, PathRight]] = Memory()
        self._going: dict[Hashable, asyncio.Task[Verdict]] = {}

    async def check(self, authorization: str, right: PathRight | None) -> Caller:
        """Ask who it is, then whether they may; see :class:`~nodeobs.nodeagent.auth.Access`."""
        token = bearer_token(authorization)
        key = digest(token)
        if not may_be_token(token):
            raise Unauthenticated("that is no token")
        identity = (await self._find(self._tokens, key, lambda: self._authenticate(token))).identity
        if identity is None:
            raise Unauthenticated(
                f"the API server does not accept the token: it must be made for the audience {AUDIENCE}, and not have "
                "expired"
            )
        if right is not None:
            verdict = await self._find(self._rights, (identity, right), lambda: self._authorize(identity, right))
            if not verdict.allowed:
                why = f" ({verdict.reason})" if verdict.reason else ""
                raise Forbidden(f"{identity.user} may not {right}{why}")
        return Caller(identity.user, key)

    async def _find(self, memory: Memory[K], key: K, ask: Callable[[], Coroutine[Any, Any, Verdict]]) -> Verdict:
        now = self._monotonic()
        known = memory.get(key, now=now)
        if known is not None:
            return known
        task = self._going.get(key)
        if task is None:
            if len(self._going) >= _AT_ONCE:
                raise unknown(f"{_AT_ONCE} wait for the API server to say who they are, which is the most at once")
            task = self._going[key] = asyncio.create_task(ask(), name="review")
            task.add_done_callback(lambda done: self._finish(memory, key, done, asked=now))
        # A caller that goes away takes the answer from nobody else.
        return await asyncio.shield(task)

    def _finish(self, memory: Memory[K], key: K, done: asyncio.Task[Verdict], *, asked: float) -> None:
        del self._going[key]
        if not done.cancelled() and done.exception() is None:
            memory.put(key, done.result(), asked=asked)

    async def _authenticate(self, token: str) -> Verdict:
        audiences = (AUDIENCE,)
        answer = await self._post(AUTHENTICATION_PATH, token_review(token, audiences=audiences))
        verdict = read_token_review(answer, audiences=audiences)
        if not verdict.allowed:
            logger.warning("the API server refuses a caller's token: %s", verdict.reason or "no reason given")
        return verdict

    async def _authorize(self, identity: Identity, right: PathRight) -> Verdict:
        return read_access_review(await self._post(AUTHORIZATION_PATH, access_review(identity, right)))

    async def _post(self, path: str, document: object) -> str:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(path, msgspec.json.encode(document))
        except TimeoutError as error:
            problem = f"{self._settings.url} did not answer a review within {self._seconds:g} seconds"
            raise _unknown(problem) from error
        except AgentError as error:
            raise _unknown(error.message) from error

    async def _exchange(self, path: str, body: bytes) -> str:
        address, token = await asyncio.to_thread(lambda: (self._address(), self._own_token()))
        headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
        async with exchange(
            address, path, headers=headers, post=body, connect_timeout=self._seconds, read_timeout=self._seconds
        ) as reply:
            answer = await reply.text(_LARGEST_ANSWER)
            if reply.status not in (200, 201):
                logger.info("the API server's answer begins with %r", answer[:300])
                advice = f": {_WHERE[reply.status]}" if reply.status in _WHERE else ""
                raise _unknown(f"{self._settings.url} answered a review with {reply.status}{advice}")
            return answer

    def _address(self) -> Address:
        settings, parts = self._settings, urlsplit(self._settings.url)
        secure = parts.scheme == "https"
        tls = None
        if secure:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                tls.load_verify_locations(cafile=settings.ca_file)
            except OSError as error:
                raise _unknown(f"--api-server-ca-file {settings.ca_file} cannot be used: {error}") from error
        port = parts.port or (443 if secure else 80)
        return Address(shown=settings.url, host=parts.hostname or "", port=port, tls=tls)

    def _own_token(self) -> str:
        path = self._settings.token_file
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else "it holds other than ASCII characters"
            raise _unknown(f"--api-server-token-file {path}: cannot be read: {detail}") from error
        if not may_be_token(token):
            raise _unknown(f"--api-server-token-file {path}: does not hold one token")
        return token


def _unknown(problem: str) -> AccessUnknown:
    logger.warning("callers cannot be checked: %s", problem)
    return unknown(problem)
