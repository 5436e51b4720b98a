"""What the web layer works with, made by the composition root and handed to the application."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from datetime import datetime

from flask import current_app

from nodeobs.agents.via import EVERY_VIA
from nodeobs.metrics import Metrics
from nodeobs.model import Run
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.admission import Admission
from nodeobs.runs.rulesfile import RulesFile
from nodeobs.selfprofile import SelfProfiler
from nodeobs.settings import Settings
from nodeobs.store.base import Admit, Store
from nodeobs.web.access import Access
from nodeobs.web.slots import Slots

THREADS = 128
"""Of the server's pool. What may wait for long gets a part of it; the rest stays free for everything else."""

_LONG_POLLS = 48
_DOWNLOADS = 24
_LARGE_CONVERSIONS = 1
_LARGE_REVIEWS = 8


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that a request may need; ``current_app.extensions["nodeobs"]``."""

    settings: Settings
    store: Store
    outputs: OutputStore
    metrics: Metrics
    rules: RulesFile
    access: Access
    admit: Callable[[Run], Admit]
    now: Callable[[], datetime]
    suffix: Callable[[], str]
    """Random end of a generated name: lower-case letters and digits."""
    drive: Callable[[threading.Event], None]
    """Carries Runs until the event is set; the server gives it a thread of its own."""
    vias: Container[str] = EVERY_VIA
    """The ways by which profiles can come in this mode: what a NodeObservability's ``spec.via`` may be."""
    admission: Admission | None = None
    """In a cluster: what the API server asks; the webhooks are there only then."""
    profiler: SelfProfiler = field(default_factory=SelfProfiler)
    stop: threading.Event = field(default_factory=threading.Event)
    """Set once, when the process is to end: streams and long polls end then."""
    long_polls: Slots = field(default_factory=lambda: Slots(_LONG_POLLS, what="long polls"))
    downloads: Slots = field(default_factory=lambda: Slots(_DOWNLOADS, what="downloads"))
    creations: Slots = field(default_factory=lambda: Slots(THREADS, what="creations of Runs"))
    """In a cluster fewer: each waits for the API server, which waits for our own answer to its admission review."""
    large_conversions: Slots = field(default_factory=lambda: Slots(_LARGE_CONVERSIONS, what="large conversions"))
    large_reviews: Slots = field(default_factory=lambda: Slots(_LARGE_REVIEWS, what="large reviews"))
    """Whoever asks for these has no credentials, and a document takes seven times its size in memory."""


def services() -> Services:
    """Services of the application that answers the current request."""
    found: Services = current_app.extensions["nodeobs"]
    return found
