"""Custom resources as people write them, in any version."""

from __future__ import annotations

import json
from typing import Any

from nodeobs.kube.client import KubeClient
from nodeobs.model import GROUP, Run


def path(kind: str, version: str, namespace: str = "") -> str:
    plural = {"NodeObservability": "nodeobservabilities"}.get(kind, f"{kind.lower()}s")
    within = f"/namespaces/{namespace}" if kind == Run.KIND else ""
    return f"/apis/{GROUP}/{version}{within}/{plural}"


class Objects:
    """Objects of one kind, in one version and (if they have one) namespace."""

    def __init__(self, client: KubeClient, kind: str, version: str, namespace: str) -> None:
        self._client = client
        self._path = path(kind, version, namespace)
        self._known = {"apiVersion": f"{GROUP}/{version}", "kind": kind}

    def create(self, spec: dict[str, Any], name: str = "x") -> dict[str, Any]:
        body = {**self._known, "metadata": {"name": name}, "spec": spec}
        return dict(json.loads(self._client.request("POST", self._path, body)))

    def delete(self, name: str = "x") -> None:
        self._client.request("DELETE", f"{self._path}/{name}")

    def patch(self, spec: dict[str, Any], name: str = "x") -> dict[str, Any]:
        merge = "application/merge-patch+json"
        return dict(
            json.loads(self._client.request("PATCH", f"{self._path}/{name}", {"spec": spec}, content_type=merge))
        )
