"""YAML that people write."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import ConfigurationError
from nodeobs.yamlfile import load_yaml, unknown_key


def test_reads_plain_data() -> None:
    assert load_yaml("a: [1, 'x', null]\nb: {c: true}\n", source="f") == {"a": [1, "x", None], "b": {"c": True}}
    assert load_yaml("", source="f") is None


def test_a_shared_part_may_be_changed_where_it_is_used() -> None:
    text = "base: &base {a: 1, b: 2}\nused: &used {<<: *base, b: 3}\nagain: {<<: *used, a: 4}\n"
    assert load_yaml(text, source="f") == {
        "base": {"a": 1, "b": 2}, "used": {"a": 1, "b": 3}, "again": {"a": 4, "b": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "f: not usable YAML: key 'a' is given twice\n  in \"<unicode string>\", line 2, column 1"),
        ("x:\n  - {b: 1, b: 1}\n", "key 'b' is given twice"),
        ("a: [", "f: not usable YAML: while parsing"),
        ("{[1]: 2}", "found unhashable key"),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: \x00", "f: not usable YAML: unacceptable character"),
        ("d: 2026-99-99", "f: not usable YAML: month must be in 1..12"),
        ("[" * 5000, "f: not usable YAML: "),
        ("a\n---\nb", "expected a single document"),
    ],
)
def test_refuses_with_the_place(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_yaml(text, source="f")
    assert says in str(refusal.value)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        load_yaml(text, source="f")


def test_an_unknown_key_comes_with_a_guess_or_with_all() -> None:
    assert unknown_key("bnid", ["bind", "output"]) == "unknown key 'bnid'; did you mean 'bind'?"
    assert unknown_key("zzz", ["bind", "output"]) == "unknown key 'zzz'; known are bind, output"
    assert unknown_key(5, ["bind"]) == "unknown key 5; known are bind"
