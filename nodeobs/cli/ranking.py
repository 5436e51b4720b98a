"""A table of functions told to a person and to a script."""

from __future__ import annotations

from typing import Any

from nodeobs.cli.text import clean
from nodeobs.pprof import TopTable, format_value
from nodeobs.pprof.units import common_unit

_NEXT_TO_NOTHING = 0.5
"""Percent."""


def document(table: TopTable) -> dict[str, Any]:
    """The table as JSON holds it; values are in the sample type's own unit."""
    functions = [
        {
            "name": row.name,
            "flat": row.flat,
            "flatPercent": round(row.flat_percent, 3),
            "cum": row.cum,
            "cumPercent": round(row.cum_percent, 3),
        }
        for row in table.rows
    ]
    kind = table.sample_type
    return {"sampleType": kind.type, "unit": kind.unit, "total": table.total, "functions": functions}


def text_of(table: TopTable) -> str:
    """The table as ``go tool pprof -top`` prints it."""
    # Rows that are next to nothing (pprof itself leaves them out) do not make the numbers of all others long.
    amounts = (row.flat or row.cum for row in table.rows if row.cum_percent >= _NEXT_TO_NOTHING)
    unit = common_unit(amounts, table.total, table.sample_type.unit)

    def shown(value: int) -> str:
        return format_value(value, table.sample_type.unit, unit)

    total = shown(table.total)
    lines = [
        clean(f"{table.sample_type.type}: {total} in total; showing {len(table.rows)} of {table.functions} functions"),
        f"{'flat':>10} {'flat%':>6} {'sum%':>6} {'cum':>10} {'cum%':>6}  function",
    ]
    for row in table.rows:
        flat = f"{shown(row.flat):>10} {row.flat_percent:>5.2f}% {row.sum_percent:>5.2f}%"
        lines.append(f"{flat} {shown(row.cum):>10} {row.cum_percent:>5.2f}%  {clean(row.name)}")
    return "\n".join(lines)
