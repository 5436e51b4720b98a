"""The little of HTTP that the agent needs over ASGI: requests with bounded bodies, answers, problems, routes."""

from __future__ import annotations

import asyncio
import http
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from nodeobs.errors import NodeobsError
from nodeobs.model import Document
from nodeobs.nodeagent.agent import Receipt
from nodeobs.nodeagent.auth import Caller

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[str, str]]

LARGEST_BODY: Final = 65_536
BODY_TIMEOUT: Final = 10.0
SEND_TIMEOUT: Final = 60.0
"""Seconds in which a reader must take the next part of a body."""

JSON: Final = ("content-type", "application/json")
TEXT: Final = ("content-type", "text/plain; charset=utf-8")
CLOSE: Final = ("connection", "close")


class HttpError(NodeobsError):
    """A request that is answered with ``status`` and a problem document."""

    def __init__(self, status: int, detail: str, *, headers: Headers = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class Problem(Document, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457 problem document; ``reason`` is a failure reason, ``holder`` the id of the collection in the way."""

    type: str
    title: str
    status: int
    detail: str
    reason: str = ""
    holder: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """An answer; a body that is a generator is sent as it comes and must have its content-length in the headers."""

    status: int = 200
    headers: Headers = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


class Request:
    """One request. ``parts`` are the groups of the route's pattern, ``caller`` is who makes it, if that was checked."""

    def __init__(self, scope: Scope, receive: Receive, receipt: Receipt) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.receipt = receipt
        self.parts: Mapping[str, str] = {}
        self.caller: Caller | None = None
        self._query: bytes = scope["query_string"]
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive

    def header(self, name: str) -> str:
        """Value of the header ``name`` (lower case), ``""`` if it is not there."""
        wanted = name.encode()
        return next((value.decode("latin-1") for key, value in self._headers if key == wanted), "")

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number in the query.

        Raises:
            HttpError: 400, not a number from ``least`` to ``most``.
        """
        given = dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True)).get(name)
        if given is None:
            return default
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", given) and least <= float(given) <= most:
            return float(given)
        raise HttpError(400, f"{name}={given[:40]!r}: must be a number from {least:g} to {most:g}")

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            HttpError: 413 or 408, too large or too slow; 400 where the caller went away.
        """
        length = self.header("content-length")
        if length.isdigit() and int(length) > LARGEST_BODY:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise HttpError(400, "the connection was closed before the body had come")
                    body += message.get("body", b"")
                    if len(body) > LARGEST_BODY:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise HttpError(408, f"the body did not come within {BODY_TIMEOUT:g} seconds", headers=[CLOSE]) from error

    def _too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {LARGEST_BODY} bytes", headers=[CLOSE])


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """Handlers by method for the paths that ``pattern`` matches; the method ``*`` takes any."""

    pattern: re.Pattern[str]
    handlers: Mapping[str, Handler]
    open: bool = False
    """Whether callers need no credentials."""

    def handler(self, method: str) -> Handler:
        """The handler for ``method``.

        Raises:
            HttpError: 405.
        """
        found = self.handlers.get(method) or self.handlers.get("*")
        if found is None and method == "HEAD":
            found = self.handlers.get("GET")
        if found is None:
            allowed = ", ".join(sorted(self.handlers))
            raise HttpError(405, f"{method} is not allowed here; allowed: {allowed}", headers=[("allow", allowed)])
        return found


def json_response(document: object, status: int = 200) -> Response:
    """A document as JSON."""
    return Response(status=status, headers=[JSON], body=msgspec.json.encode(document))


def text_response(text: str, status: int = 200) -> Response:
    """Plain text."""
    return Response(status=status, headers=[TEXT], body=text.encode())


def problem(status: int, detail: str, *, headers: Headers = (), reason: str = "", holder: str = "") -> Response:
    """An error, as problem JSON."""
    title = http.HTTPStatus(status).phrase
    document = Problem(type="about:blank", title=title, status=status, detail=detail, reason=reason, holder=holder)
    kind = ("content-type", "application/problem+json")
    return Response(status=status, headers=[kind, *headers], body=msgspec.json.encode(document))


async def send_response(response: Response, send: Send) -> None:
    """Send it; a reader that takes nothing for a minute is given up.

    Raises:
        TimeoutError: given up.
    """
    headers = [(name.encode(), value.encode("latin-1")) for name, value in response.headers]
    body = response.body
    if isinstance(body, bytes) and response.status not in (204, 304):
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return
    async with aclosing(body) as chunks:
        async for chunk in chunks:
            async with asyncio.timeout(SEND_TIMEOUT):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
