"""Names from outside, checked before they become part of a path or a key."""

from __future__ import annotations

from nodeobs.errors import InvalidInput
from nodeobs.model import PathSegment, from_builtins

MAX_SEGMENTS = 3


def key(uid: str, name: str) -> str:
    """Path of a file below the root.

    Raises:
        InvalidInput: not a name of an output or of a file.
    """
    if not is_file_name(name):
        raise InvalidInput(
            f"{name[:80]!a} is not a file of an output: one to {MAX_SEGMENTS} names of letters, digits, '.', '_' and "
            "'-', not beginning with '.', with '/' between them"
        )
    return f"{output_name(uid)}/{name}"


def output_name(uid: str) -> str:
    """``uid`` itself.

    Raises:
        InvalidInput: not a name of an output.
    """
    if not is_segment(uid):
        raise InvalidInput(
            f"{uid[:80]!a} is not the name of an output: letters, digits, '.', '_' and '-' are allowed, '.' not first"
        )
    return uid


def is_file_name(name: str) -> bool:
    """Whether ``name`` is one to three path segments."""
    segments = name.split("/")
    return len(segments) <= MAX_SEGMENTS and all(map(is_segment, segments))


def is_segment(text: str) -> bool:
    """Whether ``text`` may be one part of a path."""
    try:
        from_builtins(text, PathSegment)
    except InvalidInput:
        return False
    return True
