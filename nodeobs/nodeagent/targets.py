"""The targets of this agent: which paths may be asked, with which credentials, and what a refusal means."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from nodeobs.debugpprof import is_timed, path_of
from nodeobs.errors import AgentError
from nodeobs.model import FailureReason, ProfileType, TargetInfo
from nodeobs.nodeagent.exchange import Address, Reply, exchange
from nodeobs.nodeagent.refusals import refusal
from nodeobs.nodeagent.target_settings import PPROF_PATH, TargetSettings

# A pprof profile is gzip; an execution trace begins with the version of Go that wrote it (internal/trace).
_MAGIC: Final = {kind: b"go 1." if kind is ProfileType.TRACE else b"\x1f\x8b" for kind in ProfileType}

_ADVICE: Final = {
    "kubelet": "is the kubelet running, and is this its address (--kubelet-url)?",
    "crio": "is CRI-O running, and is its socket there (--crio-socket)?",
    "containerd": 'is containerd running, with [debug] address = "/run/containerd/debug.sock" in its config.toml?',
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long a target is waited for, in seconds."""

    connect: float = 5.0
    """For a connection, TLS included."""
    read: float = 15.0
    """For the next bytes, beyond the seconds that the profile takes."""
    probe: float = 3.0
    """For a probe as a whole."""


class Target:
    """One pprof endpoint. Credentials and CAs are read for every exchange, because they rotate."""

    def __init__(self, settings: TargetSettings, timeouts: Timeouts) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self.name = settings.name
        self.endpoint = settings.endpoint

    async def stream(self, profile: ProfileType, seconds: int) -> AsyncGenerator[bytes, None]:
        """The profile's bytes, as they come. ``seconds`` counts for cpu and trace; the others are snapshots.

        Raises:
            AgentError: why there is no profile.
        """
        read_timeout = self._timeouts.read + (seconds if is_timed(profile) else 0)
        async with (
            self._get(path_of(profile, seconds), read_timeout=read_timeout) as reply,
            contextlib.aclosing(reply.chunks()) as chunks,
        ):
            held = b""
            async for chunk in chunks:
                held += chunk
                if len(held) >= len(_MAGIC[profile]):
                    break
            self._check_start(held, _MAGIC[profile])
            yield held
            async for chunk in chunks:
                yield chunk

    async def probe(self) -> TargetInfo:
        """Whether it can be profiled now. Asks for its threadcreate profile, the cheapest there is."""
        note = "its certificate is not verified: no CA is configured" if self._settings.any_certificate else ""
        try:
            async with (
                asyncio.timeout(self._timeouts.probe),
                contextlib.aclosing(self.stream(ProfileType.THREADCREATE, 0)) as first,
            ):
                await anext(first)
        except AgentError as error:
            return self._unavailable(error.reason, error.message)
        except TimeoutError:
            return self._unavailable(
                FailureReason.TIMEOUT, f"{self.endpoint} did not answer within {self._timeouts.probe:g} seconds"
            )
        return TargetInfo(name=self.name, endpoint=self.endpoint, available=True, message=note)

    def _unavailable(self, reason: FailureReason, message: str) -> TargetInfo:
        return TargetInfo(name=self.name, endpoint=self.endpoint, available=False, reason=reason, message=message)

    @contextlib.asynccontextmanager
    async def _get(self, path: str, *, read_timeout: float) -> AsyncIterator[Reply]:
        address, headers = await asyncio.to_thread(lambda: (self._address(), self._credentials()))
        base = urlsplit(self._settings.url).path if self._settings.url else PPROF_PATH
        try:
            async with exchange(
                address,
                f"{base}/{path}",
                headers=headers,
                connect_timeout=self._timeouts.connect,
                read_timeout=read_timeout,
            ) as reply:
                if reply.status != 200:
                    raise refusal(self.name, self.endpoint, reply.status, await reply.text(4096))
                yield reply
        except AgentError as error:
            advice = _ADVICE.get(self.name)
            if error.reason is FailureReason.TARGET_UNAVAILABLE and advice:
                raise AgentError(error.reason, f"{error.message}; {advice}") from error
            raise

    def _address(self) -> Address:
        settings = self._settings
        if settings.socket is not None:
            return Address(shown=self.endpoint, socket=settings.socket)
        parts = urlsplit(settings.url)
        secure = parts.scheme == "https"
        return Address(
            shown=self.endpoint,
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            tls=self._tls() if secure else None,
            server_name=settings.server_name,
        )

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._settings.any_certificate:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self._settings.ca_file is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(cafile=self._settings.ca_file)
            except OSError as error:
                raise AgentError(
                    FailureReason.TLS_FAILURE,
                    f"{self.endpoint}: CA file {self._settings.ca_file} cannot be used: {error.strerror or error}",
                ) from error
        return context

    def _credentials(self) -> list[tuple[str, str]]:
        path = self._settings.token_file
        if path is None:
            return []
        return [("Authorization", f"Bearer {_read_token(path, self.endpoint)}")]

    def _check_start(self, start: bytes, begins: bytes) -> None:
        if start.startswith(begins):
            return
        shown = "".join(char if char.isprintable() else " " for char in start[:200].decode("utf-8", "replace")).strip()
        raise AgentError(
            FailureReason.BAD_PROFILE,
            f"{self.endpoint} answered 200 with something that is not a profile"
            + (f", beginning {shown!r}" if shown else " (nothing at all)"),
        )


def _read_token(path: Path, endpoint: str) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "it holds other than ASCII characters"
        raise AgentError(
            FailureReason.UNAUTHORIZED, f"{endpoint}: the token in {path} cannot be read: {detail}"
        ) from error
    if not token or not token.isprintable() or " " in token:
        raise AgentError(FailureReason.UNAUTHORIZED, f"{endpoint}: {path} does not hold one token")
    return token
