"""What a command can end with: exit codes, and failures that carry one.

::

    NodeobsError
    └── Failure                carries its exit code, a hint, and the service's problem where there is one
        └── Unavailable        the service cannot be reached or cannot answer now; trying again can help
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from nodeobs.errors import NodeobsError


class ExitCode(enum.IntEnum):
    """Documented in ``nodeobs --help`` and docs/cli.md; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DEGRADED = 3
    REFUSED = 4
    NOT_FOUND = 5
    UNREACHABLE = 6
    TIMED_OUT = 124
    INTERRUPTED = 130


class Failure(NodeobsError):
    """A command that could not do its work; the text says what was wrong, ``hint`` what to do."""

    def __init__(
        self,
        detail: str,
        *,
        exit_code: ExitCode = ExitCode.FAILED,
        hint: str = "",
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.exit_code = exit_code
        self.hint = hint
        self._problem = problem or {}

    def problem(self) -> dict[str, Any]:
        """Problem document (RFC 9457): the service's where it sent one, with ``hint`` and ``exitCode``."""
        own = {
            "type": "about:blank",
            "title": self.exit_code.name.replace("_", " ").capitalize(),
            "detail": self.detail,
        }
        hint = {"hint": self.hint} if self.hint else {}
        return own | dict(self._problem) | hint | {"exitCode": int(self.exit_code)}


class Unavailable(Failure):
    """The service cannot be reached, or cannot answer now; trying again can help."""

    def __init__(self, detail: str, *, hint: str = "", problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail, exit_code=ExitCode.UNREACHABLE, hint=hint, problem=problem)
