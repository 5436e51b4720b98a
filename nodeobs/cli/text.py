"""Text for a terminal: what comes from elsewhere is made harmless, numbers and times are made short."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

_LONGEST = 4000


def clean(text: str) -> str:
    """The text in one line that cannot steer a terminal: control characters become visible escapes."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, three spaces apart; the last one runs free."""
    lines = [list(header), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def fields(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}   {clean(value)}".rstrip() for name, value in rows)


def age(since: datetime | None, now: datetime) -> str:
    """Time since then as kubectl writes it: ``42s``, ``5m``, ``3h``, ``12d``; ``-`` where there is no instant."""
    if since is None:
        return "-"
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: int) -> str:
    """Bytes for a person: ``512 B``, ``1.5 MB`` (powers of 1000)."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
