"""Which cluster a command is about, and where in it the service is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SERVICE = "nodeobs"
"""Name of the Service in front of nodeobs."""
SERVICE_PORT = 443
SERVICE_ACCOUNT = "nodeobs-viewer"


@dataclass(frozen=True)
class ClusterPlace:
    """What a person said about the cluster; kubectl's own defaults for the rest."""

    program: str = "nodeobs"
    """How the command line was called."""
    kubeconfig: Path | None = None
    context: str | None = None
    service_namespace: str = "nodeobs"
    service_account: str | None = None
    """Whose token is asked for; None: one is asked for only where the kubeconfig has no token."""

    def options(self) -> list[str]:
        """Options by which kubectl, or another command of ours, finds the same cluster."""
        given = {"--kubeconfig": self.kubeconfig, "--context": self.context}
        return [part for option, value in given.items() if value for part in (option, str(value))]

    def command(self, verb: str, run: str = "") -> str:
        """A command about a Run, or all, in the same cluster, as a person would type it."""
        return " ".join(part for part in [self.program, verb, run, *self.options()] if part)
