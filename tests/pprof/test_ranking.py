"""The top table, number for number as ``go tool pprof -top`` has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodeobs.errors import ProfileError
from nodeobs.pprof import Profile, TopTable, format_value, read, top, write
from nodeobs.pprof.merging import merge
from nodeobs.pprof.profile import Function, Label, Line, Location, Mapping, Sample, ValueType
from nodeobs.pprof.ranking import Order
from tests.pprof.conftest import DATA, GoPprof

CPU = ValueType("cpu", "nanoseconds")


def _go_percent(percent: float) -> str:
    if 99.95 <= percent <= 100.05:
        return "100%"
    return f"{percent:.2f}%" if percent >= 1 else f"{percent:.2g}%"


def _as_go_prints(table: TopTable) -> list[tuple[str, ...]]:
    unit = table.sample_type.unit
    return [
        (
            format_value(row.flat, unit, table.unit),
            _go_percent(row.flat_percent),
            _go_percent(row.sum_percent),
            format_value(row.cum, unit, table.unit),
            _go_percent(row.cum_percent),
            row.name,
        )
        for row in table.rows
    ]


def _printed(text: str) -> list[tuple[str, ...]]:
    lines = text.split("cum%\n")[1].splitlines()
    rows = [line.split(maxsplit=5) for line in lines]
    return [(*row[:5], re.sub(r" \((partial-)?inline\)$", "", row[5])) for row in rows]


@pytest.mark.parametrize("by", ["flat", "cum"])
def test_a_capture_has_gos_numbers(capture: Path, by: Order, go_pprof: GoPprof) -> None:
    profile = read(capture.read_bytes())
    for value_type in profile.sample_types:
        chosen = [f"-{by}", f"-sample_index={value_type.type}", "-nodefraction=0", capture]
        table = top(profile, limit=None, by=by, sample_type=value_type.type)
        assert _as_go_prints(table) == _printed(go_pprof("-top", *chosen))
        assert table.functions == len(table.rows)


def test_limited_to_the_first_rows(kubelet_cpu: Path, go_pprof: GoPprof) -> None:
    table = top(read(kubelet_cpu.read_bytes()), limit=7)
    assert _as_go_prints(table) == _printed(go_pprof("-top", "-nodefraction=0", "-nodecount=7", kubelet_cpu))
    assert table.functions > 7


@pytest.mark.parametrize("name", ["kubelet-allocs", "kubelet-heap", "kubelet-cpu"])
def test_the_default_sample_type_is_gos(name: str, go_pprof: GoPprof) -> None:
    path = DATA / f"{name}.pb.gz"
    table = top(read(path.read_bytes()))
    assert f"Type: {table.sample_type.type}\n" in go_pprof("-top", path)


def test_one_node_of_a_merged_profile(kubelet_cpu: Path, tmp_path: Path, go_pprof: GoPprof) -> None:
    one = read(kubelet_cpu.read_bytes())
    other = merge([(one, {}), (one, {})])
    merged = merge([(one, {"node": "n1"}), (other, {"node": "n2"})])
    path = tmp_path / "merged.pb.gz"
    path.write_bytes(write(merged))
    for node, alone in (("n1", one), ("n2", other)):
        table = top(merged, limit=None, tags={"node": node})
        assert table == top(alone, limit=None)
        chosen = ["-nodefraction=0", "-relative_percentages", f"-tagfocus=node={node}", path]
        assert _as_go_prints(table) == _printed(go_pprof("-top", *chosen))
    assert top(merged, tags={"node": "n3"}).rows == ()


def _profile(samples: list[Sample], **fields: object) -> Profile:
    """Functions a to d at locations 1 to 4; at location 5, b is inlined in a; 6 and 7 are unknown."""
    functions = [Function(number, name) for number, name in enumerate("abcd", 1)] + [Function(9, "", start_line=3)]
    return Profile(
        sample_types=(CPU,),
        samples=samples,
        mappings=[Mapping(1, filename="/usr/bin/kubelet")],
        functions=functions,
        locations=[
            *(Location(number, 1, number, (Line(number),)) for number in range(1, 5)),
            Location(5, 1, 5, (Line(2), Line(1))),
            Location(6, 1, 6),
            Location(7, 0, 7),
            Location(8, 1, 8, (Line(9),)),
        ],
    )


def test_recursion_counts_once_and_inlined_calls_count(tmp_path: Path, go_pprof: GoPprof) -> None:
    profile = _profile([Sample((1, 2, 1, 1), (100,)), Sample((5, 3), (10,)), Sample((4,), (0,)), Sample((), (5,))])
    table = top(profile)
    assert [(row.name, row.flat, row.cum) for row in table.rows] == [("a", 100, 110), ("b", 10, 110), ("c", 0, 10)]
    assert table.total == 115
    _agrees(profile, tmp_path, go_pprof)


def test_what_has_no_name(tmp_path: Path, go_pprof: GoPprof) -> None:
    profile = _profile([Sample((6, 1), (100,)), Sample((7,), (50,)), Sample((8,), (20,))])
    assert [row.name for row in top(profile).rows] == ["[kubelet]", "<unknown>", "[kubelet]", "a"]
    _agrees(profile, tmp_path, go_pprof)


def test_negative_values_rank_by_their_size(tmp_path: Path, go_pprof: GoPprof) -> None:
    profile = _profile([Sample((1,), (-100,)), Sample((2,), (50,)), Sample((3,), (100,))])
    assert [row.name for row in top(profile).rows] == ["a", "c", "b"]
    assert top(profile).total == 250
    _agrees(profile, tmp_path, go_pprof)


def _agrees(profile: Profile, folder: Path, go_pprof: GoPprof) -> None:
    path = folder / "p.pb.gz"
    path.write_bytes(write(profile))
    assert _as_go_prints(top(profile)) == _printed(go_pprof("-top", "-nodefraction=0", path))


def test_a_numeric_label_is_not_the_string_asked_for() -> None:
    profile = _profile([Sample((1,), (1,), (Label("node", "1"),)), Sample((2,), (1,), (Label("node", 1),))])
    assert [row.name for row in top(profile, tags={"node": "1"}).rows] == ["a"]


def test_an_unknown_sample_type_is_refused() -> None:
    with pytest.raises(ProfileError, match="no sample type 'wall', only cpu"):
        top(_profile([]), sample_type="wall")


def test_an_empty_profile_has_an_empty_table() -> None:
    table = top(_profile([]))
    assert (table.rows, table.total) == ((), 0)


def test_names_that_are_not_utf_8_can_be_printed() -> None:
    profile = Profile(
        sample_types=(CPU,),
        samples=[Sample((1,), (1,))],
        locations=[Location(1, lines=(Line(1),))],
        functions=[Function(1, b"bad\xff".decode("utf-8", "surrogateescape"))],
    )
    assert top(profile).rows[0].name == "bad�"
