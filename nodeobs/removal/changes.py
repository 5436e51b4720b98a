"""What a removal changes: told one by one, and in a dry run only collected."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple

MANAGER: Final = "nodeobs-uninstall"
"""Field manager of what is changed in definitions and in the Deployment's number of replicas."""


class Action(enum.StrEnum):
    """What is done to an object."""

    REWRITE = "rewrite"
    CANCEL = "cancel"
    STOP = "stop"
    DELETE = "delete"
    END = "end"
    RELEASE = "release"
    MARK = "mark"
    NARROW = "narrow"

    @property
    def past(self) -> str:
        """``deleted``."""
        return _PAST[self]


_PAST = {
    Action.REWRITE: "rewrote",
    Action.CANCEL: "cancelled",
    Action.STOP: "stopped",
    Action.DELETE: "deleted",
    Action.END: "ended",
    Action.RELEASE: "released",
    Action.MARK: "marked",
    Action.NARROW: "narrowed",
}


class Change(NamedTuple):
    """One change, made or (in a dry run) to be made."""

    action: Action
    what: str


class Changes:
    """The changes so far, in order; ``note`` tells the person."""

    def __init__(self, *, dry_run: bool, note: Callable[[str], None]) -> None:
        self.dry_run = dry_run
        self.note = note
        self.all: list[Change] = []

    def make(self, action: Action, what: str, write: Callable[[], object]) -> None:
        """Do it and tell, unless nothing is to be changed."""
        if not self.dry_run:
            write()
            self.note(f"{action.past} {what}")
        self.all.append(Change(action, what))
