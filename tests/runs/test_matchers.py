"""Alertmanager's matcher syntax, held against amtool where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeobs.runs.matchers import Matcher, Operator, parse_matchers

AMTOOL = shutil.which("amtool")
needs_amtool = pytest.mark.skipif(AMTOOL is None, reason="amtool is not installed")

LABELS = {"a": "b", "team": "nodes", "alertname": "KubeletSlow", "quote": 'x"y', "slash": "x\\y", "line": "x\ny"}

ACCEPTED = [
    "a=b",
    'a="b"',
    ' a = "b" ',
    "a!=c",
    'a=~"[abc]"',
    'alertname=~"Kubelet.*"',
    'alertname=~"Kubelet"',
    'alertname!~"Kubelet"',
    'alertname=~"(?i)kubelet.*"',
    'missing=""',
    'missing!=""',
    'missing=~".*"',
    'missing=~".+"',
    "missing=",
    '{a="b",team="nodes"}',
    '{a="b",team="other"}',
    'a="b",team="nodes"',
    '{a="b",}',
    "{a=b",
    "a=b}",
    'a="b,c"',
    "a = b c",
    "a==b",
    "a=~b=c",
    "a='b'",
    r'quote="x\"y"',
    r"quote=x\"y",
    r'slash="x\\y"',
    r'slash="x\y"',
    r'slash=~"x\\\\y"',
    r'line="x\ny"',
    'line="x\ny"',
    "line=~x.y",
    r'line=~"x\\sy"',
    "a=~^b$",
    r"slash=x\y",
    "a=b\\",
    "a:b=c",
]

REFUSED = ['a="b', 'a=~"("', ',a="b"', 'a="b",,team="nodes"', 'a=b"c', 'a="b"x', "a", "=b", '{"a"}', "a=~*"]


def meets(text: str, labels: Mapping[str, str] = LABELS) -> bool:
    return all(matcher.matches(labels) for matcher in parse_matchers(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [Matcher("a", Operator.EQUAL, "b")]),
        ('a!="b"', [Matcher("a", Operator.NOT_EQUAL, "b")]),
        ('{a=~"b.*", c!~d}', [Matcher("a", Operator.MATCHES, "b.*"), Matcher("c", Operator.MATCHES_NOT, "d")]),
        (r'a="x\"\\\n\d"', [Matcher("a", Operator.EQUAL, 'x"\\\n\\d')]),
        ('a="b,c=d",e=f', [Matcher("a", Operator.EQUAL, "b,c=d"), Matcher("e", Operator.EQUAL, "f")]),
        ('"foo bar"="b"', [Matcher("foo bar", Operator.EQUAL, "b")]),
        ("größe=klein", [Matcher("größe", Operator.EQUAL, "klein")]),
    ],
)
def test_reads_names_operators_and_values(text: str, expected: list[Matcher]) -> None:
    assert list(parse_matchers(text)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a matcher such as"),
        ("{}", "'' is not a matcher such as"),
        ("severity", "'severity' is not a matcher such as"),
        ('a="b', "a double quote is not closed"),
        ('a=~"("', "the regular expression '(' cannot be compiled: missing ), unterminated subpattern"),
        ('a=~"[[:alpha:]]"', "has a class such as [:alpha:]"),
    ],
)
def test_refuses_with_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_matchers(text)


@pytest.mark.parametrize("text", REFUSED)
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"matcher|quote|regular expression"):
        parse_matchers(text)


def test_a_regular_expression_has_to_match_the_whole_value() -> None:
    assert meets('a=~"b|x"')
    assert not meets('alertname=~"Kubelet|x"')
    assert not meets('a=~"b|x"', {"a": "bc"})
    assert not meets('a=~"b"', {"a": "b\n"})


def test_a_missing_label_is_empty() -> None:
    assert meets('missing="",missing!="x",missing=~"|x",missing!~".+"', {})
    assert not meets('missing!=""', {})


names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n"\\,{}=~! '))


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@given(st.lists(st.tuples(names, st.sampled_from(["=", "!="]), values), min_size=1, max_size=5))
def test_whatever_is_quoted_is_read_as_it_was(conditions: list[tuple[str, str, str]]) -> None:
    text = "{" + ", ".join(f"{name}{operator}{quoted(value)}" for name, operator, value in conditions) + "}"
    assert parse_matchers(text) == tuple(Matcher(n, Operator(o), v) for n, o, v in conditions)


@given(st.text(st.sampled_from('ab=~!"\\,{}( \n')))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        matchers = parse_matchers(text)
    except ValueError:
        return
    assert matchers
    assert [matcher.matches({}) for matcher in matchers]


def amtool_meets(folder: Path, texts: Sequence[str], labels: Mapping[str, str]) -> list[bool]:
    """Whether the real Alertmanager's routing finds that ``labels`` meet each of ``texts``."""
    assert AMTOOL is not None
    routes = [{"receiver": f"r{index}", "matchers": [text], "continue": True} for index, text in enumerate(texts)]
    receivers = [{"name": "none"}] + [{"name": f"r{index}"} for index in range(len(texts))]
    config = folder / "alertmanager.yml"
    config.write_text(json.dumps({"route": {"receiver": "none", "routes": routes}, "receivers": receivers}))
    told = [f"{name}={quoted(value)}" for name, value in labels.items()]
    done = subprocess.run(
        [AMTOOL, "config", "routes", "test", f"--config.file={config}", *told],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    hit = set(done.stdout.strip().split(","))
    return [f"r{index}" in hit for index in range(len(texts))]


@needs_amtool
def test_agrees_with_amtool_on_what_is_met(tmp_path: Path) -> None:
    assert [meets(text) for text in ACCEPTED] == amtool_meets(tmp_path, ACCEPTED, LABELS)


@needs_amtool
@pytest.mark.parametrize("text", REFUSED)
def test_agrees_with_amtool_on_what_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssertionError):
        amtool_meets(tmp_path, [text], LABELS)


simple = st.text(st.sampled_from('ab,"\\\n ={}'), max_size=4)
operators = st.sampled_from(["=", "!="])


@needs_amtool
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), operators, simple), min_size=20, max_size=40), simple, simple)
def test_agrees_with_amtool_on_quoting(
    tmp_path: Path, conditions: list[tuple[str, str, str]], first: str, second: str
) -> None:
    texts = [f"{name} {operator} {quoted(value)}" for name, operator, value in conditions]
    labels = {"a": first, "b": second}
    assert [meets(text, labels) for text in texts] == amtool_meets(tmp_path, texts, labels)
