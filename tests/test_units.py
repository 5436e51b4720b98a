"""Durations and sizes as people write them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta()),
        ("0s", timedelta()),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1h30m", timedelta(minutes=90)),
        ("1d12h", timedelta(hours=36)),
        ("2w", timedelta(days=14)),
        ("1y", timedelta(days=365)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("100y", timedelta(days=36_500)),
    ],
)
def test_reads_prometheus_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [*["", "30", "1.5h", "-1h", "30m1h", "1h1h", "1 h", "h", "m", "1H", "1h ", "\u0661h", "101y"], "9" * 5000 + "s"],
)
def test_refuses_other_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration such as|longer than 100 years"):
        parse_duration(text)


@given(st.lists(st.integers(0, 50), min_size=7, max_size=7))
def test_the_parts_of_a_duration_add_up(numbers: list[int]) -> None:
    text = "".join(
        f"{number}{unit}" for number, unit in zip(numbers, ("y", "w", "d", "h", "m", "s", "ms"), strict=True)
    )
    years, weeks, days, hours, minutes, seconds, milliseconds = numbers
    assert parse_duration(text) == timedelta(
        weeks=weeks,
        days=days + 365 * years,
        hours=hours,
        minutes=minutes,
        seconds=seconds,
        milliseconds=milliseconds,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 2**20),
        ("1B", 1),
        ("500MB", 500_000_000),
        ("500 kB", 500_000),
        ("20GiB", 20 * 2**30),
        ("20Gi", 20 * 2**30),
        ("20gib", 20 * 2**30),
        ("1TiB", 2**40),
        (" 8MiB ", 8 * 2**20),
    ],
)
def test_reads_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "1.5GB", "-1", "1  MB", "1G", "1XB", "1MBs", "9" * 19, "\u0661"])
def test_refuses_other_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size such as"):
        parse_size(text)


@given(st.text(max_size=12), st.sampled_from([parse_duration, parse_size]))
def test_any_text_is_read_or_refused(text: str, parse: Callable[[str], object]) -> None:
    with suppress(ValueError):
        assert parse(text) is not None
