"""The agent as a process: builds everything from the settings, listens, ends on SIGTERM."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import resource
import signal
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry
from uvicorn.config import Config
from uvicorn.server import Server

from nodeobs.errors import ConfigurationError
from nodeobs.nodeagent.agent import NodeAgent
from nodeobs.nodeagent.arguments import read_settings
from nodeobs.nodeagent.auth import Access, TokenFile
from nodeobs.nodeagent.connections import ImpatientProtocol
from nodeobs.nodeagent.kept import Kept
from nodeobs.nodeagent.metrics import AgentMetrics
from nodeobs.nodeagent.reviews import ReviewedAccess
from nodeobs.nodeagent.server import AgentServer
from nodeobs.nodeagent.settings import AgentSettings
from nodeobs.nodeagent.storage import Storage
from nodeobs.nodeagent.targets import Target, Timeouts
from nodeobs.nodeagent.tls import ServerCertificate
from nodeobs.selfprofile import SelfProfiler

logger = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 1.0
"""uvicorn's Date header is as old as that."""
_THREADS: Final = 4
_BACKLOG: Final = 2048
_TLS_BUFFER: Final = 32_768


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT. Exit code: 0 when told to end, 2 for a setting that cannot be used."""
    try:
        settings = read_settings(arguments, environ)
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        with Storage(settings.storage) as storage, _listen(settings) as listener:
            asyncio.run(_serve(settings, storage, listener))
    except ConfigurationError as error:
        sys.stderr.write(f"nodeobs agent: {error}\n")
        return 2
    return 0


async def _serve(settings: AgentSettings, storage: Storage, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    # Few threads: each keeps its own memory arena. They write files, and one profiles this process.
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(_THREADS))
    access: Access | None = TokenFile(settings.tokens_file) if settings.tokens_file else None
    if settings.api_server is not None:
        access = ReviewedAccess(settings.api_server, monotonic=time.monotonic)
    certificate = None
    if settings.tls_cert_file and settings.tls_key_file:
        certificate = ServerCertificate(settings.tls_cert_file, settings.tls_key_file)
    metrics = AgentMetrics(CollectorRegistry(), [target.name for target in settings.targets])
    kept = Kept(storage, metrics, max_bytes=settings.max_bytes, max_age=settings.max_age, now=_now)
    kept.recover()
    agent = NodeAgent(
        [Target(target, Timeouts()) for target in settings.targets],
        storage=storage,
        kept=kept,
        metrics=metrics,
        now=_now,
        monotonic=time.monotonic,
    )
    application = AgentServer(
        agent,
        access=access,
        metrics=metrics,
        profiler=SelfProfiler(),
        now=_now,
        monotonic=time.monotonic,
        new_id=uuid.uuid4,
    )
    housekeeping = asyncio.create_task(_keep_house(kept, certificate), name="housekeeping")
    try:
        # Not left to uvicorn, which has much to do before: whoever reads the announcement may connect.
        listener.listen(_BACKLOG)
        _announce(settings, listener)
        await _Listener(application, certificate).serve(sockets=[listener])
    finally:
        housekeeping.cancel()
        await application.stop()


class _Listener(Server):
    """uvicorn, without its logging, that lets open requests be answered before it ends."""

    def __init__(self, application: AgentServer, certificate: ServerCertificate | None) -> None:
        config = Config(
            application,
            http=ImpatientProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            workers=1,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            backlog=_BACKLOG,
            ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
        )
        super().__init__(config)
        self._application = application
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Until a signal comes. uvicorn would look for one ten times a second: most of what an agent at rest did."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _TICK_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In the main thread, between any two of its instructions."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer who waits, end."""
        logger.info("stopping")
        await self._application.stop()
        await super().shutdown(sockets)


async def _keep_house(kept: Kept, certificate: ServerCertificate | None) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
        try:
            if certificate is not None:
                certificate.reload()
            await kept.expire()
        except Exception:
            # A task's edge: the next round may succeed.
            logger.exception("housekeeping failed")


def _listen(settings: AgentSettings) -> socket.socket:
    if settings.unix_socket is not None:
        return _listen_unix(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle's delays off only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; see --host and --port"
        ) from error
    return listener


def _listen_unix(settings: AgentSettings) -> socket.socket:
    path = settings.unix_socket
    assert path is not None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"--unix-socket {path}: cannot listen there: {error.strerror or error}") from error
    return listener


def _announce(settings: AgentSettings, listener: socket.socket) -> None:
    names = ", ".join(f"{target.name} ({target.endpoint})" for target in settings.targets)
    if settings.unix_socket is not None:
        where = f"unix:{settings.unix_socket}"
    else:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        where = f"{'https' if settings.tls_cert_file else 'http'}://{host}:{listener.getsockname()[1]}"
    logger.info("listening on %s; targets: %s", where, names or "none, so every collection will fail")


def prepare_process() -> None:
    """What only a process of the agent's own may change: limits, and the end by signal."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # asyncio holds 256 KiB for each TLS connection from its first byte: anyone could fill the memory with a few
    # hundred. TLS itself needs 16 KiB.
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER  # type: ignore[attr-defined]
    for number in (signal.SIGTERM, signal.SIGINT):
        # Before uvicorn has its own handlers, and again when it has ended: it raises the signal once more then.
        signal.signal(number, lambda *_: sys.exit(0))


def _now() -> datetime:
    return datetime.now(UTC)
