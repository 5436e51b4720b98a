"""Writing a profile."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from nodeobs.pprof.profile import Label, Location, Mapping, Profile, ValueType
from nodeobs.pprof.wire import BYTES, varint

_GZIP_WBITS: Final = 31


def write(profile: Profile) -> bytes:
    """The profile, gzipped; equal profiles give equal bytes (gzip's own time is 0)."""
    packer = zlib.compressobj(wbits=_GZIP_WBITS)
    packed = [packer.compress(piece) for piece in _Encoder().pieces(profile)]
    packed.append(packer.flush())
    return b"".join(packed)


class _Varint(dict[int, bytes]):
    """Encoded numbers: few different ones are written again and again."""

    def __missing__(self, value: int) -> bytes:
        encoded = self[value] = varint(value)
        return encoded


class _Encoder:
    def __init__(self) -> None:
        self._varint = _Varint()
        self._strings: dict[str, int] = {"": 0}

    def pieces(self, profile: Profile) -> Iterator[bytes]:
        """The message in pieces; the strings come last, when all are known."""
        for value_type in profile.sample_types:
            yield _message(1, self._value_type(value_type))
        yield b"".join(map(self._number, range(9, 11), (profile.time_nanos, profile.duration_nanos)))
        if profile.period_type != ("", ""):
            yield _message(11, self._value_type(profile.period_type))
        yield self._number(12, profile.period)
        yield from self._samples(profile)
        for mapping in profile.mappings:
            yield _message(3, self._mapping(mapping))
        for location in profile.locations:
            yield _message(4, self._location(location))
        for function in profile.functions:
            name, system_name, filename = map(self._string, (function.name, function.system_name, function.filename))
            yield _message(5, self._numbers(function.id, name, system_name, filename, function.start_line))
        yield self._number(7, self._string(profile.drop_frames))
        yield self._number(8, self._string(profile.keep_frames))
        if profile.comments:
            yield _message(13, self._packed(map(self._string, profile.comments)))
        yield self._number(14, self._string(profile.default_sample_type))
        yield self._number(15, self._string(profile.doc_url))
        for text in self._strings:
            yield _message(6, text.encode("utf-8", "surrogateescape"))

    def _samples(self, profile: Profile) -> Iterator[bytes]:
        labels_of: dict[tuple[Label, ...], bytes] = {}
        for stack, values, labels in profile.samples:
            if labels not in labels_of:
                labels_of[labels] = b"".join(_message(3, self._label(label)) for label in labels)
            body = _message(1, self._packed(stack)) if stack else b""
            yield _message(2, body + _message(2, self._packed(values)) + labels_of[labels])

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _packed(self, values: Iterable[int]) -> bytes:
        return b"".join(map(self._varint.__getitem__, values))

    def _number(self, number: int, value: int) -> bytes:
        """The field, or nothing where it is 0, which is what a missing one is read as."""
        return bytes([number << 3]) + self._varint[value] if value else b""

    def _numbers(self, *values: int) -> bytes:
        """Fields 1 and on."""
        return b"".join([self._number(number, value) for number, value in enumerate(values, 1) if value])

    def _value_type(self, value_type: ValueType) -> bytes:
        return self._numbers(self._string(value_type.type), self._string(value_type.unit))

    def _label(self, label: Label) -> bytes:
        if isinstance(label.value, str):
            return self._numbers(self._string(label.key), self._string(label.value))
        return self._numbers(self._string(label.key), 0, label.value, self._string(label.unit))

    def _mapping(self, mapping: Mapping) -> bytes:
        identity, start, limit, offset, filename, build_id, *flags = mapping
        return self._numbers(
            identity, start, limit, offset, self._string(filename), self._string(build_id), *map(int, flags)
        )

    def _location(self, location: Location) -> bytes:
        lines = b"".join([_message(4, self._numbers(*line)) for line in location.lines])
        head = self._numbers(location.id, location.mapping_id, location.address)
        return head + lines + self._number(5, location.is_folded)


def _message(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + varint(len(body)) + body
