"""The manifest: what a Run left behind, node by node. It is written last; its presence means the output is complete.

Messages are whole here; the Run's status has them cut.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from nodeobs.model import Document, FailureReason, ProfileType, RunSummary, TriggerKind

Instant = Annotated[datetime, Meta(tz=True)]
Size = Annotated[int, Meta(ge=0)]

MANIFEST_NAME = "manifest.json"
MERGED = "merged"
"""Folder of the merged profiles, beside those of the nodes."""


class ManifestRun(Document, frozen=True, kw_only=True):
    """The Run that the output belongs to."""

    namespace: str
    name: str
    uid: str
    node_observability: str
    trigger: TriggerKind
    trigger_name: str = ""
    """The trigger rule's name, for alerts."""
    profiles: tuple[ProfileType, ...]
    targets: tuple[str, ...] = ()
    """Empty: all of the NodeObservability's."""
    duration_seconds: int


class Piece(Document, frozen=True, kw_only=True):
    """One target's one profile from one node: the file, or why there is none."""

    target: str
    profile: ProfileType
    file: str | None = None
    """Name within the output: ``node/target-profile.pb.gz``."""
    bytes: Size = 0
    sha256: str = ""
    started_at: Instant | None = None
    seconds: float = 0.0
    build_id: str = ""
    """Build id of the profiled program, where the profile tells it."""
    reason: FailureReason | None = None
    message: str = ""


class NodeResult(Document, frozen=True, kw_only=True):
    """One node's part; ``reason`` is set where the node delivered nothing."""

    name: str
    ip: str = ""
    port: int = 0
    reason: FailureReason | None = None
    message: str = ""
    started_at: Instant | None = None
    """By the service's clock: the clocks' difference is taken out."""
    clock_offset_seconds: float = 0.0
    """The node's clock minus the service's."""
    late: bool = False
    """The common start instant had passed when the agent was reached."""
    upstream: bool = False
    """The agent speaks upstream's endpoints only; its files stay on the node."""
    pieces: tuple[Piece, ...] = ()


class SkippedInput(Document, frozen=True, kw_only=True):
    """A node's profile that could not be merged with the others'."""

    node: str
    message: str


class MergedFile(Document, frozen=True, kw_only=True):
    """One target's one profile merged over the nodes; every sample has a label ``node``."""

    target: str
    profile: ProfileType
    file: str | None = None
    """Name within the output: ``merged/target-profile.pb.gz``."""
    bytes: Size = 0
    sha256: str = ""
    nodes: tuple[str, ...] = ()
    skipped: tuple[SkippedInput, ...] = ()
    error: str = ""
    """Why there is no file."""


class Manifest(Document, frozen=True, kw_only=True):
    """``manifest.json``."""

    version: Literal[1] = 1
    run: ManifestRun
    cancelled: bool = False
    started_at: Instant | None = None
    finished_at: Instant
    summary: RunSummary
    nodes: tuple[NodeResult, ...] = ()
    merged: tuple[MergedFile, ...] = ()


class HeadRun(Document, frozen=True, kw_only=True):
    """Whose an output is."""

    uid: str
    node_observability: str


class ManifestHead(Document, frozen=True, kw_only=True):
    """As much of a manifest as retention has to know, read without the rest."""

    version: Literal[1] = 1
    run: HeadRun
    finished_at: Instant
    summary: RunSummary = RunSummary()
