"""Request bodies and queries: bounded, decoded, and refused where they hold what nobody asked for."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import msgspec
from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestEntityTooLarge, RequestTimeout

from nodeobs.errors import InvalidInput
from nodeobs.model import Document, from_builtins, to_builtins
from nodeobs.typed import decode
from nodeobs.web.schemas import explain
from nodeobs.web.services import services
from nodeobs.web.slots import Slots

LARGE_BYTES: Final = 256 * 1024

D = TypeVar("D", bound=Document)


def read_body(*, limit: int | None = None) -> bytes:
    """The whole body, whatever its Content-Type says: ``curl -d`` claims to send a form.

    ``limit`` is in bytes; by default the setting's.

    Raises:
        HTTPException: too large (413), too slow (408), or broken off (400).
    """
    if limit is None:
        limit = services().settings.max_body_bytes
    else:
        request.max_content_length = limit + 1
    try:
        body = request.get_data(cache=False)
    except ClientDisconnected as error:
        if isinstance(error.__context__, TimeoutError):
            raise RequestTimeout("the body did not arrive in time") from error
        raise BadRequest("the body broke off") from error
    except ParseException as error:
        raise BadRequest(f"the body is not framed as HTTP asks for: {error}") from error
    if len(body) > limit:
        raise RequestEntityTooLarge
    return body


def room_for_body(slots: Slots) -> AbstractContextManager[None]:
    """Holds one of the ``slots`` while a large body is dealt with; a small one needs none.

    Raises (when entered):
        ServiceUnavailable: none is free.
    """
    size = request.content_length
    return nullcontext() if size is not None and size <= LARGE_BYTES else slots.held()


def read_document(kind: type[D]) -> D:
    """The body as a document, with no field that the document does not have.

    Raises:
        HTTPException: it cannot be read, or is not JSON (400).
        InvalidInput: it is not such a document.
    """
    body = read_body()
    if not body:
        raise BadRequest("the body is empty; a JSON document belongs there")
    try:
        raw = decode(body)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    try:
        document = from_builtins(raw, kind)
    except InvalidInput as error:
        raise InvalidInput(f"{error.detail}{explain(kind, error.pointer)}", pointer=error.pointer) from error
    try:
        _refuse_unknown(raw, to_builtins(document), "")
    except RecursionError as error:  # what is nested just so deep that it could be decoded
        raise BadRequest("the body is nested too deeply") from error
    return document


def refuse_unknown_queries(*known: str) -> None:
    """Refuse a query parameter that means nothing here: a filter that is misspelt would filter nothing.

    Raises:
        BadRequest: there is one, or one occurs twice.
    """
    for name in request.args:
        if name not in known:
            allowed = f"allowed are {', '.join(known)}" if known else "none is taken here"
            raise BadRequest(f"unknown query parameter {name!r}{_guess(name, known)}; {allowed}")
        if len(request.args.getlist(name)) > 1:
            raise BadRequest(f"the query parameter {name} occurs more than once")


def integer_query(name: str, *, default: int, low: int, high: int) -> int:
    """An integer of the query.

    Raises:
        BadRequest: not a whole number from ``low`` to ``high``.
    """
    text = request.args.get(name)
    if text is None:
        return default
    # isascii: int() also takes other scripts' digits, spaces and underscores.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a whole number from {low} to {high}, not {text[:50]!r}")
    return int(text)


def _refuse_unknown(raw: Any, known: Any, pointer: str) -> None:
    """Compare what came with what was understood of it."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            where = f"{pointer}/{_escape(key)}"
            if key not in known:
                raise InvalidInput(f"unknown field {key[:100]!r}{_guess(key, known)}", pointer=where)
            _refuse_unknown(value, known[key], where)
    elif isinstance(raw, list) and isinstance(known, (list, tuple)):
        for index, (value, understood) in enumerate(zip(raw, known, strict=True)):
            _refuse_unknown(value, understood, f"{pointer}/{index}")


def _escape(key: str) -> str:
    return key[:100].replace("~", "~0").replace("/", "~1")


def _guess(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
