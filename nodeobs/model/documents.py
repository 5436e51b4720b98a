"""Documents and their JSON: one codec for the store, the API, the agents and the manifest."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from nodeobs.errors import InvalidInput
from nodeobs.typed import convert, decode

replace = msgspec.structs.replace
"""Copy of a document with some attributes changed; bounds are not checked again."""

_WHERE = re.compile(r" - at `(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every document. Unknown fields are ignored when decoding, so that a newer writer can be read."""


D = TypeVar("D")


def encode_json(document: object) -> bytes:
    """JSON of a document, its keys in the order of the attributes."""
    return msgspec.json.encode(document)


def decode_json(data: bytes | str, kind: type[D]) -> D:
    """Document of type ``kind`` from JSON.

    Raises:
        InvalidInput: not JSON, or not such a document; the pointer says where.
    """
    try:
        return decode(data, kind)
    except msgspec.DecodeError as error:
        raise _invalid(error) from error


def to_builtins(document: object) -> Any:
    """The document as dicts, lists and strings, as JSON or YAML would hold it."""
    return msgspec.to_builtins(document)


def from_builtins(data: object, kind: type[D]) -> D:
    """Document of type ``kind`` from dicts, lists and strings.

    Raises:
        InvalidInput: not such a document; the pointer says where.
    """
    try:
        return convert(data, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> InvalidInput:
    text = str(error)
    where = _WHERE.search(text)
    if where is None:
        return InvalidInput(text)
    steps = _STEP.finditer(where["path"])
    pointer = "".join("/" + (step["key"] or step["index"]) for step in steps)
    return InvalidInput(text[: where.start()], pointer=pointer)
