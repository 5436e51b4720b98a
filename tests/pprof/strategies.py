"""Profiles of every kind, small."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

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

Entry = TypeVar("Entry", Function, Location, Mapping)

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(-3, 300)
WORDS = st.sampled_from(["", "cpu", "a/b.(*C).d", "überall", "x" * 200, "line\nbreak"])
NAMES = st.sampled_from(["main.main", "runtime.mallocgc", "k8s.io/x.F", "µ"])
IDS = st.one_of(st.integers(1, 9), st.integers(100, 2**40))
TYPES = (ValueType("samples", "count"), ValueType("cpu", "nanoseconds"))


@st.composite
def profiles(
    draw: st.DrawFn, *, types: tuple[ValueType, ...] | None = None, numbers: st.SearchStrategy[int] = INT64
) -> Profile:
    """Valid profiles; ``numbers`` bounds their values."""
    sample_types = types or tuple(draw(st.lists(st.builds(ValueType, WORDS, WORDS), min_size=1, max_size=3)))
    functions = draw(_table(st.builds(Function, IDS, NAMES, WORDS, WORDS, SMALL)))
    flags = [st.booleans()] * 4
    mappings = draw(_table(st.builds(Mapping, IDS, UINT64, UINT64, UINT64, WORDS, WORDS, *flags)))
    lines = (
        st.builds(Line, st.sampled_from([function.id for function in functions]), SMALL, SMALL) if functions else None
    )
    locations = draw(
        _table(
            st.builds(
                Location,
                IDS,
                st.sampled_from([0, *(mapping.id for mapping in mappings)]),
                UINT64,
                st.lists(lines, max_size=3).map(tuple) if lines is not None else st.just(()),
                st.booleans(),
            )
        )
    )
    places = [location.id for location in locations]
    stacks = st.lists(st.sampled_from(places), max_size=6) if places else st.just([])
    labels = st.one_of(
        st.builds(Label, NAMES, NAMES, st.just("")),
        st.builds(Label, NAMES, numbers.filter(bool), st.sampled_from(["", "bytes"])),
    )
    samples = st.builds(
        Sample,
        stacks.map(tuple),
        st.tuples(*[numbers] * len(sample_types)),
        st.lists(labels, max_size=3).map(sorted_labels),
    )
    return Profile(
        sample_types=sample_types,
        samples=draw(st.lists(samples, max_size=8)),
        mappings=mappings,
        locations=locations,
        functions=functions,
        drop_frames=draw(WORDS),
        keep_frames=draw(WORDS),
        time_nanos=draw(numbers),
        duration_nanos=draw(numbers),
        period_type=draw(st.sampled_from([NO_TYPE, TYPES[1]])),
        period=draw(numbers),
        comments=tuple(draw(st.lists(NAMES, max_size=2))),
        default_sample_type=draw(WORDS),
        doc_url=draw(WORDS),
    )


def _table(entries: st.SearchStrategy[Entry]) -> st.SearchStrategy[list[Entry]]:
    return st.lists(entries, max_size=5, unique_by=lambda entry: entry.id)
