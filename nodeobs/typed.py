"""Decoding into types, from many threads.

msgspec 0.22 puts what it knows of a Struct into the class before it knows all of it, and lets other threads run until
it does: two threads that meet a type for the first time end the process with SIGSEGV. So a type is got to know under a
lock, once; after that nothing is written any more.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeVar, overload

import msgspec

D = TypeVar("D")

_lock: Final = threading.Lock()
_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


@overload
def decode(data: bytes | str | msgspec.Raw) -> Any: ...
@overload
def decode(data: bytes | str | msgspec.Raw, kind: type[D]) -> D: ...
def decode(data: bytes | str | msgspec.Raw, kind: Any = Any) -> Any:
    """The JSON as a ``kind``; without one, as dicts, lists and strings.

    Raises:
        msgspec.DecodeError: not JSON (not UTF-8, nested too deep), or no such document (ValidationError).
    """
    try:
        return _decoder_of(kind).decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def convert(data: object, kind: type[D]) -> D:
    """Dicts, lists and strings as a ``kind``.

    Raises:
        msgspec.ValidationError: no such document, or nested too deep.
    """
    _decoder_of(kind)
    try:
        return msgspec.convert(data, type=kind)
    except RecursionError as error:
        raise msgspec.ValidationError(str(error)) from error


def _decoder_of(kind: Any) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.get(kind) or msgspec.json.Decoder(kind)
            _decoders[kind] = found
    return found
