"""What the service and an agent say to each other (the agent's ``/v1`` calls).

All instants are UTC. An agent ignores fields it does not know, so that it works with a service one minor version
older or newer.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated

from msgspec import Meta

from nodeobs.model.documents import Document
from nodeobs.model.fields import DurationSeconds, PathSegment, TargetName
from nodeobs.model.reasons import FailureReason
from nodeobs.model.resources import ProfileType

Instant = Annotated[datetime, Meta(tz=True)]
Message = Annotated[str, Meta(max_length=4096)]


class CollectionRequest(Document, frozen=True, kw_only=True):
    """Body of ``POST /v1/collections``. The agent starts at receipt + (startAt - sentAt) on its monotonic clock."""

    id: PathSegment
    targets: Annotated[tuple[TargetName, ...], Meta(max_length=64)] = ()
    """Empty: all of the agent's targets."""
    profiles: Annotated[tuple[ProfileType, ...], Meta(min_length=1, max_length=8)] = (ProfileType.CPU,)
    duration_seconds: DurationSeconds = 30
    start_at: Instant | None = None
    sent_at: Instant | None = None


class CollectionState(enum.StrEnum):
    """Scheduled and Running are going; the others are final."""

    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    DONE = "Done"
    CANCELLED = "Cancelled"
    FAILED = "Failed"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (CollectionState.SCHEDULED, CollectionState.RUNNING)


class PieceState(enum.StrEnum):
    """State of one target's one profile."""

    PENDING = "Pending"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


class FileInfo(Document, frozen=True, kw_only=True):
    """A file that the agent holds, whole."""

    name: PathSegment
    bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class PieceResult(Document, frozen=True, kw_only=True):
    """One target's one profile: the file, or why there is none."""

    target: TargetName
    profile: ProfileType
    state: PieceState = PieceState.PENDING
    file: FileInfo | None = None
    reason: FailureReason | None = None
    message: Message = ""
    started_at: Instant | None = None
    seconds: float = 0.0


class Collection(Document, frozen=True, kw_only=True):
    """An agent's part of a Run, as ``GET /v1/collections/{id}`` answers it.

    ``Done`` means every piece is Done or Failed; ``Failed`` that the collection as a whole could not go on (for
    example ``AgentRestarted``), with ``reason`` saying why; pieces that were done before are kept.
    """

    id: PathSegment
    state: CollectionState
    now: Instant
    """The agent's clock when it answered."""
    received_at: Instant
    """The agent's clock when the start was received; minus ``sentAt`` it is the clocks' difference."""
    started_at: Instant | None = None
    finished_at: Instant | None = None
    late: bool = False
    """The start instant had passed when the request came; it was started at once."""
    duration_seconds: DurationSeconds = 30
    reason: FailureReason | None = None
    message: Message = ""
    pieces: tuple[PieceResult, ...] = ()


class TargetInfo(Document, frozen=True, kw_only=True):
    """One row of ``GET /v1/targets``."""

    name: TargetName
    endpoint: str
    """Where it is asked, without credentials: ``https://10.0.0.7:10250`` or ``unix:/run/crio/crio.sock``."""
    available: bool
    reason: FailureReason | None = None
    message: Message = ""


class TargetList(Document, frozen=True, kw_only=True):
    """Body of ``GET /v1/targets``."""

    targets: tuple[TargetInfo, ...] = ()


def file_name(target: str, profile: ProfileType) -> str:
    """Name of a piece's file: ``kubelet-cpu.pb.gz``; an execution trace is not pprof and ends in ``.trace``."""
    return f"{target}-{profile}.trace" if profile is ProfileType.TRACE else f"{target}-{profile}.pb.gz"
