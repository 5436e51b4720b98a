"""Matchers as Alertmanager writes them: ``alertname=~"Kubelet.*"``, ``{severity="critical", team!="db"}``.

Where Alertmanager's classic and its UTF-8 syntax differ, the classic one counts, as it does in Alertmanager's own
default mode; label names beyond the classic ones (quoted, or any Unicode) are read as in the UTF-8 syntax.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MATCHER = re.compile(
    r"""
    \s*(?:(?P<name>[^\s{}!=~,\\"'`]+)|"(?P<quoted>(?:[^"\\]|\\.)+)")
    \s*(?P<operator>=~|!~|!=|=)
    \s*(?P<value>.*?)\s*
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_UNQUOTED = re.compile(r'(?:[^"\\]|\\.)*\\?', re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PART = re.compile(r'(?:[^",\\]|\\.|\\\Z|"(?:[^"\\]|\\.)*"|")*', re.DOTALL)
_ESCAPE = re.compile(r'\\([n"\\])')
_POSIX_CLASS = re.compile(r"\[\^?\[:")


class Operator(enum.StrEnum):
    """How a label's value is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    MATCHES_NOT = "!~"


@dataclass(frozen=True)
class Matcher:
    """One condition on one label; a label that is missing has the empty value.

    A regular expression has to match the whole value. It is Python's and not RE2: what differs (look-around, back
    references) should not be used, since Alertmanager would refuse it.

    Raises:
        ValueError: the regular expression cannot be compiled.
    """

    name: str
    operator: Operator
    value: str
    _regex: re.Pattern[str] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.operator in (Operator.MATCHES, Operator.MATCHES_NOT):
            object.__setattr__(self, "_regex", _compiled(self.value))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with ``labels`` meets the condition."""
        value = labels.get(self.name, "")
        if self._regex is None:
            return (value == self.value) is (self.operator is Operator.EQUAL)
        return (self._regex.fullmatch(value) is not None) is (self.operator is Operator.MATCHES)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """The matchers in ``text``: one, or several with commas between them, with or without braces.

    Raises:
        ValueError: not a matcher, or none at all; says which part is wrong.
    """
    inner = text.strip().removeprefix("{").removesuffix("}")
    parts = _split(inner)
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()  # a comma at the end is allowed
    return tuple(_parse(part) for part in parts)


def _split(text: str) -> list[str]:
    parts = []
    position = 0
    while True:
        found = _PART.match(text, position)
        end = found.end() if found else position
        parts.append(text[position:end])
        if end >= len(text):
            return parts
        position = end + 1


def _parse(text: str) -> Matcher:
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(f'{text!r} is not a matcher such as severity="critical" or alertname=~"Kubelet.*"')
    raw = found["value"]
    quoted = _QUOTED.fullmatch(raw)
    if quoted is None and _UNQUOTED.fullmatch(raw) is None:
        raise ValueError(f'in {text!r} a double quote is not closed, or not escaped as \\"')
    name = found["name"] or _unescape(found["quoted"])
    return Matcher(name, Operator(found["operator"]), _unescape(quoted[1] if quoted else raw))


def _unescape(text: str) -> str:
    # Other escapes keep their backslash, so that regular expressions need no second one.
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text)


def _compiled(pattern: str) -> re.Pattern[str]:
    if _POSIX_CLASS.search(pattern):
        raise ValueError(f"the regular expression {pattern!r} has a class such as [:alpha:]; write a-z instead")
    try:
        return re.compile(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the regular expression {pattern!r} cannot be compiled: {error}") from error
