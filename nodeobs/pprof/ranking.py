"""The functions that account for most of a profile, as ``go tool pprof -top`` counts them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Literal, NamedTuple

from nodeobs.errors import ProfileError
from nodeobs.pprof.profile import Label, Location, Profile, ValueType
from nodeobs.pprof.units import common_unit

Order = Literal["flat", "cum"]


@dataclass(frozen=True, slots=True)
class TopRow:
    """One function."""

    name: str
    flat: int
    """Of samples taken in it."""
    cum: int
    """Of samples taken in it or what it called; a recursive function counts once."""
    flat_percent: float
    sum_percent: float
    """Of this row's and all earlier ones' flat."""
    cum_percent: float


@dataclass(frozen=True, slots=True)
class TopTable:
    """The first rows of a ranking."""

    sample_type: ValueType
    total: int
    """What the percentages are of: all samples, or all with the tags asked for."""
    functions: int
    """How many rows there are without the limit."""
    unit: str
    """In which ``units.format_value`` shows the rows best."""
    rows: tuple[TopRow, ...]


class _Node(NamedTuple):
    """What makes a row: a name, or where there is none what else is known."""

    name: str
    filename: str = ""
    start_line: int = 0

    def __str__(self) -> str:
        if self.name:
            return self.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return f"[{PurePath(self.filename).name}]" if self.filename else "<unknown>"


def top(
    profile: Profile,
    *,
    limit: int | None = 20,
    by: Order = "flat",
    sample_type: str | None = None,
    tags: Dictionary[str, str] | None = None,
) -> TopTable:
    """The ``limit`` functions with the most, of ``sample_type`` or what the profile has as its default.

    ``tags`` restricts it to samples that have all these string labels; percentages are of those then, as with pprof's
    ``-relative_percentages``. A profile's drop_frames are not applied (Go's runtime sets none).

    Raises:
        ProfileError: the profile has no such sample type.
    """
    column = _column(profile, sample_type)
    wanted = {Label(key, value) for key, value in (tags or {}).items()}
    amounts: dict[tuple[int, ...], int] = defaultdict(int)
    total = 0
    for stack, values, labels in profile.samples:
        if not wanted or wanted.issubset(labels):
            amounts[stack] += values[column]
            total += abs(values[column])
    flat, cum = _count(profile, amounts)
    ranked = sorted((node for node in cum if cum[node] or flat[node]), key=_ranking(flat, cum, by))
    rows = tuple(_rows(ranked[:limit], flat, cum, total))
    value_type = profile.sample_types[column]
    unit = common_unit((row.flat or row.cum for row in rows), total, value_type.unit)
    return TopTable(value_type, total, len(ranked), unit, rows)


def _column(profile: Profile, sample_type: str | None) -> int:
    names = [value_type.type for value_type in profile.sample_types]
    if sample_type is None:
        default = profile.default_sample_type
        return names.index(default) if default in names else len(names) - 1
    if sample_type not in names:
        raise ProfileError(f"the profile has no sample type {sample_type!r}, only {', '.join(names)}")
    return names.index(sample_type)


_Counts = dict[_Node, int]


def _count(profile: Profile, amounts: Dictionary[tuple[int, ...], int]) -> tuple[_Counts, _Counts]:
    """Flat and cumulative amounts."""
    nodes_at = {location.id: tuple(nodes) for location, nodes in _nodes(profile)}
    flat: _Counts = defaultdict(int)
    cum: _Counts = defaultdict(int)
    for stack, amount in amounts.items():
        if not stack:
            continue
        flat[nodes_at[stack[0]][0]] += amount
        for node in {node for location in stack for node in nodes_at[location]}:
            cum[node] += amount
    return flat, cum


def _nodes(profile: Profile) -> Iterator[tuple[Location, list[_Node]]]:
    """Each location with the functions there, the innermost first."""
    functions = {function.id: function for function in profile.functions}
    filenames = {mapping.id: mapping.filename for mapping in profile.mappings}
    for location in profile.locations:
        filename = filenames.get(location.mapping_id, "")
        nodes = []
        for line in location.lines:
            function = functions[line.function_id]
            nodes.append(_Node(function.name) if function.name else _Node("", filename, function.start_line))
        yield location, nodes or [_Node("", filename)]


def _ranking(flat: _Counts, cum: _Counts, by: Order) -> Callable[[_Node], tuple[int, str, int, _Node]]:
    first, second = (flat, cum) if by == "flat" else (cum, flat)
    return lambda node: (-abs(first[node]), str(node), -abs(second[node]), node)


_WHOLE: Final = 100.0


def _rows(nodes: list[_Node], flat: _Counts, cum: _Counts, total: int) -> Iterator[TopRow]:
    def percent(value: int) -> float:
        return abs(value) / total * _WHOLE if total else 0.0

    shown = 0
    for node in nodes:
        shown += flat[node]
        yield TopRow(str(node), flat[node], cum[node], percent(flat[node]), percent(shown), percent(cum[node]))
