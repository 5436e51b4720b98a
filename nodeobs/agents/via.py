"""What ``spec.via`` of a NodeObservability can say, and what goes with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nodeobs.debugpprof import KUBELET
from nodeobs.model import NodeObservabilitySpec

AGENTS: Final = "agents"
API_SERVER: Final = "apiServer"
EVERY_VIA: Final = frozenset({AGENTS, API_SERVER})

NEEDS_CLUSTER: Final = (
    "via 'apiServer' needs a cluster, and this service runs by itself (mode standalone): only 'agents' is possible here"
)


def beyond_kubelet(spec: NodeObservabilitySpec) -> Iterator[tuple[int, str]]:
    """Targets that cannot be had via apiServer: the index of each, and why."""
    for index, target in enumerate(spec.targets if spec.via == API_SERVER else ()):
        if target.name != KUBELET:
            yield index, f"target {target.name} is not profiled: only the kubelet is, via apiServer"
        elif target.url or target.socket:
            yield index, "target kubelet may have no address: via apiServer, the API server knows where it is"
