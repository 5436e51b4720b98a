"""Reading a profile."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Final, TypeVar

from nodeobs.errors import ProfileError
from nodeobs.pprof.gunzip import unpacked
from nodeobs.pprof.profile import (
    NO_TYPE,
    Function,
    Label,
    Line,
    Location,
    Mapping,
    Profile,
    Sample,
    ValueType,
    sorted_labels,
)
from nodeobs.pprof.usual import usual_functions, usual_locations
from nodeobs.pprof.wire import BYTES, VARINT, Varints, fields, signed, split_varints

Entry = TypeVar("Entry", Mapping, Function, Location)

DEFAULT_MAX_BYTES: Final = 256 << 20
_MOST_VARINTS: Final = 1 << 20

# Numbers of fields by name, from google/pprof's proto/profile.proto; the rest is read by position below.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _STRING = 1, 2, 3, 4, 5, 6
_DROP_FRAMES, _KEEP_FRAMES, _TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _COMMENT, _DEFAULT_TYPE, _DOC_URL = range(7, 16)
_LOCATION_LINE, _SAMPLE_LABEL = 4, 3

# The tags, as encoded, of fields 0 to 15 where they are numbers.
_TAGS: Final = [bytes([number << 3]) for number in range(16)]
_NUMBER_TAGS: Final = frozenset(_TAGS[1:])


def read(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Profile:
    """The profile that ``data`` holds, gzipped or not; ``max_bytes`` bounds it unpacked.

    What is accepted here, ``go tool pprof`` accepts.

    Raises:
        ProfileError: it is not a whole, consistent profile.
    """
    return Reader().read(data, max_bytes=max_bytes)


class Reader:
    """Reads many profiles of one kind, which have most of their numbers in common."""

    def __init__(self) -> None:
        self._varints = Varints()

    def read(self, data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Profile:
        """As the function ``read``."""
        if len(self._varints) > _MOST_VARINTS:
            self._varints.clear()
        return _Decoder(b"".join(unpacked(io.BytesIO(data), max_bytes=max_bytes)), self._varints).profile()


class _Decoder:
    """Fields are split by number first, since the tables that samples refer to may come after them."""

    def __init__(self, data: bytes, varints: Varints) -> None:
        self._varints = varints
        self._messages: dict[int, list[bytes]] = {number: [] for number in range(1, 7)}
        self._period_types: list[bytes] = []
        self._numbers: dict[int, int] = {}
        self._comments: list[int] = []
        for number, wire_type, value in fields(data):
            if number in self._messages or number == _PERIOD_TYPE:
                if not isinstance(value, bytes) or wire_type != BYTES:
                    raise _wrong_type("profile", number)
                (self._period_types if number == _PERIOD_TYPE else self._messages[number]).append(value)
            elif number == _COMMENT:
                self._comments += self._repeated(wire_type, value, "comment")
            elif number <= _DOC_URL:
                self._number(number, wire_type, value)
        self._strings = [text.decode("utf-8", "surrogateescape") for text in self._messages[_STRING]]
        if self._strings and self._strings[0]:
            raise ProfileError("malformed profile: the first of its strings is not empty")

    def profile(self) -> Profile:
        """Everything resolved and checked.

        Raises:
            ProfileError: something refers to what is not there.
        """
        sample_types = tuple(map(self._value_type, self._messages[_SAMPLE_TYPE]))
        if not sample_types:
            raise ProfileError("not a profile: it has no sample types")
        mappings = _by_id("mapping", map(self._mapping, self._messages[_MAPPING]))
        functions = _by_id("function", self._functions())
        locations = _by_id("location", self._locations(mappings))
        if missing := {line.function_id for place in locations.values() for line in place.lines} - functions.keys():
            raise ProfileError(f"malformed profile: a location is in function {min(missing)}, which is missing")
        numbers = self._numbers
        return Profile(
            sample_types=sample_types,
            samples=self._samples(len(sample_types), locations),
            mappings=list(mappings.values()),
            locations=list(locations.values()),
            functions=list(functions.values()),
            drop_frames=self._string(numbers.get(_DROP_FRAMES, 0)),
            keep_frames=self._string(numbers.get(_KEEP_FRAMES, 0)),
            time_nanos=signed(numbers.get(_TIME, 0)),
            duration_nanos=signed(numbers.get(_DURATION, 0)),
            period_type=self._value_type(self._period_types[-1]) if self._period_types else NO_TYPE,
            period=signed(numbers.get(_PERIOD, 0)),
            comments=tuple(map(self._string, self._comments)),
            default_sample_type=self._string(numbers.get(_DEFAULT_TYPE, 0)),
            doc_url=self._string(numbers.get(_DOC_URL, 0)),
        )

    def _number(self, number: int, wire_type: int, value: int | bytes) -> None:
        if not isinstance(value, int) or wire_type != VARINT:
            raise _wrong_type("profile", number)
        if number == _TIME and self._numbers.get(_TIME):
            raise ProfileError("malformed profile: it has two times, as several profiles in one file have")
        self._numbers[number] = value

    def _string(self, index: int) -> str:
        try:
            return self._strings[index]
        except IndexError:
            raise ProfileError(
                f"malformed profile: it refers to string {signed(index)} of {len(self._strings)}"
            ) from None

    def _integers(self, message: bytes) -> dict[bytes, int]:
        """The fields, by their tag, of a message that has only numbers; the last of each counts."""
        varints = self._varints
        parts = split_varints(message) if message and message[-1] <= 0x7F else []
        tags = parts[::2]
        if _NUMBER_TAGS.issuperset(tags) and len(tags) * 2 == len(parts):
            return dict(zip(tags, map(varints.__getitem__, parts[1::2]), strict=True))
        found = {}
        for number, wire_type, value in fields(message):
            if number < len(_TAGS):
                if not isinstance(value, int) or wire_type != VARINT:
                    raise _wrong_type("message", number)
                found[_TAGS[number]] = value
        return found

    def _repeated(self, wire_type: int, value: int | bytes, what: str) -> Iterable[int]:
        """One occurrence of a repeated number: a packed list, or a single one."""
        if isinstance(value, int) and wire_type == VARINT:
            return (value,)
        if isinstance(value, bytes) and wire_type == BYTES:
            return map(self._varints.__getitem__, split_varints(value))
        raise ProfileError(f"malformed profile: the wire type of {what} is {wire_type}")

    def _value_type(self, message: bytes) -> ValueType:
        found = self._integers(message).get
        return ValueType(self._string(found(_TAGS[1], 0)), self._string(found(_TAGS[2], 0)))

    def _mapping(self, message: bytes) -> Mapping:
        found = self._integers(message)
        identity, start, limit, offset, filename, build_id, *flags = (
            found.get(_TAGS[number], 0) for number in range(1, 11)
        )
        return Mapping(
            identity, start, limit, offset, self._string(filename), self._string(build_id), *map(bool, flags)
        )

    def _functions(self) -> Iterable[Function]:
        messages = self._messages[_FUNCTION]
        return usual_functions(messages, self._varints, self._strings) or map(self._function, messages)

    def _function(self, message: bytes) -> Function:
        found = self._integers(message).get
        string = self._string
        return Function(
            found(_TAGS[1], 0),
            string(found(_TAGS[2], 0)),
            string(found(_TAGS[3], 0)),
            string(found(_TAGS[4], 0)),
            signed(found(_TAGS[5], 0)),
        )

    def _locations(self, mappings: dict[int, Mapping]) -> Iterable[Location]:
        messages = self._messages[_LOCATION]
        locations = usual_locations(messages, self._varints) or [self._location(message) for message in messages]
        # Go's reader takes a mapping that is missing for none, too.
        known = mappings.keys() | {0}
        return [place if place.mapping_id in known else place._replace(mapping_id=0) for place in locations]

    def _location(self, message: bytes) -> Location:
        numbers = [0, 0, 0, 0, 0, 0]
        lines = []
        for number, wire_type, value in fields(message):
            if number == _LOCATION_LINE:
                if not isinstance(value, bytes) or wire_type != BYTES:
                    raise _wrong_type("location", number)
                found = self._integers(value).get
                lines.append(Line(found(_TAGS[1], 0), signed(found(_TAGS[2], 0)), signed(found(_TAGS[3], 0))))
            elif number < len(numbers):
                if not isinstance(value, int) or wire_type != VARINT:
                    raise _wrong_type("location", number)
                numbers[number] = value
        _, identity, mapping_id, address, _, is_folded = numbers
        return Location(identity, mapping_id, address, tuple(lines), bool(is_folded))

    def _samples(self, columns: int, locations: dict[int, Location]) -> list[Sample]:
        labels_of: dict[tuple[bytes, ...], tuple[Label, ...]] = {(): ()}
        samples = []
        used: set[int] = set()
        for message in self._messages[_SAMPLE]:
            stack: list[int] = []
            values: list[int] = []
            labels: list[bytes] = []
            for number, wire_type, value in fields(message):
                if number == 1:
                    stack += self._repeated(wire_type, value, "location_id")
                elif number == 2:
                    values += self._repeated(wire_type, value, "value")
                elif number == _SAMPLE_LABEL:
                    if not isinstance(value, bytes) or wire_type != BYTES:
                        raise _wrong_type("sample", number)
                    labels.append(value)
            if len(values) != columns:
                raise ProfileError(f"malformed profile: a sample has {len(values)} values for {columns} sample types")
            used.update(stack)
            key = tuple(labels)
            if key not in labels_of:
                labels_of[key] = sorted_labels([label for message in labels for label in self._label(message)])
            samples.append(Sample(tuple(stack), tuple(map(signed, values)), labels_of[key]))
        if missing := used - locations.keys():
            raise ProfileError(f"malformed profile: a sample is at location {min(missing)}, which is missing")
        return samples

    def _label(self, message: bytes) -> Iterable[Label]:
        found = self._integers(message).get
        key, text, number, unit = (found(tag, 0) for tag in _TAGS[1:5])
        name = self._string(key)
        if text:
            return (Label(name, self._string(text)),)
        # A label of nothing but its key is dropped, as Go's reader does.
        return (Label(name, signed(number), self._string(unit)),) if number or unit else ()


def _by_id(what: str, entries: Iterable[Entry]) -> dict[int, Entry]:
    table: dict[int, Entry] = {}
    for entry in entries:
        if entry.id == 0 or entry.id in table:
            raise ProfileError(f"malformed profile: {what} id {entry.id} is reserved or there twice")
        table[entry.id] = entry
    return table


def _wrong_type(message: str, number: int) -> ProfileError:
    return ProfileError(f"malformed profile: field {number} of a {message} has the wrong wire type")
