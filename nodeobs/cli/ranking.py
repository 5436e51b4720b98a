"""A table of functions told to a person and to a script."""

from __future__ import annotations

from typing import Any

from nodeobs.cli.text import clean
from nodeobs.pprof import TopTable, format_value


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

    def shown(value: int) -> str:
        return format_value(value, table.sample_type.unit, table.unit)

    total = shown(table.total)
    lines = [
        clean(f"{table.sample_type.type}: {total} in total; showing {len(table.rows)} of {table.functions} functions"),
        f"{'flat':>10} {'flat%':>6} {'sum%':>6} {'cum':>10} {'cum%':>6}  function",
    ]
    for row in table.rows:
        flat = f"{shown(row.flat):>10} {row.flat_percent:>5.2f}% {row.sum_percent:>5.2f}%"
        lines.append(f"{flat} {shown(row.cum):>10} {row.cum_percent:>5.2f}%  {clean(row.name)}")
    return "\n".join(lines)
