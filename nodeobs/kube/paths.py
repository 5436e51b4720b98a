"""Where the API server keeps what nodeobs reads and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from nodeobs.errors import NotFound
from nodeobs.model import API_VERSION

# Wider than a DNS name, as some built-in kinds allow more; never a slash, '.' or '..', which would lead elsewhere.
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._:-]{1,253}", re.ASCII)


@dataclass(frozen=True)
class ResourcePath:
    """One kind of objects: ``/apis/<group>/<version>`` (``/api/v1`` for the core group), and its plural."""

    root: str
    plural: str

    def collection(self, namespace: str = "") -> str:
        """Path of all objects, or of those in a namespace.

        Raises:
            NotFound: no namespace can have that name.
        """
        within = f"/namespaces/{self._segment(namespace)}" if namespace else ""
        return f"{self.root}{within}/{self.plural}"

    def item(self, name: str, namespace: str = "", *, subresource: str = "") -> str:
        """Path of one object, or of a subresource of it such as ``status``.

        Raises:
            NotFound: no object can have that name.
        """
        path = f"{self.collection(namespace)}/{self._segment(name)}"
        return f"{path}/{subresource}" if subresource else path

    def _segment(self, name: str) -> str:
        if not _SEGMENT.fullmatch(name):
            raise NotFound(f"there is nothing called {name[:253]!a} among {self.plural}: that is no name")
        return name


RUNS: Final = ResourcePath(f"/apis/{API_VERSION}", "nodeobservabilityruns")
OBSERVABILITIES: Final = ResourcePath(f"/apis/{API_VERSION}", "nodeobservabilities")
MACHINE_CONFIGS: Final = ResourcePath(f"/apis/{API_VERSION}", "nodeobservabilitymachineconfigs")
CONFIG_MAPS: Final = ResourcePath("/api/v1", "configmaps")
EVENTS: Final = ResourcePath("/api/v1", "events")
NODES: Final = ResourcePath("/api/v1", "nodes")
PODS: Final = ResourcePath("/api/v1", "pods")
ENDPOINT_SLICES: Final = ResourcePath("/apis/discovery.k8s.io/v1", "endpointslices")
