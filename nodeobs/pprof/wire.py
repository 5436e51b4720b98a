"""The protobuf wire format, as far as profiles use it.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from nodeobs.errors import ProfileError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; 3 and 4, the long deprecated groups, are refused."""

ONE_VARINT: Final = re.compile(rb"[\x80-\xff]*+[\x00-\x7f]")
_UINT64: Final = (1 << 64) - 1
_INT64_LIMIT: Final = 1 << 63
_LONGEST_VARINT: Final = 10


class Varints(dict[bytes, int]):
    """Values of encoded varints, decoded when first asked for.

    Profiles repeat few different numbers: splitting with ``ONE_VARINT`` and looking up here is several times quicker
    than decoding byte by byte.
    """

    def __missing__(self, encoded: bytes) -> int:
        value = self[encoded] = decode_varint(encoded)
        return value


def decode_varint(encoded: bytes) -> int:
    """The unsigned value of one whole varint; bits beyond the 64th are lost, as in other decoders.

    Raises:
        ProfileError: it is longer than 10 bytes.
    """
    if len(encoded) > _LONGEST_VARINT:
        raise ProfileError("malformed profile: a number is longer than 10 bytes")
    value = 0
    for shift, byte in enumerate(encoded):
        value |= (byte & 0x7F) << (7 * shift)
    return value & _UINT64


def signed(value: int) -> int:
    """The int64 that a decoded uint64 stands for."""
    return value - _UINT64 - 1 if value >= _INT64_LIMIT else value


def varint(value: int) -> bytes:
    """``value`` encoded; a negative one, or one beyond 64 bits, is taken modulo 2**64."""
    value &= _UINT64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The varint at ``position``, and the position after it.

    Raises:
        ProfileError: it has no end within ``data``, or is longer than 10 bytes.
    """
    match = ONE_VARINT.match(data, position, position + _LONGEST_VARINT)
    if match is None:
        raise ProfileError(f"malformed profile: no valid number at byte {position} of a message of {len(data)}")
    return decode_varint(match[0]), match.end()


def split_varints(data: bytes) -> list[bytes]:
    """The varints that fill ``data``, still encoded.

    Raises:
        ProfileError: the last one is cut off.
    """
    if data and data[-1] > 0x7F:
        raise ProfileError("malformed profile: a list of numbers is cut off")
    return ONE_VARINT.findall(data)


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Each field of a message: its number, its wire type, and its value (unsigned, or bytes).

    Raises:
        ProfileError: ``data`` is not a message.
    """
    position, end = 0, len(data)
    while position < end:
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = read_varint(data, position - 1)
        wire_type = tag & 7
        if wire_type in (BYTES, VARINT):
            # Nearly every number fits one byte: the call is kept for the others.
            value = data[position] if position < end else 0x80
            position += 1
            if value > 0x7F:
                value, position = read_varint(data, position - 1)
            if wire_type == VARINT:
                yield tag >> 3, VARINT, value
                continue
        elif wire_type in (FIXED64, FIXED32):
            value = 8 if wire_type == FIXED64 else 4
        else:
            raise ProfileError(f"malformed profile: field {tag >> 3} has the unknown wire type {wire_type}")
        start, position = position, position + value
        if position > end:
            raise ProfileError(f"malformed profile: field {tag >> 3} is {value} bytes long, {end - start} are left")
        yield tag >> 3, wire_type, data[start:position]
