"""Looking a profile through without holding it: is it whole, and what is it of.

Only the fields of the outermost message are walked, the rest is skipped over; that is enough to tell a profile from an
error page, and a whole one from one that was cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeobs.errors import ProfileError
from nodeobs.pprof.gunzip import unpacked
from nodeobs.pprof.profile import NO_TYPE, ValueType
from nodeobs.pprof.wire import BYTES, FIXED32, FIXED64, VARINT, fields, read_varint, signed

DEFAULT_MAX_BYTES: Final = 1 << 30

_SAMPLE_TYPE, _SAMPLE, _MAPPING, _STRING, _TIME, _DURATION, _PERIOD_TYPE = 1, 2, 3, 6, 9, 10, 11
_KNOWN: Final = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 11), (BYTES,)),
    **dict.fromkeys((7, 8, 9, 10, 12, 14, 15), (VARINT,)),
    13: (VARINT, BYTES),
}
"""The wire types that each field of a profile may have."""
_FIXED_SIZES: Final = {FIXED64: 8, FIXED32: 4}
_WIRE_TYPES: Final = (VARINT, FIXED64, BYTES, FIXED32)
_MESSAGE_TAGS: Final = frozenset(number << 3 | BYTES for number in (2, 3, 4, 5, 6))
_SAMPLE_TAG, _MAPPING_TAG, _STRING_TAG = (number << 3 | BYTES for number in (_SAMPLE, _MAPPING, _STRING))
# A tag and a length, ten bytes each at most.
_LONGEST_HEAD: Final = 20
# What is kept while walking is bounded by these; real profiles have at most four types, and short names for them.
_MOST_STRINGS: Final = 128
_LONGEST_KEPT: Final = 1 << 16
# A few megabytes can unpack to so many fields that walking them takes an hour. Real profiles have one in 30 bytes, and
# of other fields than messages and strings a dozen.
_MOST_FIELDS: Final = 20_000_000
_MOST_OTHERS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What a profile says of itself."""

    samples: int
    sample_types: tuple[ValueType, ...]
    period_type: ValueType
    time_nanos: int
    duration_nanos: int
    build_id: str
    """Of the program, its first mapping; empty where it gives none."""
    unpacked_bytes: int


def scan(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ScanResult:
    """Check that the file at ``path`` is a whole profile of at most ``max_bytes`` unpacked.

    Takes memory for a few pieces of it, however large it is, and gives other threads their turn.

    Raises:
        ProfileError: it is not.
        OSError: it cannot be read.
    """
    walk = _Walk(wanted=set())
    walk.over(path, max_bytes)
    if walk.missing():
        # The types can come after the strings they refer to.
        walk = _Walk(wanted=walk.wanted)
        walk.over(path, max_bytes)
    return walk.result()


def _head(data: bytes, start: int) -> tuple[int, int, int]:
    """The tag of a field, its number (or the size of what is none), and the position after these."""
    tag, position = read_varint(data, start)
    if tag & 7 in _FIXED_SIZES:
        return tag, _FIXED_SIZES[tag & 7], position
    return tag, *read_varint(data, position)


class _Walk:
    """One walk over a file; keeps the strings whose indices are ``wanted`` and those it learns of before them."""

    def __init__(self, *, wanted: set[int]) -> None:
        self.wanted = wanted | {0}
        self._strings: dict[int, bytes] = {}
        self._counts = [0] * 256
        self._others = 0
        self._sample_types: list[tuple[int, int]] = []
        self._period_type: tuple[int, int] | None = None
        self._numbers = {_TIME: 0, _DURATION: 0}
        self._build_id = 0
        self._bytes = 0

    def over(self, path: Path, max_bytes: int) -> None:
        rest, skipping = b"", 0
        with path.open("rb") as file:
            for piece in unpacked(file, max_bytes=max_bytes):
                self._bytes += len(piece)
                if skipping >= len(piece):
                    skipping -= len(piece)
                    continue
                data = rest + piece[skipping:]
                position = self._fields(data)
                rest, skipping = data[position:], max(0, position - len(data))
                if sum(self._counts) > _MOST_FIELDS or self._others > _MOST_OTHERS:
                    raise ProfileError("malformed profile: it has more fields than any profile has")
        if rest or skipping:
            raise ProfileError("truncated: the profile ends in the middle of a field")

    def missing(self) -> bool:
        """Whether strings went by before it was known that they are wanted."""
        return any(index not in self._strings for index in self.wanted if index < self._counts[_STRING_TAG])

    def result(self) -> ScanResult:
        if not self._sample_types:
            raise ProfileError("not a profile: it has no sample types")
        if self._string(0):
            raise ProfileError("malformed profile: the first of its strings is not empty")
        return ScanResult(
            samples=self._counts[_SAMPLE_TAG],
            sample_types=tuple(map(self._value_type, self._sample_types)),
            period_type=self._value_type(self._period_type) if self._period_type else NO_TYPE,
            time_nanos=signed(self._numbers[_TIME]),
            duration_nanos=signed(self._numbers[_DURATION]),
            build_id=self._string(self._build_id),
            unpacked_bytes=self._bytes,
        )

    def _fields(self, data: bytes) -> int:
        """Walk the fields that begin in ``data``; the position of the first that is not all there or goes beyond it.

        The loop is quick for what nearly all fields are: a short message or string that is only counted.
        """
        counts, wanted = self._counts, self.wanted
        position, last = 0, len(data) - 1
        while position < last:
            tag = data[position]
            size = data[position + 1]
            if (
                size < 0x80
                and tag in _MESSAGE_TAGS
                and (tag != _STRING_TAG or counts[_STRING_TAG] not in wanted)
                and (tag != _MAPPING_TAG or counts[_MAPPING_TAG])
            ):
                counts[tag] += 1
                position += size + 2
                continue
            after = self._field(data, position)
            if after is None:
                return position
            position = after
        return position

    def _field(self, data: bytes, start: int) -> int | None:
        """Take one field; the position after it, or None if more of it must be there."""
        try:
            tag, value, position = _head(data, start)
        except ProfileError:
            if len(data) - start < _LONGEST_HEAD:
                return None
            raise
        number, wire_type = tag >> 3, tag & 7
        if wire_type not in _KNOWN.get(number, _WIRE_TYPES):
            raise ProfileError(f"not a profile: field {number} has the wire type {wire_type}")
        after = position if wire_type == VARINT else position + value
        if number in self._numbers:
            if number == _TIME and self._numbers[_TIME]:
                raise ProfileError("malformed profile: it has two times, as several profiles in one file have")
            self._numbers[number] = value
        elif self._is_kept(number):
            if value > _LONGEST_KEPT:
                raise ProfileError(f"malformed profile: field {number} is {value} bytes long")
            if after > len(data):
                return None
            self._keep(number, data[after - value : after])
        if wire_type == BYTES and tag < len(self._counts):
            self._counts[tag] += 1
        else:
            self._others += 1
        return after

    def _is_kept(self, number: int) -> bool:
        return (
            number in (_SAMPLE_TYPE, _PERIOD_TYPE)
            or (number == _MAPPING and not self._counts[_MAPPING_TAG])
            or (number == _STRING and self._counts[_STRING_TAG] in self.wanted)
        )

    def _keep(self, number: int, data: bytes) -> None:
        if number == _STRING:
            self._strings[self._counts[_STRING_TAG]] = data
            return
        ints = {number: value for number, _, value in fields(data) if isinstance(value, int)}
        if number == _MAPPING:
            self._build_id = ints.get(6, 0)
            self.wanted.add(self._build_id)
            return
        pair = ints.get(1, 0), ints.get(2, 0)
        self.wanted.update(pair)
        if len(self.wanted) > _MOST_STRINGS or len(self._sample_types) > _MOST_STRINGS:
            raise ProfileError(f"malformed profile: its types refer to more than {_MOST_STRINGS} strings")
        if number == _PERIOD_TYPE:
            self._period_type = pair
            return
        self._sample_types.append(pair)

    def _value_type(self, pair: tuple[int, int]) -> ValueType:
        return ValueType(*map(self._string, pair))

    def _string(self, index: int) -> str:
        if index not in self._strings:
            raise ProfileError(f"malformed profile: it refers to string {signed(index)} of {self._counts[_STRING_TAG]}")
        return self._strings[index].decode("utf-8", "replace")
