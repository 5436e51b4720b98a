"""What a pprof profile holds, as in google/pprof's ``proto/profile.proto``, with strings in place of string indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class ValueType(NamedTuple):
    """What one column of sample values counts: ``cpu`` in ``nanoseconds``."""

    type: str
    unit: str


class Label(NamedTuple):
    """Something known of a sample: ``value`` is a string, or a number in ``unit`` (which may be unknown, ``""``)."""

    key: str
    value: str | int
    unit: str = ""


class Sample(NamedTuple):
    """One stack and its values."""

    stack: tuple[int, ...]
    """Location ids, the leaf first."""
    values: tuple[int, ...]
    """One for each of the profile's sample types."""
    labels: tuple[Label, ...] = ()
    """Strings before numbers, each in the order of their keys: equal labels make equal tuples."""


class Mapping(NamedTuple):
    """A file mapped into the process; the first one of a profile is its program."""

    id: int
    start: int = 0
    limit: int = 0
    offset: int = 0
    filename: str = ""
    build_id: str = ""
    has_functions: bool = False
    has_filenames: bool = False
    has_line_numbers: bool = False
    has_inline_frames: bool = False


class Line(NamedTuple):
    """A place in a function's source."""

    function_id: int
    line: int = 0
    column: int = 0


class Location(NamedTuple):
    """An address; more than one line where functions were inlined there, the innermost first."""

    id: int
    mapping_id: int = 0
    """0 for none."""
    address: int = 0
    lines: tuple[Line, ...] = ()
    is_folded: bool = False


class Function(NamedTuple):
    """A function of the program."""

    id: int
    name: str
    system_name: str = ""
    filename: str = ""
    start_line: int = 0


NO_TYPE = ValueType("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile; every id in it is that of an entry in its tables."""

    sample_types: tuple[ValueType, ...]
    samples: Sequence[Sample] = ()
    mappings: Sequence[Mapping] = ()
    locations: Sequence[Location] = ()
    functions: Sequence[Function] = ()
    drop_frames: str = ""
    keep_frames: str = ""
    time_nanos: int = 0
    """When it began, since the epoch."""
    duration_nanos: int = 0
    period_type: ValueType = NO_TYPE
    period: int = 0
    comments: tuple[str, ...] = ()
    default_sample_type: str = ""
    doc_url: str = ""


def sorted_labels(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels in the one order that ``Sample.labels`` has."""
    if len(labels) == 1:
        return tuple(labels)
    return tuple(sorted(labels, key=_label_order))


def _label_order(label: Label) -> tuple[bool, str]:
    return not isinstance(label.value, str), label.key
