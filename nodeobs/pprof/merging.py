"""Merging profiles by the rules of google/pprof's ``profile/merge.go``.

Profiles are added one after another and need not be kept: what stays is the symbols, each once, and the samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Dictionary
from dataclasses import replace
from operator import add
from typing import Final

from nodeobs.errors import ProfileError
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Profile, Sample, ValueType, sorted_labels

_ADDRESSES: Final = 1 << 64
_MAPPING_ROUNDING: Final = 0x1000

Labels = Dictionary[str, str]


def merge(inputs: Iterable[tuple[Profile, Labels]]) -> Profile:
    """One profile of all; the labels given with an input are put on every sample of it.

    Raises:
        ProfileError: there are no inputs, or their types differ.
    """
    merger = Merger()
    for profile, labels in inputs:
        merger.add(profile, labels)
    return merger.result()


class Merger:
    """A merge in progress."""

    def __init__(self) -> None:
        self._header: Profile | None = None
        self._symbols = _Symbols()
        self._samples: dict[tuple[tuple[int, ...], tuple[Label, ...]], tuple[int, ...]] = {}

    def add(self, profile: Profile, labels: Labels) -> None:
        """Add a profile, with ``labels`` in place of what its samples have under these keys.

        Raises:
            ProfileError: its types are not those of the first one; nothing was added.
        """
        if self._header is None:
            self._header = replace(profile, samples=(), mappings=(), locations=(), functions=())
        else:
            self._header = _combined(self._header, profile)
        location_of = _LocationIds(self._symbols, profile).__getitem__
        labels_of: dict[tuple[Label, ...], tuple[Label, ...]] = {}
        samples = self._samples
        for stack, values, given in profile.samples:
            if not any(values):
                continue
            if given not in labels_of:
                labels_of[given] = _labelled(given, labels)
            key = (tuple(map(location_of, stack)), labels_of[given])
            known = samples.get(key)
            samples[key] = tuple(map(add, known, values)) if known else values

    def result(self) -> Profile:
        """What was added, merged; ids count from 1 in the order of first use.

        Raises:
            ProfileError: nothing was added.
        """
        if self._header is None:
            raise ProfileError("there are no profiles to merge")
        merged = replace(
            self._header,
            samples=[Sample(stack, values, labels) for (stack, labels), values in self._samples.items()],
            mappings=list(self._symbols.mappings.values()),
            locations=list(self._symbols.locations.values()),
            functions=list(self._symbols.functions.values()),
        )
        if all(map(any, self._samples.values())):
            return merged
        # Negative values can cancel others out; what only those samples used goes with them.
        return merge([(merged, {})])


class _Symbols:
    """The tables of the merged profile, by what makes two entries the same."""

    def __init__(self) -> None:
        self.mappings: dict[tuple[int, int, str], Mapping] = {}
        self.locations: dict[tuple[int, int, tuple[Line, ...], bool], Location] = {}
        self.functions: dict[tuple[str, str, str, int], Function] = {}


class _FunctionIds(dict[int, int]):
    """One input's function ids in the merged profile; only what is asked for gets there."""

    def __init__(self, symbols: _Symbols, profile: Profile) -> None:
        super().__init__()
        self._merged = symbols.functions
        self._given = {function.id: function for function in profile.functions}

    def __missing__(self, identity: int) -> int:
        given = self._given[identity]
        function = self._merged.get(given[1:])
        if function is None:
            function = self._merged[given[1:]] = given._replace(id=len(self._merged) + 1)
        self[identity] = function.id
        return function.id


class _Mappings(dict[int, Mapping]):
    """Like ``_FunctionIds``, but whole mappings, as addresses are counted from their start."""

    def __init__(self, symbols: _Symbols, profile: Profile) -> None:
        super().__init__()
        self._merged = symbols.mappings
        self.given = {mapping.id: mapping for mapping in profile.mappings}
        if profile.mappings and not self._merged:
            # The first mapping is the program, used by a sample or not.
            self[profile.mappings[0].id]  # looking it up is what merges it

    def __missing__(self, identity: int) -> Mapping:
        given = self.given[identity]
        # Sizes are rounded up as the same file can be mapped a little differently.
        size = -(-((given.limit - given.start) % _ADDRESSES) // _MAPPING_ROUNDING)
        key = (size, given.offset, given.build_id or given.filename)
        mapping = self._merged.setdefault(key, given._replace(id=len(self._merged) + 1))
        self[identity] = mapping
        return mapping


class _LocationIds(dict[int, int]):
    """Like ``_FunctionIds``; the same place of the same file has another address where that was mapped elsewhere."""

    def __init__(self, symbols: _Symbols, profile: Profile) -> None:
        super().__init__()
        self._merged = symbols.locations
        self._given = {location.id: location for location in profile.locations}
        self._mappings = _Mappings(symbols, profile)
        self._functions = _FunctionIds(symbols, profile)

    def __missing__(self, identity: int) -> int:
        _, mapping_id, address, given_lines, is_folded = self._given[identity]
        start = 0
        offset = address
        if mapping_id:
            mapping = self._mappings[mapping_id]
            offset -= self._mappings.given[mapping_id].start
            mapping_id, start = mapping.id, mapping.start
        functions = self._functions
        lines = tuple([Line(functions[line.function_id], line.line, line.column) for line in given_lines])
        key = (mapping_id, offset % _ADDRESSES, lines, is_folded)
        location = self._merged.get(key)
        if location is None:
            address = (start + offset) % _ADDRESSES
            location = Location(len(self._merged) + 1, mapping_id, address, lines, is_folded)
            self._merged[key] = location
        self[identity] = location.id
        return location.id


def _labelled(given: tuple[Label, ...], labels: Labels) -> tuple[Label, ...]:
    if not labels:
        return given
    kept = [label for label in given if not isinstance(label.value, str) or label.key not in labels]
    return sorted_labels([*kept, *(Label(key, value) for key, value in labels.items())])


def _combined(header: Profile, profile: Profile) -> Profile:
    """The fields about the whole profile; drop_frames and keep_frames stay those of the first."""
    if header.sample_types != profile.sample_types or header.period_type != profile.period_type:
        raise ProfileError(
            f"it cannot be merged with the others: it has {_types(profile)}, the first has {_types(header)}"
        )
    return replace(
        header,
        time_nanos=min(filter(None, (header.time_nanos, profile.time_nanos)), default=0),
        duration_nanos=header.duration_nanos + profile.duration_nanos,
        period=max(header.period, profile.period),
        comments=tuple(dict.fromkeys(header.comments + profile.comments)),
        default_sample_type=header.default_sample_type or profile.default_sample_type,
        doc_url=header.doc_url or profile.doc_url,
    )


def _types(profile: Profile) -> str:
    samples = ", ".join(map(_type, profile.sample_types))
    return f"the sample types {samples} and the period type {_type(profile.period_type)}"


def _type(value_type: ValueType) -> str:
    return f"{value_type.type}/{value_type.unit}"
