"""Profiles made for tests."""

from __future__ import annotations

import gzip
import os

from tests.fakes.pprof_target import sample_profile

_UNKNOWN_FIELD = 100


def large_profile(size: int) -> bytes:
    """A valid profile with one sample, of ``size`` bytes and a few: a field that readers skip holds noise."""
    field = _varint(_UNKNOWN_FIELD << 3 | 2) + _varint(size) + os.urandom(size)
    return gzip.compress(gzip.decompress(sample_profile()) + field, compresslevel=0, mtime=0)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
