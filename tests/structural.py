"""What an API server makes of a structural schema, as far as tests need it: what it allows, what it fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC
from functools import partial
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values of every shape that the schema allows, with or without what is optional; rules aside."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _MAKERS[schema["type"]](schema)


def with_defaults(value: Any, schema: Schema) -> Any:
    """The value as the API server holds it: absent fields have their defaults, at every depth."""
    if isinstance(value, dict) and "properties" in schema:
        filled = dict(value)
        for name, part in schema["properties"].items():
            if name not in filled and "default" in part:
                filled[name] = deepcopy(part["default"])
            if name in filled:
                filled[name] = with_defaults(filled[name], part)
        return filled
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"]) for item in value]
    return value


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema within, by its path; those of items and of a map's values included."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from fields(part, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}{{}}")


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        return st.dictionaries(_labels(), values(schema["additionalProperties"]), max_size=3)
    parts = {name: values(part) for name, part in schema["properties"].items()}
    required = {name: parts.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=parts)


def _lists(schema: Schema) -> st.SearchStrategy[Any]:
    keys = schema.get("x-kubernetes-list-map-keys")
    unique: Any = None
    if schema["x-kubernetes-list-type"] == "set":
        unique = str
    elif keys:
        unique = partial(_key_of, keys)
    return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3, unique_by=unique)


def _key_of(keys: list[str], item: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(item[key] for key in keys)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.datetimes(timezones=st.just(UTC)).map(lambda instant: instant.isoformat().replace("+00:00", "Z"))
    if "pattern" in schema:
        # $ is only the end in the API server's regular expressions, and also before a last line end in Python's.
        pattern = schema["pattern"].removesuffix("$") + (r"\Z" if schema["pattern"].endswith("$") else "")
        return st.from_regex(pattern, alphabet=st.characters(codec="ascii")).filter(
            lambda text: len(text) <= schema["maxLength"]
        )
    most = min(schema["maxLength"], 20)
    return st.text(st.characters(codec="utf-8"), min_size=schema.get("minLength", 0), max_size=most)


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    return st.integers(schema.get("minimum", 0), schema.get("maximum", 2**31 - 1))


def _numbers(schema: Schema) -> st.SearchStrategy[float]:
    return st.floats(0, 1e6, allow_nan=False).map(lambda number: round(number, 6))


def _booleans(schema: Schema) -> st.SearchStrategy[bool]:
    return st.booleans()


def _labels() -> st.SearchStrategy[str]:
    return st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\Z", alphabet=st.characters(codec="ascii"))


_MAKERS: dict[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
    "object": _objects,
    "array": _lists,
    "string": _texts,
    "integer": _integers,
    "number": _numbers,
    "boolean": _booleans,
}
