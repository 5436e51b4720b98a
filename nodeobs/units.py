"""Durations and sizes as people write them: ``1h30m``, ``20GiB``."""

from __future__ import annotations

import re
from datetime import timedelta

# Prometheus' own notation (prometheus/common, model.ParseDuration): descending units, each at most once.
_DURATION = re.compile(
    r"(?:(?P<y>\d+)y)?(?:(?P<w>\d+)w)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?(?:(?P<ms>\d+)ms)?",
    re.ASCII,
)
_MILLISECONDS = {
    "y": 31_536_000_000,
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
_LONGEST = timedelta(days=36_500)

_SIZE = re.compile(r"(?P<number>\d{1,18}) ?(?P<unit>[A-Za-z]*)", re.ASCII)
_BYTES: dict[str, int] = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024), ("i", 1024))
}


def parse_duration(text: str) -> timedelta:
    """Length of time in Prometheus' notation: ``0``, ``90s``, ``1h30m``, ``30d``; a year has 365 days.

    Raises:
        ValueError: not such a duration, or longer than 100 years.
    """
    if text == "0":
        return timedelta()
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30m, 1h30m or 30d")
    numbers = {unit: number for unit, number in found.groupdict().items() if number}
    if any(len(number) > 18 for number in numbers.values()):
        raise ValueError("longer than 100 years")
    milliseconds = sum(int(number) * _MILLISECONDS[unit] for unit, number in numbers.items())
    if milliseconds > _LONGEST / timedelta(milliseconds=1):
        raise ValueError("longer than 100 years")
    return timedelta(milliseconds=milliseconds)


def parse_size(text: str) -> int:
    """Number of bytes: ``1048576``, ``500MB`` (powers of 1000), ``20GiB`` or ``20Gi`` (powers of 1024).

    Raises:
        ValueError: not such a size.
    """
    found = _SIZE.fullmatch(text.strip())
    factor = _BYTES.get(found["unit"].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not a size such as 500MB, 20GiB or a number of bytes")
    return int(found["number"]) * factor
