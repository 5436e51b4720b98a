"""What the client commands need of wherever Runs and their outputs are: the service's HTTP API, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from nodeobs.cli.service import RunRef, Service
from nodeobs.model import NodeObservability, Run


class Backend(Protocol):
    """Runs, and where to get what they left behind.

    Raises (every call): ``Unavailable`` where nothing answers now, ``Failure`` where it refuses or answers nonsense;
    ``exit_code`` tells which.
    """

    @property
    def namespace(self) -> str:
        """Namespace that is meant where none is given; empty where that is all of them."""
        ...

    def now(self) -> datetime:
        """Its clock."""
        ...

    def runs(self, **filters: str) -> tuple[Run, ...]:
        """Runs, newest first; ``filters`` are namespace, nodeObservability, phase, limit."""
        ...

    def run(self, ref: RunRef, *, wait: float = 0.0, version: str = "") -> Run:
        """The Run; with ``wait`` (seconds) and ``version``, as soon as it differs from that resourceVersion."""
        ...

    def start(self, document: Mapping[str, Any]) -> Run:
        """Create a Run from its ``metadata`` and ``spec``."""
        ...

    def cancel(self, ref: RunRef) -> Run:
        """Ask for the Run's end."""
        ...

    def delete(self, ref: RunRef) -> Run | None:
        """Delete the Run; None when it is gone, the Run where it is cancelled first."""
        ...

    def observabilities(self) -> tuple[NodeObservability, ...]:
        """Every NodeObservability."""
        ...

    def outputs(self) -> Service:
        """What has the outputs. It is reached when it is asked for: listing Runs needs none."""
        ...
