"""Objects as every store checks them, and names them in messages."""

from __future__ import annotations

import structlog

from nodeobs.errors import InvalidInput
from nodeobs.model import Resource, decode_json, encode_json
from nodeobs.store.base import R

log = structlog.get_logger(__name__)


def label(kind: type[Resource], name: str, namespace: str) -> str:
    """The object as messages name it."""
    return f"{kind.KIND} {namespace}/{name}" if namespace else f"{kind.KIND} {name}"


def label_of(resource: Resource) -> str:
    """The object as messages name it."""
    return label(type(resource), resource.metadata.name, resource.metadata.namespace)


def checked(resource: R) -> tuple[R, bytes]:
    """The object as it will be read, and its document.

    Raises:
        InvalidInput: it could not be read again: a bound is exceeded, or a text is not Unicode.
    """
    what = label_of(resource)
    try:
        encoded = encode_json(resource)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what!a} cannot be stored: it holds text that is not Unicode ({error.reason})") from error
    try:
        return decode_json(encoded, type(resource)), encoded
    except InvalidInput as error:
        raise InvalidInput(f"{what} cannot be stored: {error.detail}", pointer=error.pointer) from error


def log_unreadable(what: str, error: InvalidInput) -> None:
    """Tell that a stored object is left out of a list or a watch; ``what`` names it."""
    log.error("a stored object cannot be read; mend or delete it", object=what, error=str(error))
