"""A finished file as an answer: whole, or the one range that was asked for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Final

from nodeobs.errors import NotFound
from nodeobs.model import FileInfo
from nodeobs.nodeagent.threads import in_thread
from nodeobs.nodeagent.web import HttpError, Request, Response

_READ_SIZE: Final = 262_144
_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")


async def download(request: Request, info: FileInfo, path: Path) -> Response:
    """Answer for a GET or HEAD of the file.

    Raises:
        NotFound: it has been removed meanwhile.
        HttpError: 416, nothing of the range is in the file.
    """
    etag = f'"{info.sha256}"'
    headers = [("etag", etag), ("accept-ranges", "bytes"), ("cache-control", "private, no-transform")]
    if _lists(request.header("if-none-match"), etag):
        return Response(status=304, headers=headers)
    first, end = 0, info.bytes
    wanted = _range(request, info.bytes, etag)
    if wanted is not None:
        first, end = wanted
        headers.append(("content-range", f"bytes {first}-{end - 1}/{info.bytes}"))
    headers += [("content-type", "application/octet-stream"), ("content-length", str(end - first))]
    try:
        file = await in_thread(path.open, "rb", buffering=0)
    except FileNotFoundError as error:
        raise NotFound("the file has been removed") from error
    if request.method == "HEAD":
        end = first
    return Response(status=206 if wanted else 200, headers=headers, body=_read(file, first, end))


def _range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """First byte and the one after the last; ``None`` for the whole file."""
    given = _RANGE.fullmatch(request.header("range").replace(" ", ""))
    condition = request.header("if-range")
    # Several ranges, another unit or nonsense: the header may be ignored, and is.
    if given is None or (condition and condition != etag) or request.method == "HEAD":
        return None
    first, last = given["first"], given["last"]
    if not first and not last:
        return None
    if first:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return None
    else:
        begin, end = max(0, size - int(last)), size
    if begin >= end:
        raise HttpError(416, f"the file has {size} bytes", headers=[("content-range", f"bytes */{size}")])
    return begin, end


def _lists(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in header.split(","))


async def _read(file: BinaryIO, first: int, end: int) -> AsyncGenerator[bytes, None]:
    with file:
        await in_thread(file.seek, first)
        left = end - first
        while left:
            data = await in_thread(file.read, min(left, _READ_SIZE))
            if not data:
                raise OSError("a finished file became shorter while it was read")
            left -= len(data)
            yield data
