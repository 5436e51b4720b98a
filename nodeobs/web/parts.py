"""What differs between the modes: the service's parts that the composition root chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.via import AGENTS, EVERY_VIA
from nodeobs.agents.ways import Way
from nodeobs.runs.announcements import Recorder
from nodeobs.runs.controller import Leadership
from nodeobs.store.base import Store
from nodeobs.web.access import Access
from nodeobs.web.services import THREADS

if TYPE_CHECKING:
    from nodeobs.runs.admission import Admission

Background = Callable[[threading.Event], None]
"""Body of a thread that ends soon after the event is set."""


def _start_nothing(_stack: ExitStack, _stop: threading.Event) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One mode's parts. Making them starts nothing and asks nobody."""

    store: Store
    leadership: Leadership
    access: Access
    connector: AgentConnector
    agents: Callable[[str], Sequence[Agent]]
    """The nodes and their agents as they are now, by the NodeObservability's name; raises StoreUnavailable where they
    cannot be read."""
    node_proxy: Way | None = None
    """How kubelets are asked without agents, where that is possible."""
    settling_seconds: float = 0.0
    """How long after its creation the agents of a NodeObservability are waited for."""
    recorder: Recorder | None = None
    admission: Admission | None = None
    creations: int = THREADS
    """Runs that may be in creation at once."""
    beside_leading: tuple[Background, ...] = ()
    start: Callable[[ExitStack, threading.Event], None] = _start_nothing
    """Start what every replica runs; the stack ends it."""

    @property
    def vias(self) -> frozenset[str]:
        """What a NodeObservability's ``spec.via`` may be in this mode."""
        return frozenset({AGENTS}) if self.node_proxy is None else EVERY_VIA
