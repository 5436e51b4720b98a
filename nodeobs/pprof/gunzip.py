"""Unpacking a profile in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from typing import IO, Final

from nodeobs.errors import ProfileError

CHUNK: Final = 1 << 18
_MAGIC: Final = b"\x1f\x8b"
_GZIP_WBITS: Final = 31
# A file of many empty members costs time for no data; real ones have one.
_MOST_MEMBERS: Final = 1000
_TEXT_TOLD_BY: Final = 8
_TEXT_SHOWN: Final = 60


def unpacked(stream: IO[bytes], *, max_bytes: int) -> Iterator[bytes]:
    """The profile's bytes in pieces of at most ``CHUNK``: gunzipped (all members), or as they are if not gzipped.

    Raises:
        ProfileError: nothing there, more than ``max_bytes`` unpacked, or broken or truncated gzip data,
            or text.
    """
    head = stream.read(CHUNK)
    if not head:
        raise ProfileError("empty file, not a profile")
    size = 0
    for piece in _members(stream, head) if head.startswith(_MAGIC) else _plain(stream, head):
        if not size and _is_text(piece):
            raise ProfileError(f"not a profile but text: {piece[:_TEXT_SHOWN].decode('ascii', 'replace')!r}")
        size += len(piece)
        if size > max_bytes:
            raise ProfileError(f"the profile unpacks to more than the allowed {max_bytes} bytes")
        yield piece


def _is_text(piece: bytes) -> bool:
    """Whether it begins as an error page does; a profile has control characters among its first."""
    begin = piece[:_TEXT_TOLD_BY]
    return begin.isascii() and begin.decode("ascii").isprintable()


def _plain(stream: IO[bytes], data: bytes) -> Iterator[bytes]:
    while data:
        yield data
        data = stream.read(CHUNK)


def _members(stream: IO[bytes], data: bytes) -> Iterator[bytes]:
    for _ in range(_MOST_MEMBERS):
        data = yield from _member(stream, data)
        data = data or stream.read(CHUNK)
        if not data:
            return
    raise ProfileError(f"broken gzip data: more than {_MOST_MEMBERS} members")


def _member(stream: IO[bytes], data: bytes) -> Generator[bytes, None, bytes]:
    """One member of the file; returns what was read beyond it."""
    member = zlib.decompressobj(_GZIP_WBITS)
    while True:
        try:
            piece = member.decompress(data, CHUNK)
        except zlib.error as error:
            raise ProfileError(f"broken gzip data: {error}") from error
        if piece:
            yield piece
        if member.eof:
            return member.unused_data
        data = member.unconsumed_tail or stream.read(CHUNK)
        if not data and not piece:
            raise ProfileError("truncated: the gzip data ends before its end mark")
