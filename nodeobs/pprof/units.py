"""Amounts for people, in the words of google/pprof's ``internal/measurement``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class _Kind(NamedTuple):
    """Units that convert into each other."""

    units: tuple[tuple[str, float, frozenset[str]], ...]
    """Name, size, spellings."""
    default: tuple[str, float]
    """The unit where an amount is too small for all of them."""


_KINDS: Final = (
    _Kind(
        (
            ("B", 1.0, frozenset({"b", "byte"})),
            ("kB", 2.0**10, frozenset({"kb", "kbyte", "kilobyte"})),
            ("MB", 2.0**20, frozenset({"mb", "mbyte", "megabyte"})),
            ("GB", 2.0**30, frozenset({"gb", "gbyte", "gigabyte"})),
            ("TB", 2.0**40, frozenset({"tb", "tbyte", "terabyte"})),
            ("PB", 2.0**50, frozenset({"pb", "pbyte", "petabyte"})),
        ),
        ("B", 1.0),
    ),
    _Kind(
        (
            ("ns", 1.0, frozenset({"ns", "nanosecond"})),
            ("us", 1e3, frozenset({"μs", "us", "microsecond"})),
            ("ms", 1e6, frozenset({"ms", "millisecond"})),
            ("s", 1e9, frozenset({"s", "sec", "second"})),
            ("hrs", 3600e9, frozenset({"hour", "hr"})),
        ),
        ("s", 1e9),
    ),
)
_UNINTERESTING: Final = ("count", "sample", "unit", "auto")


def format_value(value: int, unit: str, to: str = "auto") -> str:
    """``value`` of ``unit`` as a short text in the unit ``to``, or in the largest that leaves 1 or more: ``1.23s``."""
    amount, shown_unit = scale(value, unit, to)
    text = f"{amount:.2f}".removesuffix(".00")
    return "0" if text in ("0", "-0") else text + shown_unit


def scale(value: int, unit: str, to: str = "auto") -> tuple[float, str]:
    """The amount and the unit's name, which is empty where it says nothing (counts)."""
    if value < 0:
        amount, name = scale(-value, unit, to)
        return -amount, name
    for kind in _KINDS:
        factor = _factor(kind, unit)
        if factor is not None:
            return _converted(kind, value * factor, to)
    return float(value), "" if to in _UNINTERESTING else to


def common_unit(values: Iterable[int], total: int, unit: str) -> str:
    """The unit for a table of ``values``: small enough for the smallest, which may become 0.01, but no smaller."""
    smallest = min((abs(value) for value in values if value), default=total)
    low, high = scale(smallest, unit)[1], scale(total, unit)[1]
    if low != high and smallest * 100 < total:
        low = scale(100 * smallest, unit)[1]
    return low or unit


def _plain(unit: str) -> str:
    lower = unit.lower()
    return lower.removesuffix("s") if len(lower) > 2 else lower


def _factor(kind: _Kind, unit: str) -> float | None:
    return next((factor for _, factor, names in kind.units if _plain(unit) in names), None)


def _converted(kind: _Kind, amount: float, to: str) -> tuple[float, str]:
    if to == "auto":
        fitting = [(factor, name) for name, factor, _ in kind.units if amount / factor >= 1]
        factor, name = max(fitting, default=kind.default[::-1])
        return amount / factor, name
    for name, factor, names in kind.units:
        if _plain(to) in names:
            return amount / factor, name
    name, factor = kind.default
    return amount / factor, name
