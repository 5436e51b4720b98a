"""Files on their way into the spool: whole, or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nodeobs.agents.agent import Agent
from nodeobs.errors import AgentError
from nodeobs.model import FailureReason

MAX_FILE_BYTES = 2**30
"""A larger file is refused: one node must not fill the spool that all share."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def spooled(agent: Agent, final: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at ``final`` when the block has ended, and nowhere when it has failed.

    Raises:
        AgentError: StorageFull, or Internal (the spool cannot be written).
    """
    part = final.with_name(f"{final.name}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
        # Not synced to the disk: after a crash it is looked at before it is used.
        part.replace(final)
    except OSError as error:
        reason = FailureReason.STORAGE_FULL if error.errno in _FULL else FailureReason.INTERNAL
        what = f"cannot keep {final.name} in the spool {final.parent}: {os.strerror(error.errno or 0)}"
        raise AgentError(reason, f"{agent}: {what}: free space there, or check its rights") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
