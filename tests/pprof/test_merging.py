"""Merging, by Go's rules and with Go's results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nodeobs.errors import ProfileError
from nodeobs.pprof import Profile, read, top, write
from nodeobs.pprof.merging import Merger, merge
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Sample, ValueType
from tests.pprof.conftest import CAPTURES, DATA, GoPprof
from tests.pprof.strategies import TYPES, profiles

COUNT = (ValueType("n", "count"),)


def _written(folder: Path, name: str, profile: Profile) -> Path:
    path = folder / name
    path.write_bytes(write(profile))
    return path


def _part(profile: Profile, step: int) -> Profile:
    """A part of the samples, with the ids that they would have had alone."""
    return merge([(replace(profile, samples=list(profile.samples)[::-step]), {})])


@pytest.mark.parametrize("name", [path.name for path in CAPTURES if "cpu" in path.name or "heap" in path.name])
def test_gos_merge_of_different_captures_is_ours(name: str, tmp_path: Path, go_pprof: GoPprof) -> None:
    whole = read((DATA / name).read_bytes())
    inputs = [whole, _part(whole, 2), _part(whole, 3)]
    paths = [_written(tmp_path, f"{number}.pb.gz", profile) for number, profile in enumerate(inputs)]
    merged = _written(tmp_path, "merged.pb.gz", merge((profile, {}) for profile in inputs))
    assert go_pprof("-raw", merged) == go_pprof("-raw", *paths)


def test_a_capture_merged_with_itself_has_twice_its_values(capture: Path, tmp_path: Path, go_pprof: GoPprof) -> None:
    once = read(capture.read_bytes())
    twice = merge([(once, {}), (once, {})])
    assert go_pprof("-raw", _written(tmp_path, "twice.pb.gz", twice)) == go_pprof("-raw", capture, capture)
    assert top(twice).total == 2 * top(once).total
    assert twice.duration_nanos == 2 * once.duration_nanos
    assert "flat%" in go_pprof("-top", tmp_path / "twice.pb.gz")


@given(st.data())
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_gos_merge_of_any_profiles_is_ours(tmp_path: Path, go_pprof: GoPprof, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(profiles(types=TYPES, numbers=st.integers(-5, 1000)), min_size=2, max_size=3))
    inputs = [_comparable(profile, number) for number, profile in enumerate(drawn, 1)]
    paths = [_written(tmp_path, f"{number}.pb.gz", profile) for number, profile in enumerate(inputs)]
    merged = _written(tmp_path, "merged.pb.gz", merge((profile, {}) for profile in inputs))
    assert go_pprof("-raw", merged) == go_pprof("-raw", *paths)


def _comparable(profile: Profile, time: int) -> Profile:
    """The profile without what Go's command changes beside merging, or where its merge has quirks.

    It gives a profile without mappings one, and a nameless mapping the name of the profile's file; a time of 0 hides
    others, and columns count only at the end of a location.
    """
    return replace(
        profile,
        mappings=[mapping._replace(filename="/bin/program") for mapping in profile.mappings]
        or [Mapping(1, filename="/x")],
        locations=[
            place._replace(lines=tuple(line._replace(column=0) for line in place.lines)) for place in profile.locations
        ],
        time_nanos=time,
        period_type=TYPES[1],
        drop_frames="",
        keep_frames="",
    )


@given(st.lists(profiles(types=TYPES, numbers=st.integers(0, 1000)), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_or_added(inputs: list[Profile]) -> None:
    inputs = [replace(profile, period_type=TYPES[1]) for profile in inputs]
    merged = merge((profile, {"node": f"n{number}"}) for number, profile in enumerate(inputs))
    for number, profile in enumerate(inputs):
        mine = [sample for sample in merged.samples if Label("node", f"n{number}") in sample.labels]
        for column in range(len(TYPES)):
            assert sum(sample.values[column] for sample in mine) == sum(s.values[column] for s in profile.samples)
    assert read(write(merged)) == merged
    assert merge([(merged, {})]) == merged


def test_every_sample_gets_the_label(kubelet_cpu: Path, tmp_path: Path, go_pprof: GoPprof) -> None:
    profile = read(kubelet_cpu.read_bytes())
    merged = merge((profile, {"node": f"worker-{number}"}) for number in (1, 2))
    assert len(merged.samples) == 2 * len(profile.samples)
    assert len(merged.locations) == len(profile.locations)
    tags = go_pprof("-tags", _written(tmp_path, "merged.pb.gz", merged))
    assert "worker-1" in tags
    assert "worker-2" in tags


def test_a_label_replaces_what_the_samples_say_of_the_key() -> None:
    labels = (Label("node", "liar"), Label("zone", "z"), Label("node", 7))
    merged = merge([(Profile(sample_types=COUNT, samples=[Sample((), (1,), labels)]), {"node": "n1"})])
    assert merged.samples[0].labels == (Label("node", "n1"), Label("zone", "z"), Label("node", 7))


def test_labels_with_other_units_are_other_labels() -> None:
    samples = [Sample((), (1,), (Label("size", 8, unit),)) for unit in ("bytes", "", "bytes")]
    merged = merge([(Profile(sample_types=COUNT, samples=samples), {})])
    assert [(sample.values, sample.labels[0].unit) for sample in merged.samples] == [((2,), "bytes"), ((1,), "")]


def _at(address: int, mapping: Mapping, name: str = "f") -> Profile:
    return Profile(
        sample_types=COUNT,
        samples=[Sample((1,), (1,))],
        mappings=[mapping],
        locations=[Location(1, mapping.id, address, (Line(1),))],
        functions=[Function(1, name)],
    )


def test_the_same_place_of_a_program_that_was_mapped_elsewhere() -> None:
    first, second = Mapping(1, 0x1000, 0x3000, build_id="b"), Mapping(4, 0x7000, 0x8FFF, build_id="b")
    merged = merge([(_at(0x1234, first), {}), (_at(0x7234, second), {})])
    assert [sample.values for sample in merged.samples] == [(2,)]
    assert merged.mappings == [first]
    other_program = _at(0x7234, second._replace(build_id="c"))
    assert len(merge([(_at(0x1234, first), {}), (other_program, {})]).samples) == 2


def test_the_first_mapping_stays_first_even_unused() -> None:
    program, library = Mapping(2, 0, 0x1000, filename="program"), Mapping(1, 0x5000, 0x6000, filename="library")
    profile = replace(_at(0x5001, library), mappings=[program, library])
    assert [mapping.filename for mapping in merge([(profile, {}), (profile, {})]).mappings] == ["program", "library"]


def test_functions_of_different_names_are_different_places() -> None:
    mapping = Mapping(1, 0, 0x1000)
    assert len(merge([(_at(1, mapping, "f"), {}), (_at(1, mapping, "g"), {})]).samples) == 2


def test_samples_of_nothing_go_and_so_does_what_only_they_used() -> None:
    mapping = Mapping(1, 0, 0x1000)
    plus = _at(1, mapping)
    minus = replace(plus, samples=[Sample((1,), (-1,))])
    zero = replace(plus, samples=[Sample((1,), (0,))])
    for inputs in ([zero], [plus, minus], [plus, minus, zero]):
        merged = merge((profile, {}) for profile in inputs)
        assert (merged.samples, merged.locations, merged.functions) == ([], [], [])
        assert merged.mappings == [mapping]


def test_what_is_said_of_the_whole_profile() -> None:
    empty = Profile(sample_types=COUNT)
    one = replace(empty, time_nanos=0, duration_nanos=3, period=1, comments=("a", "b"), drop_frames="x")
    two = replace(empty, time_nanos=9, duration_nanos=4, period=7, comments=("b", "c"), keep_frames="y")
    three = replace(empty, time_nanos=5, default_sample_type="n", doc_url="https://docs.example")
    merged = merge([(one, {}), (two, {}), (three, {})])
    assert (merged.time_nanos, merged.duration_nanos, merged.period) == (5, 7, 7)
    assert merged.comments == ("a", "b", "c")
    assert (merged.drop_frames, merged.keep_frames) == ("x", ""), "those of the first"
    assert (merged.default_sample_type, merged.doc_url) == ("n", "https://docs.example")


def test_profiles_of_different_types_are_refused_and_change_nothing(kubelet_cpu: Path) -> None:
    cpu, heap = read(kubelet_cpu.read_bytes()), read((DATA / "kubelet-heap.pb.gz").read_bytes())
    merger = Merger()
    merger.add(cpu, {})
    for other in (heap, replace(cpu, sample_types=cpu.sample_types[::-1]), replace(cpu, period_type=COUNT[0])):
        with pytest.raises(
            ProfileError, match=r"it has the sample types .* the first has the sample types samples/count"
        ):
            merger.add(other, {})
    assert merger.result() == merge([(cpu, {})])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ProfileError, match="no profiles"):
        merge([])
