"""Every exception that nodeobs raises on purpose.

::

    NodeobsError
    ├── ConfigurationError         a setting, a rules file, a token file: says which, the value, what is allowed
    ├── InvalidInput               a request or document that is not what it should be (pointer says where)
    ├── AccessDenied
    │   ├── Unauthenticated        no credentials, or wrong ones
    │   └── Forbidden              known, but without the right
    ├── AccessUnknown              who calls, or what they may do, cannot be found out now: a retry can help
    ├── Refused                    a Run that may not start (rules)
    │   ├── RunInProgress          another Run on the same NodeObservability is going
    │   ├── MissingNodeObservability
    │   └── UnknownTarget
    ├── StoreError
    │   ├── NotFound
    │   ├── AlreadyExists
    │   ├── Conflict               written since it was read
    │   ├── WatchExpired           the revision is too old to watch from: list again
    │   └── StoreUnavailable       a retry can help
    │       ├── StoreDenied        it can once our credentials, or what they allow, have changed
    │       └── Unreadable         it can once somebody has mended or deleted the object
    ├── RemovalError               an uninstallation that stopped on the way; carries a hint
    │   ├── RemovalRefused         going on would lose something, or be undone
    │   └── RemovalTimedOut        the service does not end
    ├── LeadershipLost             another process drives Runs now
    ├── AgentError                 one agent failed; carries the failure reason
    │   ├── AgentBusy              it has another collection going
    │   └── AgentUnavailable       no usable answer this time; another try can help
    ├── OutputError
    │   ├── OutputNotFound
    │   ├── OutputStoreFull
    │   └── OutputStoreUnavailable
    ├── ProfilerInUse              this process is being profiled already
    └── ProfileError               not a pprof profile, or one that cannot be merged
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodeobs.model import FailureReason


class NodeobsError(Exception):
    """Base of all; its text is fit to be shown to a person."""


class ConfigurationError(NodeobsError):
    """A setting, rules file or token file that cannot be used."""


class InvalidInput(NodeobsError):
    """A request or document that is not what it should be.

    ``pointer`` is a JSON pointer (RFC 6901) to the offending part, ``""`` for the whole document.
    """

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(f"{detail} (at {pointer})" if pointer else detail)
        self.detail = detail
        self.pointer = pointer


class AccessDenied(NodeobsError):
    """The caller may not do this."""


class Unauthenticated(AccessDenied):
    """No credentials, or wrong ones."""


class Forbidden(AccessDenied):
    """A known caller without the right."""


class AccessUnknown(NodeobsError):
    """Who calls, or what they may do, cannot be found out now; a retry can help."""


class Refused(NodeobsError):
    """A Run that may not start, by the rules."""


class RunInProgress(Refused):
    """Another Run on the same NodeObservability is going; ``holder`` is its ``namespace/name``."""

    def __init__(self, message: str, *, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class MissingNodeObservability(Refused):
    """The Run refers to a NodeObservability that does not exist."""


class UnknownTarget(Refused):
    """The Run names a target that its NodeObservability does not list."""


class StoreError(NodeobsError):
    """Base of what the store raises."""


class NotFound(StoreError):
    """No such object."""


class AlreadyExists(StoreError):
    """An object of that namespace and name exists."""


class Conflict(StoreError):
    """The object was written since it was read: read it again."""


class WatchExpired(StoreError):
    """The changes since that revision are no longer kept: list again."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written now; a retry can help."""


class StoreDenied(StoreUnavailable):
    """The store does not accept our credentials, or they lack the right."""


class Unreadable(StoreUnavailable):
    """The object is there, but is not what it should be; somebody has to mend or delete it."""


class RemovalError(NodeobsError):
    """An uninstallation stopped on the way; ``hint`` says what to do. What was done is not done again."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class RemovalRefused(RemovalError):
    """Going on would lose something, or be undone."""


class RemovalTimedOut(RemovalError):
    """The service does not end."""


class LeadershipLost(NodeobsError):
    """Another process drives Runs now; nothing more may be written."""


class AgentError(NodeobsError):
    """One agent, or one piece of its work, failed; ``reason`` is from the closed set."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class AgentUnavailable(AgentError):
    """No usable answer this time; another try can help.

    ``sent`` says whether the agent may have received the request.
    """

    def __init__(self, reason: FailureReason, message: str, *, sent: bool) -> None:
        super().__init__(reason, message)
        self.sent = sent


class AgentBusy(AgentError):
    """The agent has another collection going; ``holder`` is its id."""

    def __init__(self, reason: FailureReason, message: str, *, holder: str) -> None:
        super().__init__(reason, message)
        self.holder = holder


class OutputError(NodeobsError):
    """Base of what the output store raises."""


class OutputNotFound(OutputError):
    """No such output, or no such file in it."""


class OutputStoreFull(OutputError):
    """No space left where outputs are kept."""


class OutputStoreUnavailable(OutputError):
    """The output store cannot be reached or written; a retry can help."""


class ProfileError(NodeobsError):
    """Not a pprof profile, or one that cannot be merged with the others."""


class ProfilerInUse(NodeobsError):
    """The process is being profiled already; the text is Go's."""
