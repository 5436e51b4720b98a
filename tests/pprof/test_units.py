"""Amounts for people."""

from __future__ import annotations

import pytest

from nodeobs.pprof import format_value
from nodeobs.pprof.units import common_unit


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0"),
        (1, "nanoseconds", "1ns"),
        (1_234_567_890, "nanoseconds", "1.23s"),
        (999, "microseconds", "999us"),
        (1_500, "microseconds", "1.50ms"),
        (2_000_000_000, "nanoseconds", "2s"),
        (5_400, "seconds", "1.50hrs"),
        (-1_500_000, "nanoseconds", "-1.50ms"),
        (1_023, "bytes", "1023B"),
        (4_718_592, "bytes", "4.50MB"),
        (3, "kB", "3kB"),
        (7, "count", "7"),
        (7, "", "7"),
        (7, "goroutines", "7"),
    ],
)
def test_a_value_in_the_unit_that_fits(value: int, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "to", "text"),
    [
        (10_000_000, "nanoseconds", "s", "0.01s"),
        (2_048, "bytes", "B", "2048B"),
        (5, "nanoseconds", "parsecs", "0"),
        (5, "seconds", "parsecs", "5s"),
        (5, "widgets", "widgets", "5widgets"),
        (5, "count", "count", "5"),
    ],
)
def test_a_value_in_a_given_unit(value: int, unit: str, to: str, text: str) -> None:
    assert format_value(value, unit, to) == text


@pytest.mark.parametrize(
    ("values", "total", "unit"),
    [
        ([10_000_000, 0, 30_000_000], 60_000_000, "ms"),
        ([10_000_000], 60_000_000_000, "s"),
        ([10_000_000], 900_000_000, "ms"),
        ([], 5_000_000_000, "s"),
        ([0], 0, "s"),
    ],
)
def test_one_unit_for_a_table(values: list[int], total: int, unit: str) -> None:
    assert common_unit(values, total, "nanoseconds") == unit
    assert common_unit(values, total, "count") == "count"
