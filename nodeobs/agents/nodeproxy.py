"""The way without agents: kubelets' profiles come through the API server, by ``nodes/proxy``."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx

from nodeobs import __version__
from nodeobs.agents import fanout, proxyfailures
from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.handshakes import Handshakes
from nodeobs.agents.kubelets import KubeletSession
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Patience
from nodeobs.debugpprof import is_timed, path_of
from nodeobs.errors import AgentError, AgentUnavailable, ConfigurationError, NotFound
from nodeobs.kube.lane import SOCKET_OPTIONS
from nodeobs.kube.paths import NODES
from nodeobs.model import FailureReason, ProfileType

if TYPE_CHECKING:
    from nodeobs.kube.credentials import Credentials, Endpoint

_BROKEN: Final = (httpx.TransportError, ssl.SSLError)
_MAX_REFUSAL: Final = 4096
_PATIENCE: Final = Patience()


class NodeProxy:
    """Finds all nodes of the cluster, and asks their kubelets."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        nodes: Callable[[], Sequence[Agent]],
        now: Callable[[], datetime],
        randomness: random.Random,
        patience: Patience = _PATIENCE,
    ) -> None:
        """``nodes`` tells all nodes, and raises StoreUnavailable where it cannot."""
        self._credentials = credentials
        self._nodes = nodes
        self._now = now
        self._randomness = randomness
        self._patience = patience

    def roster(self, _observability: str) -> Sequence[Agent]:
        """All nodes, whichever NodeObservability asks: it needs nothing on them."""
        return self._nodes()

    async def collect(self, order: Order) -> tuple[AgentOutcome, ...]:
        """Profile the kubelets of those nodes.

        Cancelling the task ends their profiles, which nobody keeps: whoever goes on starts those again that are not in
        ``order.plan.stored``.
        """
        outcomes, _ = await fanout.conduct(
            order,
            open_party=partial(KubeletSession, connect=self._connect, now=self._now, randomness=self._randomness),
            now=self._now,
            patience=self._patience,
        )
        return outcomes

    async def purge(self, _agents: Sequence[Agent], _run_uid: str) -> None:
        """Nothing is kept on the nodes."""

    @asynccontextmanager
    async def _connect(self, agent: Agent, patience: Patience) -> AsyncIterator[KubeletClient]:
        async with AsyncExitStack() as stack:
            yield KubeletClient(agent, self._credentials, patience, stack)


class KubeletClient:
    """One node's kubelet, through the API server, with the credentials as they are at each request."""

    def __init__(self, agent: Agent, credentials: Credentials, patience: Patience, stack: AsyncExitStack) -> None:
        self._agent = agent
        self._credentials = credentials
        self._patience = patience
        self._stack = stack
        self._http: httpx.AsyncClient | None = None
        self._endpoint: Endpoint | None = None

    @asynccontextmanager
    async def profile(
        self, profile: ProfileType, seconds: int, *, begin: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The profile's bytes, as they come. ``begin`` is awaited on the open connection, before it is asked.

        Raises:
            AgentUnavailable: there is none this time.
            AgentError: there is none.
        """
        silence = self._patience.profile + (seconds if is_timed(profile) else 0)
        received = 0

        async def counted(response: httpx.Response) -> AsyncIterator[bytes]:
            nonlocal received
            async for chunk in response.aiter_raw():
                received += len(chunk)
                yield chunk

        try:
            async with await self._ask(path_of(profile, seconds), silence, begin) as response:
                if response.status_code != 200:
                    raise await self._refused(response)
                yield counted(response)
        except httpx.ReadTimeout as error:
            raise proxyfailures.silent(self._agent, silence) from error
        except httpx.RemoteProtocolError as error:
            if received:
                raise proxyfailures.cut_off(self._agent, profile, received) from error
            raise proxyfailures.from_transport(self._agent, self._credentials.server, error) from error
        except _BROKEN as error:
            raise proxyfailures.from_transport(self._agent, self._credentials.server, error) from error

    async def _ask(self, what: str, silence: float, begin: Callable[[], Awaitable[None]]) -> Any:
        try:
            path = NODES.item(self._agent.name, subresource="proxy")
            token, endpoint = await asyncio.to_thread(lambda: (self._credentials.token(), self._credentials.endpoint()))
            http = await self._towards(endpoint)
        except NotFound as error:
            raise AgentError(FailureReason.NO_AGENT, f"{self._agent}: {error}") from error
        except ConfigurationError as error:
            raise AgentError(FailureReason.UNAUTHORIZED, f"{self._agent}: {error}") from error
        return http.stream(
            "GET",
            f"{path}/debug/pprof/{what}",
            headers={"authorization": token} if token else {},
            timeout=httpx.Timeout(silence, connect=self._patience.connect),
            extensions={
                "trace": _Opening(begin),
                **({"sni_hostname": endpoint.server_name} if endpoint.server_name else {}),
            },
        )

    async def _towards(self, endpoint: Endpoint) -> httpx.AsyncClient:
        """The connections to what the credentials name now."""
        if self._http is None or endpoint is not self._endpoint:
            try:
                transport = httpx.AsyncHTTPTransport(
                    verify=endpoint.context, proxy=endpoint.proxy or None, socket_options=SOCKET_OPTIONS
                )
                http = httpx.AsyncClient(
                    base_url=endpoint.server,
                    transport=transport,
                    trust_env=False,
                    headers={"accept-encoding": "identity", "user-agent": f"nodeobs/{__version__}"},
                )
            except (ValueError, ImportError, httpx.InvalidURL) as error:
                raise ConfigurationError(f"the API server at {endpoint.server} cannot be called: {error}") from error
            self._http, self._endpoint = await self._stack.enter_async_context(http), endpoint
        return self._http

    async def _refused(self, response: httpx.Response) -> AgentError:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= _MAX_REFUSAL:
                break
        error = proxyfailures.from_status(self._agent, response.status_code, bytes(body[:_MAX_REFUSAL]))
        if error.reason is FailureReason.UNAUTHORIZED:
            refused = response.request.headers.get("authorization", "")
            if await asyncio.to_thread(self._credentials.renew, refused):
                return AgentUnavailable(error.reason, error.message, sent=False)
        return error


class _Opening:
    """Lets a request wait on its open connection, so that opening it takes nothing of a profile's time."""

    def __init__(self, begin: Callable[[], Awaitable[None]]) -> None:
        self._begin = begin
        self._handshakes = Handshakes()

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        await self._handshakes.note(event, info)
        # A proxy is asked on the same connection before: by CONNECT.
        if event == "http11.send_request_headers.started" and info["request"].method == b"GET":
            await self._begin()
