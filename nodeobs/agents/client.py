"""Speaking to agents: one HTTP client for each, over one TLS context for all.

One shared client would be slower by far: its connection pool is searched for every request.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import replace as change
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from nodeobs import __version__
from nodeobs.agents import failures
from nodeobs.agents.agent import Agent
from nodeobs.agents.handshakes import Handshakes
from nodeobs.agents.reload import WatchedFile, read_authority, read_token
from nodeobs.errors import AgentError, AgentUnavailable, InvalidInput
from nodeobs.model import Collection, CollectionRequest, FailureReason, decode_json, encode_json, replace

MAX_BODY_BYTES = 4 * 2**20
"""An answer other than a file may not be longer."""

_LOOK_SECONDS = 0.5

_BROKEN = (httpx.TransportError, ssl.SSLError)
"""A TLS alert that comes after the handshake, as for a missing client certificate, passes through httpx as it is."""


Locate = Callable[[Agent], Agent]
"""Tells at once where an agent is, as far as is known, and has somebody look meanwhile. Must not raise."""


class AgentConnector:
    """Makes clients. The token and the authority are read again when their files change.

    Agents are called at their addresses; with ``server_name`` their certificates have to carry that name instead.
    ``locate`` is asked about an agent that does not answer.

    Raises:
        ConfigurationError: one of the files cannot be used.
    """

    def __init__(
        self,
        *,
        tls: bool,
        ca_file: Path | None,
        token_file: Path | None,
        now: Callable[[], datetime],
        randomness: random.Random,
        server_name: str | None = None,
        locate: Locate | None = None,
    ) -> None:
        self.locate = locate
        self.extensions: Mapping[str, Any] = {"sni_hostname": server_name} if tls and server_name else {}
        self.now = now
        self.randomness = randomness
        self._scheme = "https" if tls else "http"
        # Made once and always given: httpx would load the system's authorities anew for every client.
        self._context: Callable[[], ssl.SSLContext]
        if tls and ca_file:
            self._context = WatchedFile(ca_file, read_authority).get
        else:
            context = ssl.create_default_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context = lambda: context
        self._token = WatchedFile(token_file, read_token) if token_file else None

    @asynccontextmanager
    async def connect(self, agent: Agent, *, connect_seconds: float, read_seconds: float) -> AsyncIterator[AgentClient]:
        """A client for one agent; it connects with its first request and keeps that connection."""
        http = httpx.AsyncClient(
            base_url=self.url(agent),
            verify=self._context(),
            headers={"accept-encoding": "identity", "user-agent": f"nodeobs/{__version__}"},
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None),
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
            trust_env=False,
        )
        async with http:
            yield AgentClient(agent, http, self)

    def url(self, agent: Agent) -> httpx.URL:
        """Where the agent is called."""
        return httpx.URL(scheme=self._scheme, host=agent.host, port=agent.port or None)

    def credentials(self) -> dict[str, str]:
        """The header that says who calls."""
        return {"authorization": f"Bearer {self._token.get()}"} if self._token else {}


@dataclass(frozen=True)
class Answer:
    """What an agent answered, read whole."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Started:
    """A start that the agent took."""

    collection: Collection
    sent_at: datetime
    """The service's clock when the request went out."""


class AgentClient:
    """One agent's calls. All raise AgentError, and AgentUnavailable where another try can help.

    When the agent does not answer, the next try goes to its other address, or to where it has moved meanwhile.
    """

    def __init__(self, agent: Agent, http: httpx.AsyncClient, connector: AgentConnector) -> None:
        self.agent = agent
        self._http = http
        self._connector = connector
        self._handshakes = Handshakes()

    async def start(self, request: CollectionRequest, *, limit: float) -> Started | None:
        """Start a collection, or find it started; None: the agent does not know ``/v1``."""
        sent_at = self._connector.now()

        async def body() -> AsyncIterator[bytes]:
            # Written once the connection is open, so that opening it does not count as a difference of clocks.
            nonlocal sent_at
            sent_at = self._connector.now()
            yield encode_json(replace(request, sent_at=sent_at))

        answer = await self.exchange("POST", "/v1/collections", limit=limit, content=body())
        if answer.status == 404:
            return None
        if answer.status not in (200, 202):
            raise failures.from_status(self.agent, answer.status, answer.body)
        return Started(self._collection(answer.body, request.id), sent_at)

    async def status(self, run_uid: str, *, wait: int, limit: float) -> Collection:
        """State of a collection; the agent answers when it is over, or after ``wait`` seconds."""
        answer = await self.exchange("GET", f"/v1/collections/{run_uid}", limit=limit, params={"wait": str(wait)})
        if answer.status == 404:
            raise AgentError(
                FailureReason.AGENT_RESTARTED,
                f"{self.agent}: no longer knows the collection that it had started: it was restarted, or its "
                "storage emptied",
            )
        if answer.status != 200:
            raise failures.from_status(self.agent, answer.status, answer.body)
        return self._collection(answer.body, run_uid)

    async def drop(self, run_uid: str, *, limit: float) -> None:
        """Cancel a collection that is going, or delete its files; one that is not there is fine."""
        answer = await self.exchange("DELETE", f"/v1/collections/{run_uid}", limit=limit)
        if answer.status not in (200, 202, 204, 404):
            raise failures.from_status(self.agent, answer.status, answer.body)

    @asynccontextmanager
    async def file(self, run_uid: str, name: str, *, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """A file's bytes as a stream. Errors of the network while it is read are typed as well."""
        path = f"/v1/collections/{run_uid}/files/{name}"
        await self._need_address()
        try:
            async with self._http.stream(
                "GET", path, headers=headers | self._connector.credentials(), extensions=self._extensions()
            ) as response:
                if response.status_code not in (200, 206, 416):
                    raise failures.from_status(self.agent, response.status_code, await self._read(response))
                yield response
        except _BROKEN as error:
            raise await self._elsewhere(failures.from_transport(self.agent, error)) from error

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        limit: float,
        content: AsyncIterator[bytes] | None = None,
        params: dict[str, str] | None = None,
        authenticated: bool = True,
    ) -> Answer:
        """One request and its whole answer within ``limit`` seconds; redirects are not followed."""
        headers = {"content-type": "application/json"} if content else {}
        if authenticated:
            headers |= self._connector.credentials()
        await self._need_address()
        try:
            async with (
                asyncio.timeout(limit),
                self._http.stream(
                    method,
                    path,
                    content=content,
                    params=params,
                    headers=headers,
                    timeout=self._timeout(limit),
                    extensions=self._extensions(),
                ) as response,
            ):
                return Answer(response.status_code, await self._read(response))
        except TimeoutError as error:
            raise await self._elsewhere(failures.silent(self.agent, limit)) from error
        except _BROKEN as error:
            raise await self._elsewhere(failures.from_transport(self.agent, error)) from error

    def _extensions(self) -> dict[str, Any]:
        return {"trace": self._handshakes.note, **self._connector.extensions}

    def _timeout(self, limit: float) -> httpx.Timeout:
        """Each of the agent's addresses has its share of the time to connect."""
        usual = self._http.timeout
        if not self.agent.other_hosts or usual.connect is None:
            return usual
        share = min(usual.connect, limit) / (1 + len(self.agent.other_hosts))
        return httpx.Timeout(usual.read, connect=share)

    async def _need_address(self) -> None:
        """Raise AgentUnavailable while the agent has none."""
        if not self.agent.host:
            await self._elsewhere(failures.absent(self.agent))
        if not self.agent.host:
            raise failures.absent(self.agent)

    async def _elsewhere(self, error: AgentError) -> AgentError:
        """Turn to where the agent may be instead, if that can help; the error as it was."""
        if isinstance(error, AgentUnavailable):
            found = await self._found()
            here, hosts = self.agent.host, (found.host, *found.other_hosts)
            turn = hosts.index(here) + 1 if here in hosts else 0
            host, *others = *hosts[turn:], *hosts[:turn]
            self.agent = change(found, host=host, other_hosts=tuple(others))
            self._http.base_url = self._connector.url(self.agent)
        return error

    async def _found(self) -> Agent:
        """The agent as it is known now; who looks for it has half a second to find it somewhere else."""
        locate = self._connector.locate
        if locate is None:
            return self.agent
        found = locate(self.agent)
        if {found.host, *found.other_hosts} == {self.agent.host, *self.agent.other_hosts}:
            await asyncio.sleep(_LOOK_SECONDS)
            found = locate(self.agent)
        return found

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise failures.bad_response(self.agent, f"its answer is longer than {MAX_BODY_BYTES} bytes")
        return bytes(body)

    def _collection(self, body: bytes, run_uid: str) -> Collection:
        try:
            collection = decode_json(body, Collection)
        except InvalidInput as error:
            what = f"its answer is not a collection's state: {failures.clean(str(error))}"
            raise failures.bad_response(self.agent, what) from error
        if collection.id != run_uid:
            raise failures.bad_response(self.agent, f"answered for the collection {collection.id}, not {run_uid}")
        return collection
